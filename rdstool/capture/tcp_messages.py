"""Framing: contiguous stream bytes of one direction to RDS messages (protocol.md §4.1)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from hashlib import sha256
from struct import Struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dissectors.wire.rds import HEADER_BYTES, MAX_MESSAGE_BYTES, Flags
from rdstool.capture.columns import MESSAGE, RDS_DTYPE, Bytes
from rdstool.capture.events import Event, Gap, GapReason, Resynchronised
from rdstool.capture.headers import checksum_status, kinds_of, oddities
from rdstool.capture.part import PayloadOptions
from rdstool.capture.tcp_half import ABSENT, Chunk, Extents, Half, OpenMessage
from rdstool.capture.tcp_search import BoundarySearch, Segmentation
from rdstool.protocol.kinds import Transport

MAX_ODDITIES = 2
"""A header at a known boundary with more oddities than this is none: the stream is not RDS, or framing is lost."""
MAX_SEARCH_BYTES = 4 << 20
"""Stream bytes of one direction that a search may look back on: a chain of three of the longest messages."""
_LENGTH = Struct(">I")
_BITMAP = Flags.CONG_BITMAP.value
_ZERO_ACK = bytes(8)
_ZERO_TAIL = bytes(7)
_NO_HEADER = 0xFF
"""Stands for absent bytes in a search: as flags, it makes no plausible header."""


@dataclass(slots=True)
class RowBuilder:
    """Collects messages of one chunk as lists, and makes the columns of them at its end."""

    options: PayloadOptions
    heads: list[int] = field(default_factory=list)
    """Place of the header in the chunk's data; -1 - n for the nth stored one."""
    stored: bytearray = field(default_factory=bytearray)
    meta: list[tuple[int, int, int, int, int, int, int, int, int]] = field(default_factory=list)
    """(stream, direction, position, end, first_frame, frame, time, missing, inferred)."""
    payloads: dict[int, bytes] = field(default_factory=dict)
    digests: dict[int, str] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    def store(self, header: bytes | memoryview) -> int:
        """Keep a header that does not lie in one piece in the chunk's data."""
        self.stored += header
        return -(len(self.stored) // HEADER_BYTES)

    def rows(self, chunk: Chunk) -> NDArray[Any]:
        """Return the rows of dtype ``MESSAGE``, in the order in which they were added."""
        count = len(self.heads)
        rows = np.zeros(count, MESSAGE)
        if not count:
            return rows
        heads = np.array(self.heads, np.int64)
        raw = np.empty((count, HEADER_BYTES), np.uint8)
        here = heads >= 0
        raw[here] = chunk.data[heads[here][:, None] + np.arange(HEADER_BYTES)]
        if self.stored:
            stored = np.frombuffer(bytes(self.stored), np.uint8).reshape(-1, HEADER_BYTES)
            raw[~here] = stored[-1 - heads[~here]]
        headers = raw.reshape(-1).view(RDS_DTYPE)
        meta = np.array(self.meta, np.int64)
        rows["header"] = headers
        columns = ("stream", "direction", "position", "end", "first_frame", "frame", "time")
        for index, name in enumerate(columns):
            rows[name] = meta[:, index]
        length = headers["length"].astype(np.int64)
        rows["seen"] = np.maximum(length - meta[:, 7], 0)
        rows["complete"] = meta[:, 7] == 0
        rows["inferred"] = meta[:, 8]
        rows["fragments"] = 1
        rows["path"] = -1
        rows["transport"] = Transport.TCP
        rows["kind"] = kinds_of(headers, Transport.TCP)
        rows["checksum_status"] = checksum_status(headers)
        return rows


class Framing:
    """Reads the messages of one half out of one chunk's extents."""

    def __init__(self, half: Half, extents: Extents, chunk: Chunk, stream: int, out: RowBuilder) -> None:
        self.half = half
        self.extents = extents
        self.chunk = chunk
        self.stream = stream
        self.out = out

    def run(self, *, final: bool = False) -> None:
        """Take all messages that are there, then keep what the next chunk needs; ``final`` where none will come."""
        half = self.half
        while True:
            if half.search is not None and not self._find_boundary(half.search, final):
                break
            if not self._take_messages():
                break
        if final:
            self.flush()
        else:
            self._carry()

    def flush(self) -> None:
        """Report the message that is under way as incomplete: its end was not seen."""
        half = self.half
        message = half.open
        if message is None:
            return
        message.missing += message.end - half.next
        self._finish(message, message.last_frame or message.first_frame, message.last_time)
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
        half, extents, view, out = self.half, self.extents, self.chunk.view, self.out
        starts, sizes, places, frames = extents.start, extents.size, extents.place, extents.frame
        done, times = extents.done, extents.time
        heads, meta = out.heads, out.meta
        has_absent = bool(extents.absent)
        take_all = out.options.keep_payloads or out.options.digests
        inside = len(view) - HEADER_BYTES
        position, index = half.boundary, 0
        half.boundary = position
        while position + HEADER_BYTES <= limit:
            index = bisect_right(starts, position, index) - 1
            place = places[index]
            offset = position - starts[index]
            head = place + offset
            if place == ABSENT or offset + HEADER_BYTES > sizes[index] or head > inside:
                gathered = self._gather_header(position, index)
                if gathered is None:
                    return True
                header: bytes | memoryview = gathered
                head = out.store(header)
                odd = True
            else:
                odd = view[head + 8 : head + 16] != _ZERO_ACK or view[head + 25 : head + 32] != _ZERO_TAIL
                header = view[head : head + HEADER_BYTES] if odd or take_all else b""
            length = _LENGTH.unpack_from(header or view, 16 if header else head + 16)[0]
            if odd or length > MAX_MESSAGE_BYTES:
                header = bytes(header or view[head : head + HEADER_BYTES])
                if self._refuse(header, position, index, head):
                    return True
            end = position + HEADER_BYTES + length
            inferred, half.inferred = half.inferred, False
            if end > limit:
                raw = bytes(header or view[head : head + HEADER_BYTES])
                half.open = OpenMessage(raw, position, end, frames[index], inferred, taken=position + HEADER_BYTES)
                if head < 0:
                    del out.stored[-HEADER_BYTES:]
                self._progress(half.open)
                return False
            last = bisect_left(starts, end, index) - 1
            missing = extents.missing(position + HEADER_BYTES, end) if has_absent else 0
            flags = header[24] if header else view[head + 24]
            if take_all or flags & _BITMAP:
                self._take_payload(len(heads), position + HEADER_BYTES, end, missing, flags)
            heads.append(head)
            span = (position, end, frames[index])
            meta.append((self.stream, half.direction, *span, done[last], times[last], missing, inferred))
            position, index = end, last
            half.boundary = position
        return False

    def _gather_header(self, position: int, index: int) -> bytes | None:
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
        half.search = BoundarySearch(position, self._last_sequence() or half.last_sequence)
        half.boundary = search_from
        half.inferred = False

    def _last_sequence(self) -> int:
        """Sequence of the newest message of this half in this chunk, 0 where there is none."""
        out = self.out
        for head, row in zip(reversed(out.heads), reversed(out.meta), strict=True):
            if row[0] != self.stream or row[1] != self.half.direction:
                break
            raw = self.chunk.view[head : head + 8] if head >= 0 else out.stored[(-1 - head) * HEADER_BYTES :][:8]
            if sequence := int.from_bytes(raw, "big"):
                return sequence
        return 0

    def _find_boundary(self, search: BoundarySearch, final: bool) -> bool:
        """Search what is there. Returns True once a boundary is known.

        A hole that a message can span is filled with bytes that look like no header, so that a chain may cross it.
        """
        half, extents = self.half, self.extents
        ends = {start + size for start, size in zip(extents.start, extents.size, strict=True)}
        segments = Segmentation(set(extents.start), ends, extents.missing)
        while True:
            run: list[Bytes] = []
            origin = half.boundary
            behind = None
            for at, place, start, size in extents.pieces(origin, half.next):
                if place != ABSENT:
                    run.append(np.frombuffer(self.chunk.read(place, size), np.uint8))
                elif size <= MAX_MESSAGE_BYTES:
                    run.append(np.full(size, _NO_HEADER, np.uint8))
                else:
                    behind = start + extents.size[at]
                    break
            data = np.concatenate(run) if run else np.empty(0, np.uint8)
            outcome = search.look(data, origin, segments, final=final or behind is not None)
            if outcome.found is not None:
                self._resume(search, outcome.found.position, outcome.found.chain)
                return True
            self._pass_over(outcome.keep_from if behind is None else behind)
            if behind is None:
                return False

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

    def _refuse(self, header: bytes, position: int, index: int, head: int) -> bool:
        """Decide on an odd header at a known boundary. Returns True where what follows has to be searched.

        A length that no kernel sends is reported, but not trusted to find the next message.
        """
        if oddities(header) > MAX_ODDITIES:
            self._lose(position, position + 1)
            return True
        length = _LENGTH.unpack_from(header, 16)[0]
        if length <= MAX_MESSAGE_BYTES:
            return False
        extents, half = self.extents, self.half
        behind = position + HEADER_BYTES
        last = bisect_left(extents.start, behind, index) - 1
        self.out.heads.append(head)
        frame, when = extents.done[last], extents.time[last]
        span = (position, behind + length, extents.frame[index])
        self.out.meta.append((self.stream, half.direction, *span, frame, when, length, 0))
        self._lose(behind, behind)
        return True

    def _progress(self, message: OpenMessage) -> None:
        """Note what this chunk brought of a message that is not complete."""
        limit = self.half.next
        self._look_at_payload(message, limit)
        if self.extents.frame:
            message.last_frame, message.last_time = self.extents.done[-1], self.extents.time[-1]

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
                message.hasher = sha256()
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
        out, half = self.out, self.half
        row = len(out.heads)
        out.heads.append(out.store(message.header))
        span = (message.position, message.end, message.first_frame)
        out.meta.append((self.stream, half.direction, *span, frame, time, message.missing, message.inferred))
        if message.parts:
            out.payloads[row] = b"".join(message.parts)
        if message.hasher is not None and not message.missing:
            out.digests[row] = message.hasher.hexdigest()

    def _take_payload(self, row: int, start: int, end: int, missing: int, flags: int) -> None:
        """Hash and keep the payload of a message that lies in this chunk as a whole."""
        options = self.out.options
        data = b"".join(
            self.chunk.read(place, size) for _, place, _, size in self.extents.pieces(start, end) if place != ABSENT
        )
        if options.digests and not missing:
            self.out.digests[row] = sha256(data).hexdigest()
        if options.keep_payloads or flags & _BITMAP:
            self.out.payloads[row] = data

    def _carry(self) -> None:
        """Keep the bytes that the next chunk needs: a header in part, or what a search may come back to."""
        half, extents = self.half, self.extents
        half.last_sequence = self._last_sequence() or half.last_sequence
        if half.open is not None:
            return
        keep_from = max(half.boundary, half.next - MAX_SEARCH_BYTES)
        if half.search is not None:
            self._pass_over(keep_from)
        if keep_from < half.next:
            half.carry = extents.copy(self.chunk, keep_from, half.next)
