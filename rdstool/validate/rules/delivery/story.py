"""What became of the messages of one address pair, over all its connections.

Every message is followed from its first sending over all connections of its path. A model of the receiver, the
duplicate rule of :mod:`rdstool.protocol.receive_rule` for each of its paths, tells what happens to each copy.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rdstool.protocol.kinds import MessageKind, Transport
from rdstool.protocol.receive_rule import Expected, Verdict
from rdstool.validate.check import Context
from rdstool.validate.rule import Rule, Severity
from rdstool.validate.rules.delivery.arrival import came_too_late, was_told
from rdstool.validate.rules.delivery.journal import Sent
from rdstool.validate.rules.delivery.lanes import Lane
from rdstool.validate.rules.delivery.legs import Legs
from rdstool.validate.rules.delivery.parts import Copy, Leg, Refusal
from rdstool.validate.rules.delivery.rules import (
    DIFFERENT,
    EXCHANGED,
    LOST,
    MAYBE_LOST,
    MAYBE_TWICE,
    NEVER_SEEN,
    NOT_RESENT,
    NUMBERING,
    REFUSED,
    REORDERED,
    TWICE,
    UNFLAGGED,
)
from rdstool.validate.rules.delivery.words import flagged
from rdstool.validate.view import BIGGEST

ENOUGH_MESSAGES = 4
"""That a connection which still lives has to carry before its path is guessed by sockets and numbers."""
_HANDSHAKE = (MessageKind.PROBE, MessageKind.PROBE_REPLY)


@dataclass(frozen=True, slots=True)
class Found:
    """What a rule is to say of a sending."""

    rule: Rule
    sent: Sent
    text: str
    severity: Severity | None = None


@dataclass(slots=True)
class Generations:
    """What hosts announce of themselves."""

    told: dict[bytes, list[tuple[int, int]]] = field(default_factory=dict)
    """Address -> (frame, generation) each time that it was another one."""


class Story:
    """All that is known of an address pair. ``follow`` fills ``found``."""

    def __init__(self, context: Context, legs: Legs, generations: Generations) -> None:
        self.found: list[Found] = []
        self.repeated: list[tuple[Sent, Sent]] = []
        """Copies of one message, whose payload should be the same."""
        self._context = context
        self._connections = context.connections
        self._words = context.words
        self._generations = generations
        self._legs = legs
        self._expected: dict[Lane, Expected] = {}
        """Numbers that are expected, by the receiving end's lane."""
        self._partner: dict[Lane, Lane] = {}
        """The other end's lane on the latest connection."""
        self._unplaced: list[Leg] = []
        """Connections of which it is not known which path of the receiver they served."""
        self._copies: dict[tuple[Lane, int], list[Copy]] = {}
        self._delivered: dict[tuple[Lane, int, int], tuple[int, int]] = {}
        """(lane, sport, dport) -> highest number delivered, and its frame."""

    def follow(self) -> None:
        """Take the connections of the pair, oldest first."""
        for number in self._legs.numbers:
            legs = self._legs.of(number)
            self._pairing(legs)
            # Until the other end speaks on it, too, it is not known which of its paths it serves.
            both = len(legs) == 2 or number in self._connections.closed
            settled = both and all(self._settled(leg) for leg in legs)
            for leg in legs:
                other = next((one.lane for one in legs if one is not leg), None)
                if other is None and self._legs.binder.keeps_paths(self._context.streams[number]):
                    other = self._partner.get(leg.lane)
                self._carry(leg, other, settled=settled)
        for lane in (*self._legs.binder.lanes[0], *self._legs.binder.lanes[1]):
            self._unsent(lane)
        self._unread()
        for end in (0, 1) if self._legs.from_start else ():
            self._overtaken(end)

    # Connections.

    def _pairing(self, legs: list[Leg]) -> None:
        if len(legs) < 2:
            return
        first, second = legs
        before = self._partner.get(first.lane)
        if before is not None and before is not second.lane and first.known and second.known:
            old = [number for number in first.lane.streams[:-1] if number in before.streams][-1:]
            text = (
                f"{self._words.ends(first.flow)} goes on from stream {first.lane.streams[-2]}, "
                f"{self._words.ends(second.flow)} from stream {second.lane.streams[-2]}"
            )
            self._say(EXCHANGED, first.sent[0], text + (f"; together they were on stream {old[0]}" if old else ""))
        self._partner[first.lane], self._partner[second.lane] = second.lane, first.lane

    # Messages.

    def _settled(self, leg: Leg) -> bool:
        """Which path it is will hardly turn out to be another when more of the connection comes."""
        if not self._legs.from_start:
            return leg.known and leg.proved
        return leg.proved or leg.stream in self._connections.closed or len(leg.sent) >= ENOUGH_MESSAGES

    def _carry(self, leg: Leg, receiver: Lane | None, *, settled: bool) -> None:
        """Follow the messages of a connection to the path of the receiver that it serves."""
        lane = leg.lane
        expected: Expected | None = None
        if receiver is not None:
            expected = self._expected.setdefault(receiver, self._first_expected(leg))
        else:
            self._place_anywhere(leg)
        again = len(lane.streams) > 1
        if again and leg.known:
            self._continues(leg)
        restarted = again and leg.sent[0].sequence == 1 and not leg.sent[0].flagged and lane.highest > 1
        if restarted:
            self._forget(lane)
            if expected is not None:
                expected.low = expected.high = 0
        trip = self._legs.trips[1 - lane.end]
        for sent in leg.sent:
            earlier = self._copies.setdefault((lane, sent.sequence), [])
            late = came_too_late(sent, leg.ended, trip)
            cut_short = not sent.complete and not sent.acked
            missed = leg.refusal is Refusal.CERTAIN or cut_short or late
            # Where the receiver never spoke, perhaps it never took the connection up.
            in_time = leg.ended is None or (leg.heard and sent.acked < leg.ended.frame)
            arrived = not missed and leg.refusal is Refusal.NONE and sent.acked > 0 and in_time
            state = Expected(expected.low, expected.high) if expected is not None else Expected(0, BIGGEST)
            verdict = Verdict.EITHER
            if expected is not None and not missed:
                verdict = expected.receive(sent.sequence, retransmitted=sent.flagged, arrived=arrived)
            copy = Copy(sent, verdict, state, arrived, missed, leg.refusal)
            if again and not restarted and settled:
                self._copy(leg, copy, earlier)
            self._note_delivery(lane, copy)
            earlier.append(copy)
            lane.take(sent)

    def _first_expected(self, leg: Leg) -> Expected:
        """What a path of the receiver expects that was not heard before: it may have served an earlier connection."""
        if not self._legs.from_start:
            return Expected(0, BIGGEST)
        began = self._context.streams[leg.stream].first_frame
        earlier = [one for one in self._unplaced if one.lane.end == leg.lane.end]
        over = [one for one in earlier if self._connections.is_over(one.stream, began)]
        return Expected(0, max((1 + sent.sequence for one in over for sent in one.sent), default=0))

    def _place_anywhere(self, leg: Leg) -> None:
        """Any path of the receiver that was free may have taken these messages."""
        self._unplaced.append(leg)
        began = self._context.streams[leg.stream].first_frame
        for lane, expected in self._expected.items():
            if lane.end != leg.lane.end and self._connections.is_over(lane.streams[-1], began):
                for sent in leg.sent:
                    expected.receive(sent.sequence, retransmitted=sent.flagged, arrived=False)

    def _forget(self, lane: Lane) -> None:
        """The sender has started again: its numbers mean other messages now."""
        lane.copies.clear()
        lane.highest = 0
        self._copies = {key: copies for key, copies in self._copies.items() if key[0] is not lane}
        self._delivered = {key: value for key, value in self._delivered.items() if key[0] is not lane}

    def _continues(self, leg: Leg) -> None:
        """RDS-SEQ-006: the first new message has a number that was not used yet."""
        lane, highest = leg.lane, leg.lane.highest
        new = next((sent for sent in leg.sent if not sent.flagged), None)
        if new is None or new.sequence > highest or not highest:
            return
        if any(copy.same(new) for copy in lane.copies.get(new.sequence, ())) and new.sequence > 1:
            return  # RDS-RTX-001 tells of it.
        if new.sequence == 1 and highest == 1 and lane.has(new):
            return
        source, _ = self._context.streams[leg.stream].ends(leg.flow & 1)
        last = self._connections.last_frame.one(2 * lane.streams[-2] + (leg.flow & 1))
        generations = self._generations.told.get(source.address, [])
        if any(frame > last for frame, _ in generations[1:]):
            return
        if not self._legs.from_start or self._context.continuity.lossy:
            return  # Another generation may have been announced unseen.
        what = "its generation number did not change" if generations else "it announces no generation number"
        text = (
            f"{self._words.ends(leg.flow)} goes on with sequence {new.sequence} after {highest} on stream "
            f"{lane.streams[-2]}; {what}"
        )
        self._say(NUMBERING, new, text, None if generations else Severity.NOTE)

    def _copy(self, leg: Leg, copy: Copy, earlier: list[Copy]) -> None:
        """What the rules say of a sending on a connection that was made again."""
        sent = copy.sent
        before = [one for one in earlier if one.sent.flow != sent.flow]
        reached = [one for one in before if not one.missed]
        if before and not before[-1].sent.same(sent):
            if sent.flagged:
                ports = f"from port {sent.sport} to {sent.dport} with {sent.length} bytes"
                text = f"{self._words.told(before[-1].sent)}; again {self._words.seen(sent)} {ports}"
                self._say(DIFFERENT, sent, text)
            return
        if before and sent.length:
            self.repeated.append((before[-1].sent, sent))
        if not sent.delivered_to_sockets or copy.missed:
            return
        if reached:
            self._repeated(copy, reached)
        elif copy.dropped and (before or self._legs.all_kept(leg)):
            copies = "no copy reached it before" if before else "no copy was sent before"
            self._say(LOST, sent, f"{self._words.name(sent)}: {copies}; {self._fate(copy)}")
        elif copy.delivered:
            self._in_order(leg.lane, copy)

    def _repeated(self, copy: Copy, before: list[Copy]) -> None:
        """``before`` are earlier sendings that may have reached the receiver."""
        sent = copy.sent
        first = self._words.told(before[-1].sent)
        delivered = [one for one in before if one.delivered]
        if not sent.flagged:
            text = f"{first}; seen again {self._words.seen(sent)} not flagged: it is delivered again"
            self._say(UNFLAGGED, sent, text)
        elif copy.delivered and delivered:
            self._say(TWICE, sent, f"{self._words.told(delivered[-1].sent)}; seen again {self._fate(copy)}")
        elif copy.verdict is Verdict.ACCEPTED and not all(one.dropped for one in before):
            self._say(MAYBE_TWICE, sent, f"{first}; seen again {self._fate(copy)}")
        elif copy.dropped and all(one.dropped for one in before):
            self._say(LOST, sent, f"{first}, and dropped; seen again {self._fate(copy)}")
        elif (
            copy.dropped and not delivered and not any(one.verdict is Verdict.EITHER and one.arrived for one in before)
        ):
            self._say(MAYBE_LOST, sent, f"{first}; seen again {self._fate(copy)}")

    def _in_order(self, lane: Lane, copy: Copy) -> None:
        sent = copy.sent
        highest, frame = self._delivered.get((lane, sent.sport, sent.dport), (0, 0))
        if sent.sequence < highest:
            self._say(
                REORDERED,
                sent,
                f"{self._words.name(sent)}: sent {self._words.seen(sent)} {flagged(sent)}, acknowledged in frame "
                f"{sent.acked}; sequence {highest} of the same sockets was delivered in frame {frame}",
            )

    def _note_delivery(self, lane: Lane, copy: Copy) -> None:
        sent = copy.sent
        key = lane, sent.sport, sent.dport
        if copy.delivered and sent.sequence > self._delivered.get(key, (0, 0))[0]:
            self._delivered[key] = sent.sequence, sent.frame

    # When all connections were followed.

    def _unsent(self, lane: Lane) -> None:
        """What a cut left unacknowledged, and what is missing between two connections."""
        for old, new in zip(lane.streams, lane.streams[1:], strict=False):
            before, after = (self._legs.kept[self._legs.flow_of(number, lane.end)] for number in (old, new))
            if before is None or after is None or (after.sent[0].sequence == 1 and not after.sent[0].flagged):
                continue
            highest = max(one.sequence for one in after.sent)
            later = set(lane.streams[lane.streams.index(new) :])
            # InfiniBand learns from the first frames of the new connection what had arrived on the old one.
            learnt = after.last_ack if self._context.streams[new].transport is Transport.IB else 0
            for one in before.sent:
                open_still = not one.acked and one.end > learnt and one.sequence < highest
                if not open_still or not one.delivered_to_sockets:
                    continue
                again = any(copy.flow >> 1 in later for copy in lane.copies.get(one.sequence, ()))
                if not again and not self._context.continuity.lossy:
                    text = f"{self._words.told(one)}; stream {new} carries numbers up to {highest}, but not this one"
                    self._say(NOT_RESENT, one, text)
            last = max(one.sequence for one in before.sent)
            first_new = min((one.sequence for one in after.sent if one.sequence > last), default=last + 1)
            if first_new > last + 1:
                one = after.sent[0]
                text = f"stream {old} ended with sequence {last}, stream {new} goes on with {first_new}"
                self._say(NEVER_SEEN, one, f"{self._words.ends(one.flow)}: {text}")

    def _unread(self) -> None:
        """Acknowledged on a connection that RDS did not take up, and nowhere else."""
        for (lane, _), copies in self._copies.items():
            last = next((one for one in reversed(copies) if self._forgotten(one.sent)), None)
            if last is None or not last.sent.delivered_to_sockets or not all(one.unread for one in copies):
                continue
            if not lane.went_on_behind(copies[-1].sent):
                continue  # It may still be sent again.
            closed = self._connections.closed.get(last.sent.flow >> 1)
            if last.refusal is Refusal.NONE or closed is None:
                continue
            sure = all(one.missed for one in copies)
            text = f"{self._words.told(last.sent)}; the connection ended in frame {closed.frame} ({closed.word}), "
            text += "and the receiver had sent nothing on it"
            if not sure:
                text += ": it closed it as soon as it can have accepted it"
            self._say(REFUSED, last.sent, text, None if sure else Severity.WARNING)

    def _forgotten(self, sent: Sent) -> bool:
        """Its sender has learnt of the acknowledgement, and will not send the message again."""
        return was_told(sent, self._connections.ended.get(sent.flow), self._legs.trips[self._legs.end_of(sent.flow)])

    def _overtaken(self, end: int) -> None:
        """Messages on path 0 behind later ones of their socket that took its own path.

        A socket uses path 0 until the handshake is done and never again, so what it has on path 0 is older.
        """
        copies = [(lane, several) for (lane, _), several in self._copies.items() if lane.end == end]
        home = next((lane for lane, several in copies if several[0].sent.kind in _HANDSHAKE), None)
        if home is None:
            return
        arrived: dict[tuple[int, int], Sent] = {}
        for lane, several in copies:
            first = next((one.sent for one in several if one.arrived), None)
            if lane is not home and first is not None and first.kind == MessageKind.DATA:
                sockets = first.sport, first.dport
                if sockets not in arrived or first.frame < arrived[sockets].frame:
                    arrived[sockets] = first
        for lane, several in copies:
            late = next((one.sent for one in several if one.arrived), None)
            if lane is not home or late is None or late.kind != MessageKind.DATA:
                continue
            newer = arrived.get((late.sport, late.dport))
            if newer is not None and newer.frame < late.frame:
                text = (
                    f"{self._words.name(late)}: sent {self._words.seen(late)} {flagged(late)}; message {newer.number} "
                    f"of the same sockets, which was queued later, was sent {self._words.seen(newer)}"
                )
                self._say(REORDERED, late, text)

    def _fate(self, copy: Copy) -> str:
        known = copy.expected.high < BIGGEST
        return self._words.fate(copy.sent, copy.verdict, copy.expected, known=known)

    def _say(self, rule: Rule, sent: Sent, text: str, severity: Severity | None = None) -> None:
        self.found.append(Found(rule, sent, text, severity))
