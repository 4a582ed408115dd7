"""Rows in the order of their flow: what follows what without a hole, and the numbered messages among them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rdstool.capture.columns import Ints
from rdstool.capture.events import Gap, GapReason, Resynchronised
from rdstool.capture.streams import StreamTable
from rdstool.validate.view import Mask, PerFlow, View

FOREVER = 1 << 62
_PACKED_BITS = 40
"""Sequence numbers below 2^40 are compared as columns; no connection gets there."""
_PACKED_MAX = (1 << _PACKED_BITS) - 1


@dataclass(slots=True)
class Grouped:
    """Rows of a batch by flow. All arrays are in that order."""

    index: Ints
    """Row of the batch."""
    flow: Ints
    begins: Mask
    """First row of its flow in this batch."""
    segment: Ints
    """Holes seen in the flow so far; 0 only where all from the stream's first byte on was seen."""
    opens: Mask
    """First row of its flow in the whole capture."""
    before: Ints
    """End of the row before it; 0 or -1 for a flow's first."""


class Continuity:
    """Follows, flow by flow, whether a row stands directly behind the one before it.

    TCP: its header is at the stream offset where the last message ended. InfiniBand: no packet is missing, so its
    boundary is known. What a hole takes from inside of a message does not break the row of messages.
    """

    def __init__(self) -> None:
        self.lossy = False
        """The capture is known to lack something that was on the wire, so it may lack what leaves no trace, too."""
        self._end = PerFlow(np.int64, -1)
        self._breaks = PerFlow(np.int64, 0)
        self._known = PerFlow(np.bool_, 0)
        self._last_hole = PerFlow(np.int64, 0)
        self._heard = PerFlow(np.bool_, 0)
        self._lost_at: dict[int, int] = {}
        """Flow -> position from which on something was missing, and never acknowledged, when the capture ended."""

    def group(self, view: View, streams: StreamTable) -> Grouped:
        """Order one batch. Batches come in the order of the capture."""
        self._observe(view)
        order = view.order
        flow = view.flow[order]
        begins = np.ones(len(order), np.bool_)
        begins[1:] = flow[1:] != flow[:-1]
        at = np.flatnonzero(begins)
        keys = flow[at]
        known = self._known[keys]
        position, end = view.position[order], view.end[order]
        before = np.empty(len(order), np.int64)
        before[1:] = end[:-1]
        before[at] = np.where(known, self._end[keys], [0 if streams[k >> 1].from_start else -1 for k in keys.tolist()])
        sure = ~view.rows["inferred"][order]
        joined = sure & (position == before)
        ib = view.ib[order]
        if ib.any():
            for where, key, old in zip(at.tolist(), keys.tolist(), known.tolist(), strict=True):
                sure[where] &= old or streams[key >> 1].from_start
            joined = np.where(ib, sure, joined)
        found = np.flatnonzero(~joined)
        if len(found):
            columns = flow[found], view.frame[order[found]], position[found]
            for key, frame, behind in zip(*(column.tolist() for column in columns), strict=True):
                self._hole(key, frame, behind)
        broken = np.cumsum(~joined)
        base = broken[at] - ~joined[at] if len(at) else broken[at]
        sizes = np.diff(np.append(at, len(order)))
        segment = broken - np.repeat(base, sizes) + np.repeat(self._breaks[keys], sizes)
        last = at + sizes - 1
        self._end[keys] = end[last]
        self._breaks[keys] = segment[last]
        self._known[keys] = True
        opens = np.zeros(len(order), np.bool_)
        opens[at] = ~known
        return Grouped(order, flow, begins, segment, opens, before)

    def _observe(self, view: View) -> None:
        """What was seen and what is missing besides messages."""
        for event in view.decoded.events:
            if isinstance(event, Gap) and event.reason is GapReason.END:
                self._lost_at.setdefault(2 * event.stream + event.direction, event.position)
            elif isinstance(event, Gap | Resynchronised):
                self._hole(2 * event.stream + event.direction, event.frame, event.position)
                self.lossy |= isinstance(event, Gap)
        acks = view.decoded.acks
        if len(acks):
            # What acknowledges one direction travels in the other.
            self._heard[acks["stream"].astype(np.int64) * 2 + 1 - acks["direction"]] = True

    def _hole(self, flow: int, frame: int, position: int) -> None:
        """Something is missing before ``position``, as ``frame`` shows."""
        if position < self._lost_at.get(flow, FOREVER):
            self._last_hole.put(flow, max(frame, self._last_hole.one(flow)))

    def whole(self, flow: int, since: int = 0) -> bool:
        """Nothing is missing behind the frame ``since``, as far as was read; 0: from the flow's first byte on."""
        return self._last_hole.one(flow) <= since

    def heard(self, flow: int) -> bool:
        """The capture holds something of this direction: a message, or an acknowledgement."""
        return bool(self._known.one(flow) or self._heard.one(flow))

    def end(self, flow: int) -> int:
        """The end of the flow's last row; -1 without one."""
        return self._end.one(flow)


