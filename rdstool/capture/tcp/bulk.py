"""The common case over TCP, for all connections of a chunk at once: segments that come in order.

What :mod:`rdstool.capture.tcp.half` does one direction, one segment at a time, done here with a few passes over all
segments. Directions that turn out not to be in order are left to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdstool.capture.columns import ACK, Ints, Segments
from rdstool.capture.gather import distinct
from rdstool.capture.tcp.half import Chunk, Extents, Half, nearest
from rdstool.capture.tcp.reuse import STRAY_BYTES

_LANE = 1 << 44
"""Distance between the number ranges of two directions; stream offsets stay far below it."""
_SEQUENCE_MASK = 0xFFFFFFFF
_ACK_FLAG = 0x10


@dataclass(frozen=True, slots=True)
class Lanes:
    """Segments with payload by the half that they belong to: ``rows[bounds[i]:bounds[i + 1]]`` go to ``halves[i]``."""

    halves: Sequence[Half]
    rows: Ints
    length: Ints
    bounds: Ints
    offset: Ints
    """Stream offset of each segment."""
    jumps: NDArray[np.intp]
    """Halves in which some number is far from the one before."""


def lanes_of(segments: Segments, rows: Ints, bounds: Ints, halves: Sequence[Half]) -> Lanes:
    """Find the stream offsets of segments ``rows[bounds[i]:bounds[i + 1]]``, which belong to ``halves[i]``."""
    length = segments.length[rows]
    loaded = np.flatnonzero(length > 0)
    rows, length = rows[loaded], length[loaded]
    bounds = np.searchsorted(loaded, bounds)
    counts = np.diff(bounds)
    busy = np.flatnonzero(counts)
    first = bounds[busy]
    start = np.array([half.next for half in halves], np.int64)
    known = np.array([half.base is not None for half in halves])
    base = np.array([half.base or 0 for half in halves], np.int64)
    numbers = segments.seq[rows].astype(np.int64)
    reference = np.where(known[busy], (base + start)[busy], numbers[first])
    steps = _steps(numbers, first, reference)
    total = np.cumsum(steps)
    offset: Ints = total + np.repeat(start[busy] - total[first] + steps[first], counts[busy])
    jumps = np.flatnonzero(np.abs(steps) > STRAY_BYTES)
    if len(jumps):
        jumps = distinct(np.searchsorted(bounds, jumps, side="right") - 1)
    return Lanes(halves, rows, length, bounds, offset, jumps)


def take_in_order(segments: Segments, lanes: Lanes, chunk: Chunk) -> Iterator[Extents | None]:
    """Deliver the payload of segments to their halves, one after the other, where they are in order.

    Gives None for a half whose segments are not, or were cut short, or whose numbers are not known yet; its state
    is then as before.
    """
    halves, rows, length, bounds, offset = lanes.halves, lanes.rows, lanes.length, lanes.bounds, lanes.offset
    counts = np.diff(bounds)
    busy = np.flatnonzero(counts)
    first = bounds[busy]
    start = np.array([half.next for half in halves], np.int64)
    end = offset + length
    lane = np.repeat(np.arange(len(halves)) * _LANE, counts)
    before = np.empty_like(end)
    before[1:] = np.maximum.accumulate(end + lane)[:-1] - lane[1:]
    before[first] = 0
    before = np.maximum(before, np.repeat(start, counts))
    fresh = end > before
    fits = ~fresh | ((offset == before) & (segments.captured[rows] == length))
    in_order = np.ones(len(halves), bool)
    old = np.zeros(len(halves), np.int64)
    if len(busy):
        known = np.array([half.base is not None for half in halves])
        in_order[busy] = np.logical_and.reduceat(fits, first) & known[busy]
        old[busy] = np.add.reduceat(np.where(fresh, 0, length), first)

    kept = np.flatnonzero(fresh)
    cuts = np.searchsorted(kept, bounds).tolist()
    offsets, sizes, rows = offset[kept], length[kept], rows[kept]
    places, frames, times = segments.payload[rows], segments.frame[rows], segments.time[rows]
    for index, half in enumerate(halves):
        if not in_order[index]:
            yield None
            continue
        low, high = cuts[index], cuts[index + 1]
        half.coverage.retransmitted += int(old[index])
        extents = half.carried(chunk)
        if low < high:
            extents.extend(offsets[low:high], sizes[low:high], places[low:high], frames[low:high], times[low:high])
            behind = extents.start[-1] + extents.size[-1]
            half.coverage.seen += behind - half.next
            half.next, half.done, half.done_time = behind, extents.done[-1], extents.time[-1]
        yield extents


def acknowledged(segments: Segments, rows: Ints, bounds: Ints, halves: Sequence[Half], streams: Ints) -> NDArray[Any]:
    """Take the acknowledgements in segments ``rows[bounds[i]:bounds[i + 1]]`` for ``halves[i]``.

    Returns rows of dtype ``ACK``, one each time that the acknowledged offset of a half advances.
    """
    counts = np.diff(bounds)
    base = np.array([(half.base or 0) + half.next for half in halves], np.int64)
    start = np.array([half.next for half in halves], np.int64)
    known = np.array([half.base is not None for half in halves])
    acked = np.array([half.acked for half in halves], np.int64)
    lane = np.repeat(np.arange(len(halves)) * _LANE, counts)
    offset = segments.ack[rows].astype(np.int64) - np.repeat(base & _SEQUENCE_MASK, counts)
    offset = nearest(offset) + np.repeat(start, counts)
    low = np.repeat(acked, counts)
    tells = (segments.flags[rows] & _ACK_FLAG != 0) & np.repeat(known, counts)
    offset = np.maximum(np.where(tells, offset, 0), low)
    highest = np.maximum.accumulate(offset + lane) - lane
    before = np.empty_like(highest)
    before[1:] = highest[:-1]
    busy = np.flatnonzero(counts)
    before[bounds[busy]] = acked[busy]
    news = np.flatnonzero(highest > before)
    for index, value in zip(busy.tolist(), highest[bounds[busy + 1] - 1].tolist(), strict=True):
        halves[index].acked = value
    result = np.empty(len(news), ACK)
    owner = np.repeat(np.arange(len(halves)), counts)[news]
    result["stream"] = streams[owner]
    result["direction"] = np.array([half.direction for half in halves], np.uint8)[owner]
    result["position"] = highest[news]
    result["frame"] = segments.frame[rows[news]]
    result["time"] = segments.time[rows[news]]
    return result


def _steps(numbers: Ints, first: Ints, reference: Ints) -> Ints:
    """How far each sequence number is from the one before; numbers of one direction begin at each index ``first``."""
    before = np.empty_like(numbers)
    before[1:] = numbers[:-1]
    before[first] = reference & _SEQUENCE_MASK
    return nearest(numbers - before)
