"""Files to parsed packets, in this process or in one of its own.

Reading and parsing know nothing of streams, so they can run ahead in another process while this one reassembles.
The chunk's bytes go through shared memory, what was parsed of them through a pipe.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

from rdstool.capture.columns import IbPackets
from rdstool.capture.counts import FrameCounts
from rdstool.capture.frames import CHUNK_BYTES, FrameReader
from rdstool.capture.network import Parsed, parse
from rdstool.capture.workers import Slots, received, serve, worker

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

SLOTS = 4
"""Chunks that the reading process may be ahead."""
SLOT_BYTES = 4 * CHUNK_BYTES
"""A chunk with what was left over of the one before, and the columns of it; larger ones go through the pipe."""
_IB_COLUMNS = [item.name for item in fields(IbPackets) if item.name != "data"]


@dataclass(frozen=True, slots=True)
class Reading:
    """What to read, and how."""

    paths: tuple[str, ...]
    tcp_ports: frozenset[int]
    follow: bool = False


@dataclass(slots=True)
class Arrival:
    """What one chunk brought."""

    parsed: Parsed
    file: int
    """Index of the file."""
    first_frame: int
    """Number of the chunk's first frame in the capture."""
    consumed: int
    """Bytes of all files up to here, as they lie on disk."""
    counts: FrameCounts
    """Of all chunks up to this one."""


def read_here(reading: Reading) -> Generator[Arrival]:
    """Read and parse in this process. Raises ``CaptureError`` after the last good chunk."""
    counts = FrameCounts()
    reader = FrameReader(reading.paths, follow=reading.follow)
    for batch in reader:
        parsed = parse(batch, counts, reading.tcp_ports)
        yield Arrival(parsed, batch.file, int(batch.frame[0]), reader.consumed, counts)


def read_ahead(reading: Reading) -> Generator[Arrival]:
    """Read and parse in another process. The same arrivals and errors as :func:`read_here`."""
    slots = Slots(SLOTS, SLOT_BYTES)
    with worker(_read_for, reading, slots) as pipe:
        for arrival in received(pipe, slots):
            # Queue pairs that are not judged yet keep columns; connections keep none.
            columns = {name: getattr(arrival.parsed.ib, name).copy() for name in _IB_COLUMNS}
            arrival.parsed.ib = replace(arrival.parsed.ib, **columns)
            yield arrival


def _read_for(reading: Reading, slots: Slots, pipe: Connection) -> None:
    serve(read_here(reading), pipe, slots)
