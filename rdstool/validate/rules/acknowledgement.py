"""RDS-ACK: acknowledgements of InfiniBand, which travel in ``h_ack`` of every frame."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from dissectors.wire.rds import Flags
from rdstool.capture.columns import ChecksumStatus, Ints
from rdstool.capture.events import CmMessage
from rdstool.capture.gather import distinct
from rdstool.protocol.kinds import MessageKind
from rdstool.validate.check import Batch, Check, Context
from rdstool.validate.flows import Numbered
from rdstool.validate.parsed import field_of
from rdstool.validate.rule import ERROR, IB, NOTE, WARNING, Rule
from rdstool.validate.view import REORDER_FRAMES, PerFlow, View

_SOURCE = "net/rds/ib_recv.c, ib_send.c"
UNACKED_PACKETS = 8
"""Messages between two that ask for an acknowledgement (``max_unacked_packets``)."""
ACK_WAIT_NS = 2_000_000_000
"""An acknowledgement that was asked for is late after this time on the sender's clock, where the peer speaks then."""
ACK_WAIT_ROWS = 512
"""... or after so many messages of the one that owes it: more than any ring holds."""
NOTHING: Ints = np.zeros(0, np.int64)
MAX_PENDING = 4096
"""Acknowledgements of the future that wait for their proof, over all flows."""

DECREASE = Rule(
    "RDS-ACK-001",
    WARNING,
    "h_ack went back",
    IB,
    "7.5",
    _SOURCE,
    "h_ack is cumulative: within a connection it only rises.",
    "The sender releases messages up to the highest value; a lower one changes nothing.",
    "Check the acknowledging side.",
)
FUTURE = Rule(
    "RDS-ACK-002",
    ERROR,
    "h_ack acknowledges what was never sent",
    IB,
    "7.5",
    _SOURCE,
    "h_ack is at most the highest sequence that the peer has sent. It is concluded only where a later message of the "
    "peer proves that the capture missed nothing, and did not just show it late.",
    "The sender drops messages up to that number from its queue as soon as they are sent: a loss cannot be repaired.",
    "Check the acknowledging side's numbering.",
    unbroken=True,
)
ACK_ONLY = Rule(
    "RDS-ACK-003",
    WARNING,
    "An ack-only frame has flags or extension headers",
    IB,
    "7.5",
    _SOURCE,
    "All of an ack-only frame but h_ack, h_credit and h_csum is zero.",
    "The receiver takes h_ack and h_credit and ignores the rest.",
    "Check the sender.",
)
UNANSWERED = Rule(
    "RDS-ACK-004",
    WARNING,
    "A message that asks for an acknowledgement did not get it",
    IB,
    "7.5",
    _SOURCE,
    "A receiver acknowledges an ACK_REQUIRED message promptly, with its next frame or an ack-only frame.",
    "Without it the sender keeps the message, and its socket's send buffer fills until it blocks.",
    "Check the receiver: it may be out of buffers, or not understand the flag.",
    unbroken=True,
)
FIRST_ASKS = Rule(
    "RDS-ACK-005",
    NOTE,
    "Message number 1 does not ask for an acknowledgement",
    IB,
    "7.5",
    "net/rds/send.c",
    "The budget of unacknowledged messages starts at 0, so a kernel flags its first message; after a failed connection "
    "it starts at 8.",
    "The peer may acknowledge late.",
    "Nothing is wrong; the sender is not a Linux kernel.",
)
BUDGET = Rule(
    "RDS-ACK-006",
    NOTE,
    "More than eight messages in a row do not ask for an acknowledgement",
    IB,
    "7.5, 11.1",
    "net/rds/send.c",
    "With the default of net.rds.max_unacked_packets = 8 one message in nine carries ACK_REQUIRED.",
    "Acknowledgements come later, so send buffers stay occupied longer.",
    "See whether the sysctl was changed on the sender.",
    unbroken=True,
)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A row that a conclusion may come to stand on."""

    value: int
    number: int
    frame: int
    time: int


@dataclass(slots=True)
class _Waiting:
    """The oldest message of a flow that waits for its acknowledgement."""

    seen: _Seen
    answers: int = 0
    """Messages of the other direction since."""
    late_frame: int = 0
    """A frame of the sender's from which on the acknowledgement is late; 0: not yet."""


