"""The connections of an address pair: the legs of the way that its messages take."""

from __future__ import annotations

from rdstool.protocol.kinds import MessageKind, Transport
from rdstool.validate.check import Context
from rdstool.validate.rules.delivery.arrival import closed_at_once
from rdstool.validate.rules.delivery.journal import Journal, Kept, RoundTrip
from rdstool.validate.rules.delivery.lanes import Binder
from rdstool.validate.rules.delivery.parts import Leg, Refusal
from rdstool.validate.view import BIGGEST


class Legs:
    """All connections of the pair, with what they tell together."""

    def __init__(self, context: Context, journal: Journal, numbers: list[int]) -> None:
        self._context = context
        self._connections = context.connections
        first = context.streams[numbers[0]]
        self._larger = first.address_pair[1]
        self._tcp = first.transport is Transport.TCP
        self.numbers = numbers
        """Numbers of the connections, oldest first."""
        self.kept = {flow: journal.flow(flow) for number in numbers for flow in (2 * number, 2 * number + 1)}
        """What each direction carried; None: nothing."""
        self.forgotten = any(journal.forgot(flow) for flow in self.kept)
        """Too much was forgotten to tell anything."""
        self.from_start = self._begins()
        """The capture holds all that the two ends ever sent each other, as far as can be told."""
        self.trips = self._round_trips()
        """To the smaller address and back, and to the larger."""
        self.binder = Binder(self._connections, sure_only=not self.from_start)
        self._spoke = self._first_words()
        """Frames of the first message of the smaller and of the larger address; 0: none."""

    def of(self, number: int) -> list[Leg]:
        """The directions of a connection that carried anything."""
        flows = (2 * number, 2 * number + 1)
        return [self._leg(flow, one) for flow in flows if (one := self.kept[flow]) is not None]

    def end_of(self, flow: int) -> int:
        """Which end sends a flow: 0 for the smaller address."""
        source, _ = self._context.streams[flow >> 1].ends(flow & 1)
        return int(source.address == self._larger)

    def flow_of(self, number: int, end: int) -> int:
        """What an end sends on a connection."""
        return 2 * number + int(self.end_of(2 * number) != end)

    def all_kept(self, leg: Leg) -> bool:
        """All that the lane sent before is known, so that an earlier copy would be."""
        flows = [self.flow_of(number, leg.lane.end) for number in leg.lane.streams[:-1]]
        kept = [self.kept[flow] for flow in flows]
        # What InfiniBand sent last, and nobody acknowledged, may not be there.
        return self._tcp and self.from_start and all(one is not None and one.all for one in kept)

    def _begins(self) -> bool:
        """The capture began before the first connection of the pair: those of before the first cut number from 1."""
        streams = [self._context.streams[number] for number in self.numbers]
        closed = (self._connections.closed.get(number) for number in self.numbers)
        ends = [one.frame for one in closed if one is not None]
        first_cut = min(ends, default=BIGGEST)
        early = [2 * stream.number + way for stream in streams if stream.first_frame < first_cut for way in (0, 1)]
        first = [one.sent[0] for flow in early if (one := self.kept[flow]) is not None]
        numbered = all(sent.sequence <= 1 and not sent.flagged for sent in first)
        return numbered and all(stream.from_start for stream in streams)

    def _first_words(self) -> tuple[int, int]:
        """The frames in which the smaller and the larger address first sent each other a message; 0: never."""
        first = [0, 0]
        for flow in self.kept:
            end, frame = self.end_of(flow), self._connections.first_frame.one(flow)
            if frame and not 0 < first[end] < frame:
                first[end] = frame
        return first[0], first[1]

    def _round_trips(self) -> tuple[RoundTrip, RoundTrip]:
        trips = [RoundTrip(), RoundTrip()]
        for flow, one in self.kept.items():
            if one is not None and self._tcp:
                receiver = 1 - self.end_of(flow)
                trips[receiver] = trips[receiver].joined(one.trip)
        return trips[0], trips[1]

    def _leg(self, flow: int, kept: Kept) -> Leg:
        stream = self._context.streams[flow >> 1]
        lane, known, proved = self.binder.bind(stream, self.end_of(flow), kept.sent)
        ended, heard = self._connections.ended.get(flow ^ 1), bool(self._connections.first_frame.one(flow ^ 1))
        return Leg(stream.number, flow, lane, known, proved, kept, self._refusal(flow, kept, heard=heard), ended, heard)

    def _refusal(self, flow: int, kept: Kept, *, heard: bool) -> Refusal:
        """The connection ended, and RDS had not come up on it at the receiver.

        Only on path 0 is a bitmap certain to come first (protocol.md §3.3): the connection has to carry a probe, or to
        stand before everything that the receiver ever sent to this address.
        """
        number = flow >> 1
        closed = self._connections.closed.get(number)
        if heard or closed is None or not self._context.streams[number].from_start:
            return Refusal.NONE
        probes = any(one.kind == MessageKind.PROBE for one in kept.sent)
        if closed.direction != flow & 1 and probes:
            return Refusal.CERTAIN
        receiver = 1 - self.end_of(flow)
        if self.from_start and not 0 < self._spoke[receiver] < closed.frame:
            return Refusal.CERTAIN
        opened, ended = self._connections.opened.get(number), self._connections.ended.get(flow ^ 1)
        if closed_at_once(kept.sent[0], opened, ended, self.trips[receiver]):
            return Refusal.LIKELY
        return Refusal.NONE
