"""Framing: contiguous stream bytes of one direction to RDS messages (protocol.md §4.1)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from struct import Struct
from typing import TYPE_CHECKING

import numpy as np

from dissectors.wire.rds import HEADER_BYTES, MAX_MESSAGE_BYTES, Flags
from rdstool.capture.columns import Bytes
from rdstool.capture.events import Gap, GapReason, Resynchronised
from rdstool.capture.headers import oddities
from rdstool.capture.tcp.half import ABSENT, Chunk, Extents, Half, OpenMessage
from rdstool.capture.tcp.rows import RowBuilder
from rdstool.capture.tcp.search import BoundarySearch, Segmentation

if TYPE_CHECKING:
    import hashlib

MAX_ODDITIES = 2
"""A header at a known boundary with more oddities than this is none: the stream is not RDS, or framing is lost."""
MAX_SEARCH_BYTES = 4 << 20
"""Stream bytes of one direction that a search may look back on: a chain of three of the longest messages."""
FIRST_WINDOW_BYTES = 4 << 10
"""Stream bytes that are searched at first: most boundaries are near."""
WINDOW_BYTES = 2 * MAX_SEARCH_BYTES
"""Stream bytes that are searched at most at once; a chain of three of the longest messages fits in well."""
_LENGTH = Struct(">I")
_BITMAP = Flags.CONG_BITMAP.value
_BEHIND_SEQUENCE = Struct(">QI4xBBIH")
"""Header fields from offset 8 on: ack, length, flags, credit, padding, checksum."""
_NO_HEADER = 0xFF
"""Stands for absent bytes in a search: as flags, it makes no plausible header."""


class Framing:
    """Reads the messages of one half out of one chunk's extents."""

    def __init__(self, half: Half, extents: Extents, chunk: Chunk, stream: int, out: RowBuilder) -> None:
        self.half = half
        self.extents = extents
        self.chunk = chunk
        self.stream = stream
        self.out = out
        self.segments: Segmentation | None = None
        """Segments of the extents; made when a search needs them."""
        self.base = out.begin(stream, half.direction, extents)
        """Number of the span that the first extent is."""

    def run(self, *, final: bool = False) -> None:
        """Take all messages that are there, then keep what the next chunk needs, unless no more will come."""
        half = self.half
        while True:
            if half.search is not None and not self._find_boundary(half.search, final):
                break
            if not self._take_messages():
                break
        if not final:
            self._carry()

    def flush(self, frame: int, time: int) -> None:
        """Report the message that is under way as incomplete: ``frame`` ended it before its last byte was seen."""
        half = self.half
        message = half.open
        if message is None:
            return
        message.missing += message.end - half.next
        if message.first_frame > frame:  # It was on its way when the other side ended the connection.
            frame, time = message.first_frame, message.first_time
        self._finish(message, frame, time)
        half.boundary = half.next
        half.open = None

    def _take_messages(self) -> bool:
        """Read messages from the boundary on. Returns True where the framing was lost and a search was started."""
        half, extents = self.half, self.extents
        limit = half.next
        if half.open is not None:
            message = half.open
            if message.end > limit:
                self._progress(message)
                return False
            at = bisect_left(extents.start, message.end) - 1
            self._look_at_payload(message, message.end)
            self._finish(message, extents.done[at], extents.time[at])
            half.boundary = message.end
            half.open = None
        return self._walk(limit)

    def _walk(self, limit: int) -> bool:
        """Walk from header to header. The one loop of the bulk path over TCP that runs once a message."""
        half, extents, view, out, base = self.half, self.extents, self.chunk.view, self.out, self.base
        starts, sizes, places = extents.start, extents.size, extents.place
        has_absent = bool(extents.absent)
        take_all = out.options.keep_payloads or out.options.digests
        inside = len(view) - HEADER_BYTES
        position = half.boundary
        index = start = stop = place = 0
        while position + HEADER_BYTES <= limit:
            if position >= stop:
                index = bisect_right(starts, position, index) - 1
                start, place = starts[index], places[index]
                stop = start + sizes[index]
            head = place + position - start
            if place == ABSENT or position + HEADER_BYTES > stop or head > inside:
                header = self._gather_header(position)
                if header is None:
                    return True
                head = out.store(header)
                length, flags, odd = _LENGTH.unpack_from(header, 16)[0], header[24], True
            else:
                ack, length, flags, credit, padding, checksum = _BEHIND_SEQUENCE.unpack_from(view, head + 8)
                odd = ack or credit or padding or checksum
            if (odd or length > MAX_MESSAGE_BYTES) and self._refuse(position, index, head):
                return True
            end = position + HEADER_BYTES + length
            if end > limit:
                self._open(position, end, index, head)
                return False
            last = index if end <= stop else bisect_left(starts, end, index) - 1
            row = out.add(head, position, base + index, base + last)
            if has_absent and (missing := extents.missing(position + HEADER_BYTES, end)):
                out.missing[row] = missing
            if take_all or flags & _BITMAP:
                self._take_payload(row, position + HEADER_BYTES, end, flags)
            if half.inferred:
                out.inferred.append(row)
                half.inferred = False
            half.boundary = position = end
        return False

    def _open(self, position: int, end: int, index: int, head: int) -> None:
        """Note a message whose payload goes on beyond this chunk."""
        half = self.half
        frame, time, taken = self.extents.frame[index], self.extents.time[index], position + HEADER_BYTES
        header = self.out.header(self.chunk, head)
        half.open = OpenMessage(header, position, end, frame, time, half.inferred, taken=taken)
        half.inferred = False
        if head < 0:
            self.out.unstore()
        self._progress(half.open)

    def _gather_header(self, position: int) -> bytes | None:
        """Put together a header that lies in several extents. None where part of it is absent: framing is then lost."""
        raw = b""
        for at, place, start, size in self.extents.pieces(position, position + HEADER_BYTES):
            if place == ABSENT:
                behind = self.extents.start[at] + self.extents.size[at]
                if self.extents.start[at] not in self.extents.holes:
                    frame, time = self.extents.frame[at], self.extents.time[at]
                    lost = behind - start
                    gap = Gap(frame, time, self.stream, self.half.direction, start, lost, GapReason.SNAPPED)
                    self.out.events.append(gap)
                self._lose(position, behind)
                return None
            raw += self.chunk.read(place, size)
        return raw

    def _lose(self, position: int, search_from: int) -> None:
        """Start a search at ``search_from`` for the boundary that was lost at ``position``."""
        half = self.half
        half.search = BoundarySearch(position, self.out.last_sequence(self.chunk) or half.last_sequence)
        half.boundary = search_from
        half.inferred = False

    def _find_boundary(self, search: BoundarySearch, final: bool) -> bool:
        """Search what is there, a window at a time. Returns True once a boundary is known."""
        half = self.half
        if self.segments is None:
            extents = self.extents
            ends = {start + size for start, size in zip(extents.start, extents.size, strict=True)}
            self.segments = Segmentation(set(extents.start) - {search.cut}, ends, extents.missing)
        size = FIRST_WINDOW_BYTES
        while True:
            data, behind, more = self._window(size)
            over = not more and (final or behind is not None)
            wider = more and size < WINDOW_BYTES
            outcome = search.look(data, half.boundary, self.segments, final=over, more=wider)
            if outcome.found is not None:
                self._resume(search, outcome.found.position, outcome.found.chain)
                return True
            undecided = outcome.keep_from + HEADER_BYTES <= half.boundary + len(data)
            if wider and undecided:
                size *= 4
                continue
            self._pass_over(behind if behind is not None and not more else outcome.keep_from)
            if behind is None and not more:
                return False
            size = FIRST_WINDOW_BYTES

    def _window(self, limit: int) -> tuple[Bytes, int | None, bool]:
        """Return about ``limit`` bytes to search, where to go on if they end before a hole, and whether there are more.

        A hole that a message can span is filled with bytes that look like no header, so that a chain may cross it.
        """
        extents = self.extents
        run: list[Bytes] = []
        total = 0
        for at, place, _, size in extents.pieces(self.half.boundary, self.half.next):
            if total > limit:
                return np.concatenate(run), None, True
            if place != ABSENT:
                run.append(np.frombuffer(self.chunk.read(place, size), np.uint8))
            elif size <= MAX_MESSAGE_BYTES:
                run.append(np.full(size, _NO_HEADER, np.uint8))
            else:
                behind = extents.start[at] + extents.size[at]
                return np.concatenate(run) if run else np.empty(0, np.uint8), behind, False
            total += size
        return np.concatenate(run) if run else np.empty(0, np.uint8), None, False

    def _pass_over(self, position: int) -> None:
        """Go on to ``position``; what was seen before belongs to no message that is known."""
        half = self.half
        half.coverage.unassigned += position - half.boundary - self.extents.missing(half.boundary, position)
        half.boundary = position

    def _resume(self, search: BoundarySearch, position: int, chain: int) -> None:
        half = self.half
        self._pass_over(position)
        half.search = None
        half.inferred = True
        at = self.extents.index(position)
        frame, time = self.extents.frame[at], self.extents.time[at]
        self.out.events.append(
            Resynchronised(frame, time, self.stream, half.direction, position, position - search.since, chain)
        )

    def _refuse(self, position: int, index: int, head: int) -> bool:
        """Decide on an odd header at a known boundary. Returns True where what follows has to be searched.

        A length that no kernel sends is reported, but not trusted to find the next message.
        """
        header = self.out.header(self.chunk, head)
        if oddities(header) > MAX_ODDITIES:
            self._lose(position, position + 1)
            return True
        length = _LENGTH.unpack_from(header, 16)[0]
        if length <= MAX_MESSAGE_BYTES:
            return False
        behind = position + HEADER_BYTES
        last = bisect_left(self.extents.start, behind, index) - 1
        row = self.out.add(head, position, self.base + index, self.base + last)
        self.out.missing[row] = length
        self._lose(behind, behind)
        return True

    def _progress(self, message: OpenMessage) -> None:
        """Note what this chunk brought of a message that is not complete."""
        self._look_at_payload(message, self.half.next)

    def _look_at_payload(self, message: OpenMessage, limit: int) -> None:
        """Count, hash and keep the payload up to ``limit`` that was not looked at before."""
        options = self.out.options
        start = max(message.taken, message.position + HEADER_BYTES)
        message.missing += self.extents.missing(start, limit)
        keep = options.keep_payloads or message.header[24] & _BITMAP
        if keep or options.digests:
            if message.parts is None:
                message.parts = []
            if options.digests and message.hasher is None:
                message.hasher = _sha256()
            for _, place, _, size in self.extents.pieces(start, limit):
                if place == ABSENT:
                    continue
                data = self.chunk.read(place, size)
                if keep:
                    message.parts.append(bytes(data))
                if message.hasher is not None:
                    message.hasher.update(data)
        message.taken = max(message.taken, limit)

    def _finish(self, message: OpenMessage, frame: int, time: int) -> None:
        out = self.out
        span = out.span(message.first_frame, frame, time)
        row = out.add(out.store(message.header), message.position, span, span)
        if message.missing:
            out.missing[row] = message.missing
        if message.inferred:
            out.inferred.append(row)
        if message.parts:
            out.payloads[row] = b"".join(message.parts)
        if message.hasher is not None and not message.missing:
            out.digests[row] = message.hasher.hexdigest()

    def _take_payload(self, row: int, start: int, end: int, flags: int) -> None:
        """Hash and keep the payload of a message that lies in this chunk as a whole."""
        options = self.out.options
        data = b"".join(
            self.chunk.read(place, size) for _, place, _, size in self.extents.pieces(start, end) if place != ABSENT
        )
        if options.digests and row not in self.out.missing:
            self.out.digests[row] = _sha256(data).hexdigest()
        if options.keep_payloads or flags & _BITMAP:
            self.out.payloads[row] = data

    def _carry(self) -> None:
        """Keep the bytes that the next chunk needs: a header in part, or what a search may come back to."""
        half, extents = self.half, self.extents
        half.last_sequence = self.out.last_sequence(self.chunk) or half.last_sequence
        if half.open is not None:
            return
        keep_from = max(half.boundary, half.next - MAX_SEARCH_BYTES)
        if half.search is not None:
            self._pass_over(keep_from)
            half.search.note_cut(keep_from, extents.start)
        if keep_from < half.next:
            half.carry = extents.copy(self.chunk, keep_from, half.next)


def _sha256(data: bytes = b"") -> hashlib._Hash:
    import hashlib  # noqa: PLC0415 - loads OpenSSL, and few commands need it

    return hashlib.sha256(data)
