"""Files to parsed packets, chunk by chunk."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from rdstool.capture.columns import NO_TIME, FrameBatch
from rdstool.capture.counts import FrameCounts
from rdstool.capture.files.frames import CHUNK_BYTES, FrameReader
from rdstool.capture.packets.network import Parsed, parse


@dataclass(frozen=True, slots=True)
class Reading:
    """What to read, and how."""

    paths: tuple[str, ...]
    tcp_ports: frozenset[int]
    tcp_checksums: bool = False
    follow: bool = False
    chunk_bytes: int = CHUNK_BYTES


@dataclass(slots=True)
class About:
    """Where a chunk stands in the capture."""

    file: int
    """Index of the file."""
    first_frame: int
    """Number of the chunk's first frame in the capture."""
    time: int | None
    """Of the first frame that has one, in ns since 1970; None where none has."""
    consumed: int
    """Bytes of all files up to here, as they lie on disk."""
    counts: FrameCounts
    """Counts of this chunk."""


def read_here(reading: Reading) -> Generator[tuple[Parsed, About]]:
    """Read and parse all files. Raises ``CaptureError`` after the last good chunk."""
    reader = FrameReader(reading.paths, follow=reading.follow, chunk_bytes=reading.chunk_bytes)
    for batch in reader:
        yield parse_chunk(batch, reading.tcp_ports, reader.consumed, tcp_checksums=reading.tcp_checksums)


def parse_chunk(
    batch: FrameBatch, tcp_ports: frozenset[int], consumed: int, *, tcp_checksums: bool
) -> tuple[Parsed, About]:
    """Parse what one chunk brought."""
    counts = FrameCounts()
    parsed = parse(batch, counts, tcp_ports, tcp_checksums=tcp_checksums)
    timed = batch.time != NO_TIME
    first = int(np.argmax(timed))
    time = int(batch.time[first]) if timed[first] else None
    return parsed, About(batch.file, int(batch.frame[0]), time, consumed, counts)