class AcknowledgementCheck(Check):
    """Holds what one direction sends against what the other acknowledges."""

    rules = (DECREASE, FUTURE, ACK_ONLY, UNANSWERED, FIRST_ASKS, BUDGET)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._acked = PerFlow(np.int64, -1)
        """Highest position acknowledged, by the flow that carries the acknowledgement."""
        self._latest = PerFlow(np.int64, -1)
        """What its latest row acknowledges."""
        self._latest_frame = PerFlow(np.int64, -1)
        """Frame of that row."""
        self._run = PerFlow(np.int64, 0)
        """Messages since the last that asked, or since a hole."""
        self._waiting: dict[int, _Waiting] = {}
        self._future: defaultdict[int, list[_Seen]] = defaultdict(list)
        self._future_count = 0
        self._tried: set[frozenset[bytes]] = set()
        """Addresses between which a connection was refused: the budget starts full after a failure."""

    def _is_new(self, number: int) -> bool:
        """The stream is its connection's first, and was not refused before."""
        stream = self.context.streams[number]
        tried = frozenset(stream.address_pair) in self._tried
        return stream.from_start and self.context.connections.is_first(stream) and not tried

    def feed(self, batch: Batch) -> None:
        """Look at InfiniBand rows only."""
        view = batch.view
        if not view.any_ib or not view.count:
            return
        flags = view.flags
        only = view.ib & (view.kind == MessageKind.ACK) & ((flags != 0) | view.extended)
        self.report.rows(
            ACK_ONLY, view, only, lambda i: f"flags are 0x{flags[i]:02x}, extensions {_extension(view, i)}"
        )
        asks = (flags & Flags.ACK_REQUIRED) != 0
        for event in view.decoded.events:
            if isinstance(event, CmMessage) and event.name == "REJ":
                self._tried.add(frozenset((event.src, event.dst)))
        first = np.flatnonzero(view.numbered & view.ib & (view.sequence == 1) & ~asks)
        first = first[[self._is_new(int(view.stream[row])) for row in first.tolist()]] if len(first) else first
        self.report.rows(FIRST_ASKS, view, first, lambda i: f"sequence 1 has flags 0x{flags[i]:02x}")
        self._order(batch)
        self._budget(batch, asks)
        self._answers(batch, asks)

    def _order(self, batch: Batch) -> None:
        view, grouped = batch.view, batch.grouped
        # A receiver looks at nothing else of a frame whose checksum is wrong (protocol.md §1.1).
        read = view.ib & (view.rows["checksum_status"] != ChecksumStatus.BAD)
        index, flow = grouped.index[read[grouped.index]], grouped.flow[read[grouped.index]]
        ack = view.ack[index]
        self._beyond(batch, index, flow, ack)
        if not len(ack):
            return
        at = np.flatnonzero(np.diff(flow, prepend=-1))
        last = np.append(at[1:], len(ack)) - 1
        frame = view.frame[index]
        before, before_frame = np.empty((2, len(ack)), np.int64)
        before[1:], before_frame[1:] = ack[:-1], frame[:-1]
        before[at], before_frame[at] = self._latest[flow[at]], self._latest_frame[flow[at]]
        # A message has the acknowledgement of the time when it began; ack-only frames may stand between its fragments.
        back = np.flatnonzero((ack < before) & (view.first_frame[index] > before_frame))
        old = dict(zip(index[back].tolist(), before[back].tolist(), strict=True))
        self.report.rows(DECREASE, view, index[back], lambda i: f"h_ack is {view.ack[i]} after {old[i]}")
        self._acked[flow[at]] = np.maximum(self._acked[flow[at]], np.maximum.reduceat(ack, at))
        self._latest[flow[at]], self._latest_frame[flow[at]] = ack[last], frame[last]

    def _beyond(self, batch: Batch, index: Ints, flow: Ints, ack: Ints) -> None:
        """Acknowledgements above the highest sequence of the other direction."""
        if not self.report.wants(FUTURE):
            return
        view, rows = batch.view, batch.numbered
        # The peer's proof first: its next message, without a hole before it, shows that nothing was missed.
        for peer in list(self._future):
            self._settle(view, rows, peer)
        for peer in distinct(flow ^ 1).tolist():
            own = np.flatnonzero(flow == peer ^ 1)
            sent = np.flatnonzero(rows.flow == peer)
            known = int(rows.highest[sent[0]]) if len(sent) else self.context.numbering.highest(peer)
            if len(sent):
                running = np.maximum.accumulate(np.maximum(rows.sequence[sent], rows.highest[sent]))
                until = np.searchsorted(rows.index[sent], index[own], side="left")
                high = np.where(until > 0, running[np.maximum(until - 1, 0)], known)
            else:
                until, high = np.zeros(len(own), np.int64), np.full(len(own), known, np.int64)
            for place in np.flatnonzero((ack[own] > high) & (high > 0)).tolist():
                if self._future_count >= MAX_PENDING:
                    return
                row = int(index[own[place]])
                seen = _Seen(int(ack[own[place]]), int(view.number[row]), int(view.frame[row]), int(view.time[row]))
                self._future[peer].append(seen)
                self._future_count += 1
            self._settle(view, rows, peer)

    def _settle(self, view: View, rows: Numbered, peer: int) -> None:
        """Judge the acknowledgements of what ``peer`` sends by its messages of this batch."""
        places = np.flatnonzero(rows.flow == peer)
        if peer not in self._future or not len(places):
            return
        begins, joined = view.first_frame[rows.index[places]], rows.joined[places]
        waiting = []
        for seen in self._future.pop(peer):
            after = np.flatnonzero(begins > seen.frame)
            proof = np.flatnonzero(begins >= seen.frame + REORDER_FRAMES)
            end = int(proof[0]) + 1 if len(proof) else len(places)
            if not joined[after[after < end]].all():
                self._future_count -= 1
            elif not len(proof):
                waiting.append(seen)
            else:
                self._future_count -= 1
                if seen.value > int(rows.highest[places[proof[0]]]):
                    self._say_future(seen, peer)
        if waiting:
            self._future[peer] = waiting

    def _say_future(self, seen: _Seen, peer: int) -> None:
        self.report.at(
            FUTURE,
            f"h_ack is {seen.value}, but {self.who(peer >> 1, peer & 1)} had not sent that number",
            seen.frame,
            seen.time,
            stream=peer >> 1,
            number=seen.number,
        )

    def _budget(self, batch: Batch, asks: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> None:
        view, rows = batch.view, batch.numbered
        pick = np.flatnonzero(view.ib[rows.index])
        if not len(pick):
            return
        index, flow = rows.index[pick], rows.flow[pick]
        begins = np.ones(len(pick), np.bool_)
        begins[1:] = flow[1:] != flow[:-1]
        at = np.flatnonzero(begins)
        # A row ends the run before it where it asks, and begins a new one behind a hole.
        place = np.arange(len(pick))
        ends = asks[index]
        carried = self._run[flow[at]]
        offset = int(carried.max(initial=0)) + 2
        base = np.where(ends, place, np.where(~rows.joined[pick], place - 1, -offset))
        base[at] = np.where(ends[at], at, at - 1 - np.where(rows.joined[pick][at], carried, 0))
        group = np.cumsum(begins)
        run = place - (np.maximum.accumulate((group << 40) | (base + offset)) & ((1 << 40) - 1)) + offset
        over = index[run == UNACKED_PACKETS + 1]
        self.report.rows(BUDGET, view, over, lambda i: f"sequence {view.sequence[i]} is the ninth in a row without it")
        last = np.append(at[1:], len(pick)) - 1
        self._run[flow[at]] = run[last]

    def _answers(self, batch: Batch, asks: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> None:
        if not self.report.wants(UNANSWERED):
            return
        view, grouped, rows = batch.view, batch.grouped, batch.numbered
        at = np.flatnonzero(grouped.begins)
        parts = dict(zip(grouped.flow[at].tolist(), np.split(grouped.index, at[1:]), strict=True))
        for flow, part in parts.items():
            waiting = self._waiting.get(flow ^ 1)
            if waiting is not None:
                waiting.answers += len(part)
        acked = self._acked[rows.flow ^ 1]
        open_ones = np.flatnonzero(asks[rows.index] & view.ib[rows.index] & (rows.sequence > acked))
        for flow in [flow for flow, one in self._waiting.items() if self._acked.one(flow ^ 1) >= one.seen.value]:
            del self._waiting[flow]
        for place in open_ones.tolist():
            flow, row = int(rows.flow[place]), int(rows.index[place])
            if flow not in self._waiting:
                seen = _Seen(
                    int(rows.sequence[place]), int(view.number[row]), int(view.frame[row]), int(view.time[row])
                )
                later = int(np.count_nonzero(parts.get(flow ^ 1, NOTHING) > row))
                self._waiting[flow] = _Waiting(seen, later)
        for flow, part in parts.items():
            one = self._waiting.get(flow)
            if one is not None and not one.late_frame:
                late = part[view.time[part] - one.seen.time >= ACK_WAIT_NS]
                one.late_frame = int(view.frame[late[0]]) if len(late) else 0

    def finish(self) -> None:
        """Whatever still waits, and has waited long enough, was not answered."""
        for flow, waiting in self._waiting.items():
            # The peer has to speak, and not to acknowledge, when it is late: silence may be a loss of the capture.
            spoke = self.context.connections.last_frame.one(flow ^ 1)
            late = 0 < waiting.late_frame < spoke or waiting.answers >= ACK_WAIT_ROWS
            if late and self.context.continuity.whole(flow ^ 1, waiting.seen.frame):
                self.report.at(
                    UNANSWERED,
                    f"sequence {waiting.seen.value} asks for an acknowledgement; the highest that came is "
                    f"{max(0, self._acked.one(flow ^ 1))}",
                    waiting.seen.frame,
                    waiting.seen.time,
                    stream=flow >> 1,
                    number=waiting.seen.number,
                )


def _extension(view: View, index: int) -> str:
    return field_of(view, index).hex() if view.extended[index] else "none"
