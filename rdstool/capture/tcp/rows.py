"""The messages of one chunk: collected one at a time, made rows all at once."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dissectors.wire.rds import HEADER_BYTES
from rdstool.capture.columns import MESSAGE, RDS_DTYPE
from rdstool.capture.events import Event
from rdstool.capture.gather import gather
from rdstool.capture.headers import checksum_status, kinds_of
from rdstool.capture.part import PayloadOptions
from rdstool.capture.tcp.half import Chunk, Extents, whole_numbers
from rdstool.protocol.kinds import Transport

_HEADER = np.dtype(("V", HEADER_BYTES))


@dataclass(slots=True)
class RowBuilder:
    """Collects the messages of one chunk, and makes the rows of them at its end."""

    options: PayloadOptions
    heads: array[int] = field(default_factory=whole_numbers)
    """Of each message: place of its header in the chunk's data; -1 - n for the nth stored one."""
    positions: array[int] = field(default_factory=whole_numbers)
    """Stream offset of its header."""
    firsts: array[int] = field(default_factory=whole_numbers)
    """Which span holds its first byte."""
    lasts: array[int] = field(default_factory=whole_numbers)
    """Which span completed it."""
    frame: array[int] = field(default_factory=whole_numbers)
    """Of each span, that is an extent: the frame that holds it."""
    done: array[int] = field(default_factory=whole_numbers)
    """The frame with which the stream was complete up to the span's end."""
    time: array[int] = field(default_factory=whole_numbers)
    """Time of the frame in ``done``, ns."""
    runs: list[tuple[int, int, int]] = field(default_factory=list)
    """(stream, direction, index of the first message) where these change."""
    missing: dict[int, int] = field(default_factory=dict)
    """Message -> payload bytes that were not seen."""
    inferred: list[int] = field(default_factory=list)
    """Messages whose boundary a search has found."""
    stored: bytearray = field(default_factory=bytearray)
    """Headers that do not lie in one piece in the chunk's data."""
    payloads: dict[int, bytes] = field(default_factory=dict)
    digests: dict[int, str] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    def begin(self, stream: int, direction: int, extents: Extents) -> int:
        """Announce messages of another half. Returns the number of the span that its first extent becomes."""
        first = len(self.frame)
        self.frame += extents.frame
        self.done += extents.done
        self.time += extents.time
        self.runs.append((stream, direction, len(self.heads)))
        return first

    def add(self, head: int, position: int, first: int, last: int) -> int:
        """Enter a message and return its index."""
        self.heads.append(head)
        self.positions.append(position)
        self.firsts.append(first)
        self.lasts.append(last)
        return len(self.heads) - 1

    def span(self, frame: int, done: int, time: int) -> int:
        """Enter a span of its own, for a message that began in an earlier chunk."""
        self.frame.append(frame)
        self.done.append(done)
        self.time.append(time)
        return len(self.frame) - 1

    def store(self, header: bytes | memoryview) -> int:
        """Keep a header; returns its place for ``heads``."""
        self.stored += header
        return -(len(self.stored) // HEADER_BYTES)

    def unstore(self) -> None:
        """Drop what was stored last: it is no message of this chunk."""
        del self.stored[-HEADER_BYTES:]

    def header(self, chunk: Chunk, head: int) -> bytes:
        """The 48 bytes at a place of ``heads``."""
        if head >= 0:
            return bytes(chunk.view[head : head + HEADER_BYTES])
        at = (-1 - head) * HEADER_BYTES
        return bytes(self.stored[at : at + HEADER_BYTES])

    def last_sequence(self, chunk: Chunk) -> int:
        """Sequence of the newest message since ``begin`` that has one, 0 where there is none."""
        for head in reversed(self.heads[self.runs[-1][2] :]):
            if sequence := int.from_bytes(self.header(chunk, head)[:8], "big"):
                return sequence
        return 0

    def rows(self, chunk: Chunk) -> NDArray[Any]:
        """Return the rows of dtype ``MESSAGE``, in the order in which they were added."""
        count = len(self.heads)
        rows = np.zeros(count, MESSAGE)
        if not count:
            return rows
        headers = self._headers(chunk)
        rows["header"] = headers
        stream, direction, begin = np.array(self.runs, np.int64).T
        counts = np.diff(begin, append=count)
        rows["stream"] = np.repeat(stream, counts)
        rows["direction"] = np.repeat(direction, counts)
        rows["position"] = self.positions
        firsts, lasts = np.array(self.firsts), np.array(self.lasts)
        rows["first_frame"] = np.array(self.frame)[firsts]
        rows["frame"] = np.array(self.done)[lasts]
        rows["time"] = np.array(self.time)[lasts]
        length = headers["length"].astype(np.int64)
        rows["end"] = rows["position"] + HEADER_BYTES + length
        rows["seen"] = length
        rows["complete"] = True
        for index, missing in self.missing.items():
            rows["seen"][index] = max(0, length[index] - missing)
            rows["complete"][index] = False
        rows["inferred"][self.inferred] = True
        rows["fragments"] = 1
        rows["path"] = -1
        rows["transport"] = Transport.TCP
        rows["kind"] = kinds_of(headers, Transport.TCP)
        rows["checksum_status"] = checksum_status(headers)
        return rows

    def _headers(self, chunk: Chunk) -> NDArray[Any]:
        heads = np.array(self.heads)
        here = heads >= 0
        raw = np.empty((len(heads), HEADER_BYTES), np.uint8)
        raw[here] = gather(chunk.data, heads[here], _HEADER).view(np.uint8).reshape(-1, HEADER_BYTES)
        if self.stored:
            stored = np.frombuffer(bytes(self.stored), np.uint8).reshape(-1, HEADER_BYTES)
            raw[~here] = stored[-1 - heads[~here]]
        return raw.reshape(-1).view(RDS_DTYPE)