@dataclass(slots=True)
class Numbered:
    """Rows that take a sequence number, by flow, each with what came before it. All arrays are in that order."""

    index: Ints
    """Row of the batch."""
    flow: Ints
    sequence: Ints
    flagged: Mask
    segment: Ints
    opens: Mask
    """First numbered row of its flow in the capture."""
    joined: Mask
    """No hole lies between this row and the numbered one before it."""
    previous: Ints
    """Sequence of the numbered row before."""
    highest: Ints
    """Highest sequence of the rows before it in its segment; -1 without one."""
    after_new: Mask
    """A message without RETRANSMITTED came before it in its segment."""
    first: Ints
    """Sequence of the first numbered row of the flow in the capture."""

    def __len__(self) -> int:
        return len(self.index)


class Numbering:
    """Carries what :class:`Numbered` needs from batch to batch."""

    def __init__(self) -> None:
        self._first = PerFlow(np.int64, -1)
        self._previous = PerFlow(np.int64, -1)
        self._highest = PerFlow(np.int64, -1)
        self._segment = PerFlow(np.int64, -1)
        self._new = PerFlow(np.bool_, 0)

    def rows(self, view: View, grouped: Grouped) -> Numbered:
        """The numbered rows of the next batch."""
        pick = np.flatnonzero(view.numbered[grouped.index])
        index, flow, segment = grouped.index[pick], grouped.flow[pick], grouped.segment[pick]
        sequence, flagged = view.sequence[index], view.flagged[index]
        count = len(pick)
        begins = np.ones(count, np.bool_)
        begins[1:] = flow[1:] != flow[:-1]
        at = np.flatnonzero(begins)
        keys = flow[at]
        previous, old_segment = np.empty(count, np.int64), np.empty(count, np.int64)
        previous[1:], old_segment[1:] = sequence[:-1], segment[:-1]
        previous[at], old_segment[at] = self._previous[keys], self._segment[keys]
        joined = old_segment == segment
        first = self._first[keys]
        opens = np.zeros(count, np.bool_)
        opens[at] = first < 0
        first = np.where(first < 0, sequence[at], first)
        carried = np.where(joined[at], self._highest[keys], -1)
        highest, last_high = _highest_before(sequence, joined, at, carried)
        new, last_new = _any_before(~flagged, joined, at, self._new[keys] & joined[at])
        sizes = np.diff(np.append(at, count))
        last = at + sizes - 1
        self._first[keys] = first
        self._previous[keys] = sequence[last]
        self._highest[keys] = last_high[last]
        self._segment[keys] = segment[last]
        self._new[keys] = last_new[last]
        return Numbered(
            index, flow, sequence, flagged, segment, opens, joined, previous, highest, new, np.repeat(first, sizes)
        )

    def first(self, flow: int) -> int:
        """Sequence of the flow's first numbered row; -1 without one."""
        return self._first.one(flow)

    def highest(self, flow: int) -> int:
        """Highest sequence in the flow's present segment; -1 without one."""
        return self._highest.one(flow)


def _highest_before(sequence: Ints, joined: Mask, at: Ints, carried: Ints) -> tuple[Ints, Ints]:
    """The running maximum within each run of joined rows: before each row, and with it."""
    starts = ~joined
    starts[at] = True
    start = np.zeros(len(sequence), np.int64)
    start[at] = carried
    if len(sequence) and int(sequence.max()) > _PACKED_MAX:
        return _highest_slowly(sequence, starts, start, joined)
    run = np.cumsum(starts)
    values = sequence + 1
    values[at] = np.maximum(values[at], carried + 1)
    running = (np.maximum.accumulate(run << (_PACKED_BITS + 1) | values) & ((1 << (_PACKED_BITS + 1)) - 1)) - 1
    before = np.full(len(sequence), -1, np.int64)
    before[1:] = np.where(starts[1:], -1, running[:-1])
    before[at] = carried
    return before, running


def _highest_slowly(sequence: Ints, starts: Mask, start: Ints, joined: Mask) -> tuple[Ints, Ints]:
    before, running = np.full(len(sequence), -1, np.int64), np.empty(len(sequence), np.int64)
    high = -1
    for index, value in enumerate(sequence.tolist()):
        if starts[index]:
            high = int(start[index]) if joined[index] else -1
        before[index] = high
        high = max(high, value)
        running[index] = high
    return before, running


def _any_before(
    what: NDArray[np.bool_], joined: Mask, at: Ints, carried: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether ``what`` held for a row before, or with it, in the same run of joined rows."""
    count = len(what)
    starts = ~joined
    starts[at] = True
    run = np.cumsum(starts)
    with_it = what.copy()
    with_it[at] |= carried
    running = (np.maximum.accumulate(run << 1 | with_it) & 1).astype(np.bool_)
    before = np.zeros(count, np.bool_)
    before[1:] = running[:-1] & ~starts[1:]
    before[at] = carried
    return before, running
