"""RDS-DLV, and what of RDS-SEQ and RDS-RTX spans connections: what becomes of messages when a connection is cut.

Every message is followed from its first sending over all connections of its path. A model of the receiver, the
duplicate rule of :mod:`rdstool.protocol.receive_rule` for each of its paths, tells what happens to each copy. All of
it needs both sides of the cut, so it is judged at the end of the capture, for address pairs that reconnected.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from dissectors.wire.extensions import GenNum
from rdstool.protocol.kinds import MessageKind, Transport
from rdstool.protocol.receive_rule import Expected, Verdict
from rdstool.validate.check import Batch, Check, Context
from rdstool.validate.connections import Pair
from rdstool.validate.delivery_rules import (
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
from rdstool.validate.journal import Journal, Sent
from rdstool.validate.lanes import Binder, Lane
from rdstool.validate.rule import Rule, Severity

MAX_COMPARED = 4096
"""Pairs of copies whose payloads are compared."""
MAX_FOLLOWED = 8192
"""Connections over which messages are followed, of all address pairs that reconnected."""
MAX_GENERATIONS = 65536
"""Hosts whose generation numbers are followed."""


_HANDSHAKE = (MessageKind.PROBE, MessageKind.PROBE_REPLY)


@dataclass(frozen=True, slots=True)
class _Copy:
    """One sending and what the model says of it."""

    sent: Sent
    verdict: Verdict
    expected: Expected
    arrived: bool
    """Acknowledged while the receiver had not ended the connection: RDS has read it."""
    refused: bool
    """It never reached the receiver's RDS: cut short, or the connection was given up without being read."""

    @property
    def delivered(self) -> bool:
        return self.verdict is Verdict.ACCEPTED and self.arrived

    @property
    def dropped(self) -> bool:
        return self.verdict is Verdict.DROPPED and self.arrived


@dataclass(slots=True)
class _Leg:
    """One direction of one connection."""

    stream: int
    flow: int
    lane: Lane
    known: bool
    """The lane was there before."""
    sent: list[Sent]
    refused: bool
    """The connection ended without a byte of the receiver: RDS never took it up there."""


@dataclass(slots=True)
class _Story:
    """All that is known of an address pair's lanes."""

    spoke: tuple[int, int]
    """Frames of the first message of the smaller and of the larger address; 0: none."""
    expected: dict[Lane, Expected] = field(default_factory=dict)
    """By the receiving end's lane."""
    partner: dict[Lane, Lane] = field(default_factory=dict)
    """The other end's lane on the latest connection."""
    copies: dict[tuple[Lane, int], list[_Copy]] = field(default_factory=dict)
    delivered: dict[tuple[Lane, int, int], tuple[int, int]] = field(default_factory=dict)
    """(lane, sport, dport) -> highest number delivered, and its frame."""


