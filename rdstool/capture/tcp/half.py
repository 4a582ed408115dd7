"""One direction of a TCP connection: segments in, contiguous stream bytes out, as a real receiver would take them.

Stream offsets count payload bytes from the first one (after SYN) or, where the SYN was not captured, from the first
byte seen; they do not wrap. The first copy of a byte wins, as in Linux.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rdstool.capture.columns import Bytes, Ints
from rdstool.capture.events import GapReason
from rdstool.capture.streams import Coverage
from rdstool.capture.tcp.search import BoundarySearch

if TYPE_CHECKING:
    import hashlib

HALF_SPACE = 1 << 31
MAX_PENDING_BYTES = 4 << 20
"""Bytes that may wait behind a hole, for one direction; then the hole is taken as not captured."""
MAX_PENDING_SEGMENTS = 4096
MAX_HOLD_FRAMES = 20_000
"""Frames of the capture that a hole may stay open; a sender has long retransmitted by then."""
ABSENT = -1
"""Place of bytes that the capture does not hold."""


_NOTHING: list[Piece] = []
"""Stands for all empty lists of pieces: a capture can have a hundred thousand connections, and few have holes."""


def _nothing() -> list[Piece]:
    return _NOTHING


def whole_numbers() -> array[int]:
    """An empty list of int64. It takes columns of NumPy as they are: objects made of them take a tenth of all time."""
    return array("q")


def nearest(distance: Ints) -> Ints:
    """Differences of sequence numbers, taken the short way round: from -2^31 to 2^31 - 1."""
    return ((distance + HALF_SPACE) & 0xFFFFFFFF) - HALF_SPACE


class Chunk:
    """Bytes that extents point into: the frames' own, and behind them copies of what earlier chunks left over."""

    def __init__(self, data: Bytes) -> None:
        self.data = data
        self.view = memoryview(data.data)
        self.extra = bytearray()

    def add(self, piece: bytes) -> int:
        """Keep a copy and return its place."""
        place = len(self.view) + len(self.extra)
        self.extra += piece
        return place

    def read(self, place: int, size: int) -> bytes | memoryview:
        """Return ``size`` bytes at ``place``; they lie on one side of the border."""
        inside = place - len(self.view)
        if inside < 0:
            return self.view[place : place + size]
        return bytes(self.extra[inside : inside + size])


@dataclass(frozen=True, slots=True)
class Piece:
    """Stream bytes kept beyond their chunk; ``size`` exceeds ``len(data)`` where the frame was cut short."""

    start: int
    size: int
    data: bytes
    frame: int
    done: int
    time: int

    @property
    def end(self) -> int:
        """Stream offset behind the piece."""
        return self.start + self.size

    def part(self, start: int, end: int) -> Piece:
        """Return what of the piece lies in [start, end)."""
        begin, stop = max(start, self.start), min(end, self.end)
        data = self.data[begin - self.start : stop - self.start]
        return Piece(begin, stop - begin, data, self.frame, self.done, self.time)


