"""Where the records of a pcap file begin.

Each record tells how long it is, so one leads to the next: a loop over all frames, the only one there is. To take many
steps at once, places all over the file are guessed where a record seems to begin, and all are followed together.
Guesses prove themselves, as what is followed from one has to end at the next. What lies behind one that does not is
followed step by step.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import repeat

import numpy as np

from rdstool.capture.columns import Bytes, Ints
from rdstool.capture.gather import gather

LANE_FRAMES = 64
"""Between one guess and the next, more or less."""
SEARCHED_FRAMES, SEARCHED_BYTES = 4, 2 << 10
"""The beginning of each lane, searched for its guess. In so many bytes, a frame of Ethernet begins."""
MIN_LANES = 8
"""Fewer are not worth the search."""
FEW_FRAMES = 256
"""Followed step by step before others are guessed: they tell how far to look."""
MAX_CANDIDATES = 32
"""For each lane. Where there are more, almost anything looks like a record."""
LIKELY_BYTES = 1 << 18
"""The largest frame that is guessed at; libpcap's largest snapshot length."""


@dataclass(frozen=True, slots=True)
class RecordHeader:
    """What begins each record: seconds, fraction, captured and original length, and what a variant adds."""

    order: str
    """``<`` or ``>``."""
    size: int
    """Bytes."""

    @property
    def dtype(self) -> np.dtype[np.void]:
        """The first 16 bytes."""
        names = ("seconds", "fraction", "captured", "wire")
        return np.dtype([(name, f"{self.order}u4") for name in names])

    def high_bytes(self) -> tuple[int, int]:
        """Where the upper two bytes of the seconds are: they change once in 18 hours."""
        return (3, 2) if self.order == "<" else (0, 1)


def boundaries(data: Bytes, start: int, end: int, header: RecordHeader, most: int) -> tuple[Ints, int]:
    """Where the records of ``data[start:end]`` begin, at most ``most``, and the place behind the last of them.

    All have a whole header. That place lies behind ``end`` where the last record is not whole, or its length lies.
    """
    found: list[Ints] = []
    left, few = most, FEW_FRAMES
    while left:
        steps, behind = _steps(data, start, end, header, min(few, left))
        found.append(steps)
        left -= len(steps)
        if not left or len(steps) < few:
            start = behind
            break
        # No further than there will be room for, if frames go on as they are.
        average = (behind - start) // few
        leaps, start = _leaps(data, behind, min(end, behind + left * average), header, average)
        if len(leaps) > left:
            start = int(leaps[left])
        found.append(leaps[:left])
        left -= len(found[-1])
        few = FEW_FRAMES if len(leaps) else 2 * few
    return np.concatenate(found), start


def _steps(data: Bytes, start: int, end: int, header: RecordHeader, most: int) -> tuple[Ints, int]:
    """The next records, one after the other, and the place behind them."""
    captured_length = struct.Struct(f"{header.order}8xI{header.size - 12}x").unpack_from
    view = data[:end].data
    starts: list[int] = []
    try:
        for _ in repeat(None, most):
            (size,) = captured_length(view, start)
            starts.append(start)
            start += header.size + size
    except struct.error:
        pass  # No whole header is left: asking for it is cheaper than looking at each frame whether it is there.
    return np.array(starts, np.int64), start


def _leaps(data: Bytes, start: int, end: int, header: RecordHeader, average: int) -> tuple[Ints, int]:
    """The records of ``data[start:end]`` as far as guesses go and are right, and the place behind them."""
    begin = np.concatenate(([start], _guesses(data, start, end, header, average)))
    captured: Ints = np.ndarray((max(end - header.size + 1, 0),), f"{header.order}u4", data, 8, (1,))
    at, goal = begin[:-1], begin[1:]
    lane = np.arange(len(at), dtype=np.uint16)
    found, lanes = [at], [lane]
    reached, behind = end, int(begin[-1])
    while len(at):
        at = at + header.size + captured[at]
        short = at < goal
        if not short.all():
            missed = at > goal
            # Guesses are in order: the first one that is missed is wrong, and what led past it is right.
            if missed.any() and goal[missed][0] < reached:
                reached, behind = int(goal[missed][0]), int(at[missed][0])
            at, goal, lane = at[short], goal[short], lane[short]
        found.append(at)
        lanes.append(lane)
    # Numbers this short are sorted ten times as fast as places.
    records = np.concatenate(found)[np.argsort(np.concatenate(lanes), kind="stable")]
    return records[: np.searchsorted(records, reached)], behind


def _guesses(data: Bytes, start: int, end: int, header: RecordHeader, average: int) -> Ints:
    """Places where a record seems to begin that lead to another one, at most one in each lane."""
    lane_bytes, searched_bytes = LANE_FRAMES * average, min(SEARCHED_FRAMES * average, SEARCHED_BYTES)
    lanes = (end - start - searched_bytes - header.size) // lane_bytes
    if lanes < MIN_LANES:
        return np.empty(0, np.int64)
    first = start + lane_bytes

    def alike(at: int) -> Bytes:
        """Which bytes of the lanes, ``at`` bytes further, are as that byte of the record at ``start``."""
        searched: Bytes = np.ndarray((lanes, searched_bytes), np.uint8, data, first + at, (lane_bytes, 1))
        return np.asarray(searched == data[start + at])

    high, low = header.high_bytes()
    lane, place = np.divmod(np.flatnonzero(alike(high) & alike(low)), searched_bytes)
    if len(lane) > MAX_CANDIDATES * lanes:
        return np.empty(0, np.int64)
    candidates = first + lane * lane_bytes + place
    behind = candidates
    seconds = int.from_bytes(data[start : start + 4], "little" if header.order == "<" else "big")
    for _ in range(2):
        headers = gather(data, behind, header.dtype)
        captured = headers["captured"].astype(np.int64)
        likely = (captured > 0) & (captured <= headers["wire"]) & (captured <= LIKELY_BYTES)
        likely &= headers["seconds"] >> 16 == seconds >> 16
        behind = behind + header.size + captured
        likely &= behind <= end - header.size
        candidates, behind = candidates[likely], behind[likely]
    lane = (candidates - first) // lane_bytes
    return candidates[np.diff(lane, prepend=-1) > 0]