class DeliveryCheck(Check):
    """Keeps the ends of all flows, and judges reconnects when the capture is over."""

    rules = (
        UNFLAGGED,
        DIFFERENT,
        NUMBERING,
        TWICE,
        LOST,
        REORDERED,
        MAYBE_LOST,
        MAYBE_TWICE,
        NOT_RESENT,
        NEVER_SEEN,
        EXCHANGED,
        REFUSED,
    )

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.journal = Journal()
        self._generations: dict[bytes, list[tuple[int, int]]] = {}
        """Address -> (frame, generation) each time that it was another one."""
        self._followed = 0
        self._compare: list[tuple[Sent, Sent]] = []

    def feed(self, batch: Batch) -> None:
        """Only keep."""
        self.journal.add(batch.view, batch.numbered)
        for said in batch.shakes:
            for item in said.items:
                if isinstance(item, GenNum) and item.gen_num:
                    known = self._generations.get(said.source)
                    if known is None and len(self._generations) < MAX_GENERATIONS:
                        self._generations[said.source] = [(said.frame, item.gen_num)]
                    elif known is not None and known[-1][1] != item.gen_num:
                        known.append((said.frame, item.gen_num))

    def finish(self) -> None:
        """Judge each address pair that was connected more than once."""
        connections = self.context.connections
        if not connections.shared:
            return
        self.journal.settle()
        overtaken = self._overtaken_pairs()
        for pair in sorted(connections.shared):
            numbers = connections.pairs[pair]
            if pair in overtaken or connections.made_again(pair) or self._sequential(numbers):
                room = MAX_FOLLOWED - self._followed
                self._followed += min(room, len(numbers))
                self.context.not_followed += max(0, len(numbers) - room)
                self._pair(pair, numbers[:room])
        self._payloads()

    def _overtaken_pairs(self) -> set[Pair]:
        """Pairs in which a socket's messages may be on two paths at one time."""
        streams, pairs = self.context.streams, list(self.context.connections.pairs)
        place = np.zeros(len(streams), np.int64)
        home = np.zeros(len(streams), np.bool_)
        for index, members in enumerate(self.context.connections.pairs.values()):
            place[members], home[members[0]] = index, True
        dialler = np.array([stream.a.address > stream.b.address for stream in streams.streams], np.int64)
        return {pairs[index] for index in self.journal.overtaken(place, home, dialler)}

    def _sequential(self, numbers: list[int]) -> bool:
        """Some connection began after another had spoken its last."""
        earliest_end: int | None = None
        for number in numbers:
            if earliest_end is not None and self.context.streams[number].first_frame > earliest_end:
                return True
            spoke = self.context.connections.spoke(number)
            if spoke is not None:
                earliest_end = spoke[1] if earliest_end is None else min(earliest_end, spoke[1])
        return False

    def _pair(self, pair: Pair, numbers: list[int]) -> None:
        binder, story = Binder(self.context.connections), _Story(self._first_words(numbers, pair))
        for number in numbers:
            legs = self._legs(binder, story, number, pair)
            if legs is None:
                return  # Too much was forgotten to tell anything.
            self._pairing(story, legs)
            for leg in legs:
                other = next((one.lane for one in legs if one is not leg), None)
                receiver = other or story.partner.get(leg.lane)
                self._leg(story, leg, receiver)
        for lane in (*binder.lanes[0], *binder.lanes[1]):
            self._unsent(lane)
        self._unread(story)
        for end in (0, 1):
            self._overtaken(story, end)

    def _legs(self, binder: Binder, story: _Story, number: int, pair: Pair) -> list[_Leg] | None:
        stream = self.context.streams[number]
        legs = []
        for direction in (0, 1):
            flow = 2 * number + direction
            if self.journal.forgot(flow):
                return None
            kept = self.journal.flow(flow)
            sent = kept.sent if kept is not None else []
            if sent:
                source, _ = stream.ends(direction)
                lane, known = binder.bind(stream, int(source.address == pair[1]), sent)
                legs.append(_Leg(number, flow, lane, known, sent, self._refused(story, number, direction, sent, pair)))
        return legs

    def _refused(self, story: _Story, number: int, direction: int, sent: list[Sent], pair: Pair) -> bool:
        """The connection ended, and RDS had not come up on it at the receiver.

        Only on path 0 is a bitmap certain to come first (protocol.md §3.3): the connection has to carry a probe, or to
        stand before everything that the receiver ever sent to this address.
        """
        connections = self.context.connections
        closed = connections.closed.get(number)
        if not self.context.streams[number].from_start:
            return False
        if connections.first_frame.one(2 * number + 1 - direction) or closed is None:
            return False
        if closed.direction != direction and any(one.kind == MessageKind.PROBE for one in sent):
            return True
        receiver = self.context.streams[number].ends(direction)[1].address
        return not 0 < story.spoke[int(receiver == pair[1])] < closed.frame

    def _first_words(self, numbers: list[int], pair: Pair) -> tuple[int, int]:
        """The frames in which the smaller and the larger address first sent each other a message; 0: never."""
        first = [0, 0]
        for number in numbers:
            stream = self.context.streams[number]
            for direction in (0, 1):
                end = int(stream.ends(direction)[0].address == pair[1])
                frame = self.context.connections.first_frame.one(2 * number + direction)
                if frame and not 0 < first[end] < frame:
                    first[end] = frame
        return first[0], first[1]

    def _pairing(self, story: _Story, legs: list[_Leg]) -> None:
        if len(legs) < 2:
            return
        first, second = legs
        before = story.partner.get(first.lane)
        if before is not None and before is not second.lane and first.known and second.known:
            old = [number for number in first.lane.streams[:-1] if number in before.streams][-1:]
            sent = first.sent[0]
            self.report.at(
                EXCHANGED,
                f"{self.who(first.stream, first.flow & 1)} goes on from stream {first.lane.streams[-2]}, "
                f"{self.who(second.stream, second.flow & 1)} from stream {second.lane.streams[-2]}"
                + (f"; together they were on stream {old[0]}" if old else ""),
                sent.frame,
                sent.time,
                stream=first.stream,
                number=sent.number,
            )
        story.partner[first.lane], story.partner[second.lane] = second.lane, first.lane

    def _leg(self, story: _Story, leg: _Leg, receiver: Lane | None) -> None:
        lane, whole = leg.lane, self.journal.whole(leg.flow)
        expected: Expected | None = None
        if receiver is not None:
            expected = story.expected.setdefault(receiver, Expected())
        again = len(lane.streams) > 1
        highest_before = lane.highest
        if again and leg.known and whole:
            self._continues(leg, highest_before)
        restarted = again and leg.sent[0].sequence == 1 and not leg.sent[0].flagged and highest_before > 1
        if restarted:
            lane.copies.clear()
            lane.highest = 0
            story.copies = {key: copies for key, copies in story.copies.items() if key[0] is not lane}
            story.delivered = {key: value for key, value in story.delivered.items() if key[0] is not lane}
            if expected is not None:
                expected.low = expected.high = 0
        ended = self.context.connections.ended.get(leg.flow ^ 1, 0)
        if ended and not self.context.connections.first_frame.one(leg.flow ^ 1):
            ended = 1  # The receiver never spoke on it: perhaps it never took it up.
        for sent in leg.sent:
            earlier = story.copies.setdefault((lane, sent.sequence), [])
            state = Expected(expected.low, expected.high) if expected is not None else Expected()
            verdict = Verdict.EITHER
            arrived = not leg.refused and sent.acked > 0 and not 0 < ended <= sent.acked
            if expected is not None and not leg.refused and (sent.complete or sent.acked):
                verdict = expected.receive(sent.sequence, retransmitted=sent.flagged, arrived=arrived)
            cut_short = not sent.complete and not sent.acked
            copy = _Copy(sent, verdict, state, arrived, leg.refused or cut_short)
            if again and not restarted:
                self._copy(story, leg, copy, earlier, whole)
            self._note_delivery(story, lane, copy)
            earlier.append(copy)
            lane.take(sent)

    def _continues(self, leg: _Leg, highest: int) -> None:
        """RDS-SEQ-006: the first new message has a number that was not used yet."""
        new = next((sent for sent in leg.sent if not sent.flagged), None)
        if new is None or new.sequence > highest or not highest:
            return
        if any(copy.same(new) for copy in leg.lane.copies.get(new.sequence, ())) and new.sequence > 1:
            return  # RDS-RTX-001 tells of it.
        if new.sequence == 1 and highest == 1 and leg.lane.has(new):
            return
        source, _ = self.context.streams[leg.stream].ends(leg.flow & 1)
        last = self.context.connections.last_frame.one(2 * leg.lane.streams[-2] + (leg.flow & 1))
        generations = self._generations.get(source.address, [])
        if any(frame > last for frame, _ in generations[1:]):
            return
        severity = None if generations else Severity.NOTE
        what = "its generation number did not change" if generations else "it announces no generation number"
        self.report.at(
            NUMBERING,
            f"{self.who(leg.stream, leg.flow & 1)} goes on with sequence {new.sequence} after {highest} on stream "
            f"{leg.lane.streams[-2]}; {what}",
            new.frame,
            new.time,
            stream=leg.stream,
            number=new.number,
            severity=severity,
        )

    def _copy(self, story: _Story, leg: _Leg, copy: _Copy, earlier: list[_Copy], whole: bool) -> None:
        sent = copy.sent
        before = [one for one in earlier if one.sent.flow != sent.flow]
        arrived = [one for one in before if not one.refused]
        if before and not before[-1].sent.same(sent):
            if sent.flagged:
                old = before[-1].sent
                self._say(
                    DIFFERENT,
                    sent,
                    f"{self._told(old)}; again {self._seen(sent)} from port {sent.sport} to {sent.dport} with "
                    f"{sent.length} bytes",
                )
            return
        if before and len(self._compare) < MAX_COMPARED and sent.length:
            self._compare.append((before[-1].sent, sent))
        if not sent.delivered_to_sockets or not whole or copy.refused:
            return
        if arrived:
            self._repeated(copy, arrived)
        elif copy.dropped and self._old_whole(leg):
            self._say(LOST, sent, f"{self._name(sent)}: no copy was complete before; {self._fate(copy)}")
        elif copy.dropped:
            text = f"{self._name(sent)}: no copy was seen before, but the capture has holes; {self._fate(copy)}"
            self._say(MAYBE_LOST, sent, text)
        elif copy.delivered:
            self._in_order(story, leg.lane, copy)

    def _repeated(self, copy: _Copy, before: list[_Copy]) -> None:
        sent, old = copy.sent, before[-1].sent
        first = self._told(old)
        delivered = [one for one in before if one.delivered]
        if not sent.flagged:
            self._say(UNFLAGGED, sent, f"{first}; seen again {self._seen(sent)} not flagged: it is delivered again")
        elif copy.delivered and delivered:
            self._say(TWICE, sent, f"{self._told(delivered[-1].sent)}; seen again {self._fate(copy)}")
        elif copy.verdict is Verdict.ACCEPTED and not all(one.dropped for one in before):
            self._say(MAYBE_TWICE, sent, f"{first}; seen again {self._fate(copy)}")
        elif copy.dropped and all(one.dropped for one in before):
            self._say(LOST, sent, f"{first}, and dropped; seen again {self._fate(copy)}")
        elif (
            copy.dropped and not delivered and not any(one.verdict is Verdict.EITHER and one.arrived for one in before)
        ):
            self._say(MAYBE_LOST, sent, f"{first}; seen again {self._fate(copy)}")

    def _in_order(self, story: _Story, lane: Lane, copy: _Copy) -> None:
        sent = copy.sent
        highest, frame = story.delivered.get((lane, sent.sport, sent.dport), (0, 0))
        if sent.sequence < highest:
            self._say(
                REORDERED,
                sent,
                f"{self._name(sent)}: sent {self._seen(sent)} {_flagged(sent)}, acknowledged in frame {sent.acked}; "
                f"sequence {highest} of the same sockets was delivered in frame {frame}",
            )

    @staticmethod
    def _note_delivery(story: _Story, lane: Lane, copy: _Copy) -> None:
        sent = copy.sent
        key = lane, sent.sport, sent.dport
        if copy.delivered and sent.sequence > story.delivered.get(key, (0, 0))[0]:
            story.delivered[key] = sent.sequence, sent.frame

    def _unsent(self, lane: Lane) -> None:
        """What a cut left unacknowledged, and what is missing between two connections."""
        for old, new in zip(lane.streams, lane.streams[1:], strict=False):
            flows = [self._flow_of(number, lane.end) for number in (old, new)]
            kept = [self.journal.flow(flow) for flow in flows]
            if any(one is None or not one.whole for one in kept):
                continue
            sent_old = kept[0].sent if kept[0] else []
            sent_new = kept[1].sent if kept[1] else []
            if not sent_old or not sent_new or (sent_new[0].sequence == 1 and not sent_new[0].flagged):
                continue
            highest = max(one.sequence for one in sent_new)
            after = set(lane.streams[lane.streams.index(new) :])
            # InfiniBand learns from the first frames of the new connection what had arrived on the old one.
            ib = self.context.streams[new].transport is Transport.IB
            learnt = kept[1].last_ack if kept[1] and ib else 0
            for one in sent_old:
                later = any(copy.flow >> 1 in after for copy in lane.copies.get(one.sequence, ()))
                if (
                    not one.acked
                    and one.end > learnt
                    and not later
                    and one.delivered_to_sockets
                    and one.sequence < highest
                ):
                    self._say(
                        NOT_RESENT,
                        one,
                        f"{self._told(one)}; stream {new} carries numbers up to {highest}, but not this one",
                    )
            last = max((one.sequence for one in sent_old), default=0)
            first_new = min((one.sequence for one in sent_new if one.sequence > last), default=last + 1)
            if first_new > last + 1:
                one = sent_new[0]
                self._say(
                    NEVER_SEEN,
                    one,
                    f"{self.who(new, one.flow & 1)}: stream {old} ended with sequence {last}, stream {new} goes on "
                    f"with {first_new}",
                )

    def _unread(self, story: _Story) -> None:
        """Acknowledged on a refused connection, and nowhere else."""
        for copies in story.copies.values():
            last = next((one for one in reversed(copies) if one.sent.acked), None)
            if last is None or not last.sent.delivered_to_sockets or not all(one.refused for one in copies):
                continue
            closed = self.context.connections.closed[last.sent.flow >> 1]
            self._say(
                REFUSED,
                last.sent,
                f"{self._told(last.sent)}; the connection ended in frame {closed.frame} "
                f"({closed.how.value}), and the receiver had sent nothing on it",
            )

    def _overtaken(self, story: _Story, end: int) -> None:
        """Messages on path 0 behind later ones of their socket that took its own path.

        A socket uses path 0 until the handshake is done and never again, so what it has on path 0 is older.
        """
        copies = [(lane, several) for (lane, _), several in story.copies.items() if lane.end == end]
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
                self._say(
                    REORDERED,
                    late,
                    f"{self._name(late)}: sent {self._seen(late)} {_flagged(late)}; message {newer.number} of the same "
                    f"sockets, which was queued later, was sent {self._seen(newer)}",
                )

    def _flow_of(self, number: int, end: int) -> int:
        stream = self.context.streams[number]
        larger = max(stream.a.address, stream.b.address)
        return 2 * number + int((stream.a.address == larger) != bool(end))

    def _old_whole(self, leg: _Leg) -> bool:
        """No hole in what the lane sent before, so that an earlier copy would have been seen."""
        flows = [self._flow_of(number, leg.lane.end) for number in leg.lane.streams[:-1]]
        kept = [self.journal.flow(flow) for flow in flows]
        return all(one is not None and one.whole and one.all for one in kept)

    def _payloads(self) -> None:
        """RDS-RTX-002 by the payload, where the input can be read again."""
        pairs = [(old, new) for old, new in self._compare if old.complete and new.complete]
        if not pairs or not self.context.reread or not self.report.wants(DIFFERENT):
            return
        numbers = {sent.number for pair in pairs for sent in pair}
        digests = self.context.capture.digests(numbers)
        for old, new in pairs:
            one, other = digests.get(old.number), digests.get(new.number)
            if one is not None and other is not None and one != other:
                self._say(DIFFERENT, new, f"{self._told(old)}; again {self._seen(new)} with another payload")

    # Words.

    def _say(self, rule: Rule, sent: Sent, text: str) -> None:
        self.report.at(rule, text, sent.frame, sent.time, stream=sent.flow >> 1, number=sent.number)

    def _name(self, sent: Sent) -> str:
        return (
            f"{self.who(sent.flow >> 1, sent.flow & 1)} sequence {sent.sequence}, port {sent.sport} to {sent.dport}, "
            f"{sent.length} bytes"
        )

    def _seen(self, sent: Sent) -> str:
        stream = self.context.streams[sent.flow >> 1]
        path = f", path {stream.path}" if stream.path >= 0 else ""
        return f"in frame {sent.frame} on stream {stream.number}{path}"

    def _told(self, sent: Sent) -> str:
        acked = f"acknowledged in frame {sent.acked}" if sent.acked else "not acknowledged"
        return f"{self._name(sent)}: sent {self._seen(sent)} (message {sent.number}), {acked}"

    def _fate(self, copy: _Copy) -> str:
        sent, expected = copy.sent, copy.expected
        acked = f"acknowledged in frame {sent.acked}" if sent.acked else "not acknowledged"
        wants = f"{expected.low}" if expected.low == expected.high else f"{expected.low} to {expected.high}"
        return (
            f"{self._seen(sent)} {_flagged(sent)}, {acked}: the receiver's path expects {wants}, so it is "
            f"{copy.verdict.value}"
        )


def _flagged(sent: Sent) -> str:
    return "flagged" if sent.flagged else "not flagged"