@dataclass(slots=True)
class Extents:
    """Contiguous stream bytes in order, as parallel columns."""

    start: array[int] = field(default_factory=whole_numbers)
    size: array[int] = field(default_factory=whole_numbers)
    place: array[int] = field(default_factory=whole_numbers)
    """Place of the bytes in the chunk, or ABSENT."""
    frame: array[int] = field(default_factory=whole_numbers)
    """Frame that holds the bytes."""
    done: array[int] = field(default_factory=whole_numbers)
    """Frame with which the stream was complete up to here; never less than the one before."""
    time: array[int] = field(default_factory=whole_numbers)
    """Time of the frame in ``done``, ns."""
    absent: list[tuple[int, int]] = field(default_factory=list)
    """[start, end) of what is absent, ascending."""
    holes: set[int] = field(default_factory=set)
    """Where those absent parts start that were given up, not cut short."""

    def add(self, start: int, size: int, place: int, frame: int, done: int, time: int) -> None:
        """Append ``size`` bytes; what is absent has ``place`` ABSENT."""
        if self.done and self.done[-1] > done:
            done, time = self.done[-1], self.time[-1]
        self.start.append(start)
        self.size.append(size)
        self.place.append(place)
        self.frame.append(frame)
        self.done.append(done)
        self.time.append(time)
        if place == ABSENT:
            self.absent.append((start, start + size))

    def extend(self, start: Ints, size: Ints, place: Ints, frame: Ints, time: Ints) -> None:
        """Append what came in order: each frame completes the stream up to its own end."""
        self.start.frombytes(start.tobytes())
        self.size.frombytes(size.tobytes())
        self.place.frombytes(place.tobytes())
        self.frame.frombytes(frame.tobytes())
        self.done.frombytes(frame.tobytes())
        self.time.frombytes(time.tobytes())

    def index(self, position: int, low: int = 0) -> int:
        """Index of the extent that holds ``position``."""
        return bisect_right(self.start, position, low) - 1

    def missing(self, start: int, end: int) -> int:
        """Bytes in [start, end) that are absent."""
        at = max(0, bisect_right(self.absent, (start, start)) - 1)
        total = 0
        for begin, stop in self.absent[at:]:
            if begin >= end:
                break
            total += max(0, min(stop, end) - max(begin, start))
        return total

    def pieces(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """(index, place, start, size) of what is at hand in [start, end), absent parts with place ABSENT."""
        if not self.start:
            return
        index = max(0, self.index(start))
        while index < len(self.start) and self.start[index] < end:
            begin = max(start, self.start[index])
            stop = min(end, self.start[index] + self.size[index])
            if stop > begin:
                place = self.place[index]
                yield index, place if place == ABSENT else place + begin - self.start[index], begin, stop - begin
            index += 1

    def copy(self, chunk: Chunk, start: int, end: int) -> list[Piece]:
        """Copies of [start, end) that outlive the chunk."""
        kept = []
        for index, place, begin, size in self.pieces(start, end):
            data = b"" if place == ABSENT else bytes(chunk.read(place, size))
            kept.append(Piece(begin, size, data, self.frame[index], self.done[index], self.time[index]))
        return kept


@dataclass(slots=True)
class OpenMessage:
    """A message whose header was read and whose payload is still coming."""

    header: bytes
    position: int
    end: int
    first_frame: int
    first_time: int
    inferred: bool
    missing: int = 0
    taken: int = 0
    """Stream offset up to which the payload was looked at."""
    parts: list[bytes] | None = None
    """Payload so far, where it is wanted."""
    hasher: hashlib._Hash | None = None


@dataclass(slots=True)
class SegmentColumns:
    """Segments with payload of one direction, in capture order."""

    offset: Ints
    """Stream offset of the payload."""
    length: Ints
    captured: Ints
    place: Ints
    frame: Ints
    time: Ints


@dataclass(slots=True)
class Half:
    """State of one direction between chunks."""

    direction: int
    coverage: Coverage
    base: int | None = None
    """TCP sequence number of stream offset 0."""
    next: int = 0
    """Everything before was delivered."""
    done: int = 0
    """Frame with which it was."""
    done_time: int = 0
    """Time of that frame, ns."""
    acked: int = 0
    """The peer has acknowledged everything before."""
    boundary: int = 0
    """Where the next header begins; while searching, where the search goes on."""
    open: OpenMessage | None = None
    search: BoundarySearch | None = None
    inferred: bool = False
    """The next header lies where a search has found a boundary."""
    last_sequence: int = 0
    carry: Sequence[Piece] = ()
    """Delivered bytes that the framing still needs."""
    pending: list[Piece] = field(default_factory=_nothing)
    """What came ahead of a hole, ascending, without overlap."""
    pending_bytes: int = 0
    ended: bool = False
    closing: tuple[int, int] | None = None
    """Frame and time of what ended it, where a hole was open then, or a message that a reset ended."""

    @property
    def regular(self) -> bool:
        """Whether nothing waits, and framing is known."""
        return not self.pending and self.search is None

    @property
    def idle(self) -> bool:
        """Whether nothing waits, and no message has begun."""
        return self.regular and self.open is None and not self.carry

    @property
    def at_rest(self) -> bool:
        """Whether offsets and what has ended are all that there is to know of it."""
        return self.idle and not self.inferred and self.closing is None

    def offsets(self, seq: NDArray[np.uint32]) -> Ints:
        """Stream offsets of TCP sequence numbers near ``next``, in capture order."""
        if self.base is None:
            self.base = int(seq[0])
        reference = (self.base + self.next) % (1 << 32)
        numbers = seq.astype(np.int64)
        steps = numbers - np.concatenate(([reference], numbers[:-1]))
        return np.cumsum(nearest(steps)) + self.next

    def take(self, columns: SegmentColumns, chunk: Chunk) -> Extents:
        """Deliver what is contiguous, hold the rest. Returns the chunk's extents, carried ones first."""
        extents = self.carried(chunk)
        if len(columns.offset):
            self._take_one_by_one(columns, chunk, extents)
        return extents

    def carried(self, chunk: Chunk) -> Extents:
        """Return the extents that were carried over from the chunk before."""
        extents = Extents()
        if self.carry:
            for piece in self.carry:
                self._append(extents, piece, chunk)
            self.carry = ()
        return extents

    def _take_one_by_one(self, columns: SegmentColumns, chunk: Chunk, extents: Extents) -> None:
        rows = zip(*(getattr(columns, name).tolist() for name in SegmentColumns.__slots__), strict=True)
        for offset, length, captured, place, frame, time in rows:
            end = offset + length
            if end <= self.next:
                self.coverage.retransmitted += length
            elif offset > self.next:
                data = bytes(chunk.read(place, captured))
                self._hold(Piece(offset, length, data, frame, frame, time))
            else:
                skip = self.next - offset
                self.coverage.retransmitted += skip
                self._deliver(extents, self.next, length - skip, place + skip, captured - skip, frame, frame, time)
                self._release(extents, chunk, frame, time)

    def _hold(self, piece: Piece) -> None:
        """Keep what of ``piece`` is not pending yet."""
        at = bisect_right(self.pending, piece.start, key=lambda held: held.start)
        if at and self.pending[at - 1].end > piece.start:
            at -= 1
        start = piece.start
        fresh: list[Piece] = []
        while start < piece.end:
            held = self.pending[at] if at < len(self.pending) else None
            if held is None or held.start >= piece.end:
                fresh.append(piece.part(start, piece.end))
                break
            if held.start > start:
                fresh.append(piece.part(start, held.start))
            start = max(start, held.end)
            at += 1
        self.coverage.retransmitted += piece.size - sum(part.size for part in fresh)
        if self.pending is _NOTHING:
            self.pending = []
        for part in fresh:
            self.pending.insert(bisect_left(self.pending, part.start, key=lambda held: held.start), part)
            self.pending_bytes += len(part.data)

    def _release(self, extents: Extents, chunk: Chunk, frame: int, time: int) -> None:
        """Deliver what the bytes of ``frame`` have made contiguous."""
        count = 0
        for piece in self.pending:
            if piece.start > self.next:
                break
            count += 1
            self.pending_bytes -= len(piece.data)
            if piece.end > self.next:
                rest = piece.part(self.next, piece.end)
                done, when = (frame, time) if frame > piece.frame else (piece.frame, piece.time)
                place = chunk.add(rest.data)
                self._deliver(extents, rest.start, rest.size, place, len(rest.data), piece.frame, done, when)
            else:
                self.coverage.retransmitted += piece.size
        if count:
            del self.pending[:count]

    def _deliver(
        self, extents: Extents, start: int, size: int, place: int, captured: int, frame: int, done: int, time: int
    ) -> None:
        captured = max(0, min(captured, size))
        if captured:
            extents.add(start, captured, place, frame, done, time)
        if captured < size:
            extents.add(start + captured, size - captured, ABSENT, frame, done, time)
        self.coverage.seen += captured
        self.coverage.missing += size - captured
        self.next = start + size
        if done > self.done:
            self.done, self.done_time = done, time

    def _append(self, extents: Extents, piece: Piece, chunk: Chunk) -> None:
        """Put back carried bytes, which were counted and delivered before."""
        if piece.data:
            place = chunk.add(piece.data)
            extents.add(piece.start, len(piece.data), place, piece.frame, piece.done, piece.time)
        if len(piece.data) < piece.size:
            start, size = piece.start + len(piece.data), piece.size - len(piece.data)
            extents.add(start, size, ABSENT, piece.frame, piece.done, piece.time)

    def hole_to_give_up(self, acked: int, oldest_frame: int) -> GapReason | None:
        """Why the first hole can no longer fill, or None where it still may.

        ``acked`` is what the peer has acknowledged: bytes that it has and the capture lacks were not captured.
        """
        first = self.pending[0]
        if acked >= first.start:
            return GapReason.NOT_CAPTURED
        too_much = self.pending_bytes > MAX_PENDING_BYTES or len(self.pending) > MAX_PENDING_SEGMENTS
        if too_much or first.frame < oldest_frame:
            return GapReason.BUFFER_LIMIT
        return None

    def give_up_hole(self, extents: Extents, chunk: Chunk) -> tuple[int, int, Piece]:
        """Deliver the first hole as absent, and what waited behind it. Returns (offset, size, first piece behind)."""
        first = self.pending[0]
        position, size = self.next, first.start - self.next
        self.coverage.gaps += 1
        extents.holes.add(position)
        # What waited was complete no earlier than what came before the hole.
        done, time = max((first.frame, first.time), (self.done, self.done_time))
        self._deliver(extents, position, size, ABSENT, 0, first.frame, done, time)
        self._release(extents, chunk, done, time)
        return position, size, first
