"""Files to parsed packets, in this process or in one of its own.

Reading and parsing know nothing of streams, so they can run ahead in another process while this one reassembles.
The chunk's bytes go through shared memory, what was parsed of them through a pipe.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from mmap import mmap
from typing import TYPE_CHECKING

import numpy as np

from rdstool.capture.columns import Bytes
from rdstool.capture.counts import FrameCounts
from rdstool.capture.frames import CHUNK_BYTES, FrameReader
from rdstool.capture.network import Parsed, parse
from rdstool.capture.workers import can_fork, received, serve, worker

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

SLOTS = 4
"""Chunks that the reading process may be ahead."""
SLOT_BYTES = 2 * CHUNK_BYTES
"""A chunk with what was left over of the one before; larger ones (of huge frames) go through the pipe."""


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
    # Anonymous memory is shared with a forked process only; else everything goes through the pipe.
    slots = [mmap(-1, SLOT_BYTES) for _ in range(SLOTS)] if can_fork() else []
    with worker(_read_for, reading, slots) as pipe:
        for arrival, slot, size in received(pipe):
            if slot is not None:
                arrival.parsed = _with_data(arrival.parsed, np.frombuffer(slots[slot], np.uint8, size))
            yield arrival
            if slot is not None:
                with suppress(BrokenPipeError):  # It has read everything, and ended.
                    pipe.send(slot)


def _read_for(reading: Reading, slots: Sequence[mmap], pipe: Connection) -> None:
    """Run in the other process: read, parse, and hand over until the end, or until nobody listens."""
    serve(_handed_over(reading, slots, pipe), pipe)


def _handed_over(
    reading: Reading, slots: Sequence[mmap], pipe: Connection
) -> Iterator[tuple[Arrival, int | None, int]]:
    """Arrivals with their bytes moved to a slot: (arrival, slot or None, bytes in the slot)."""
    free = list(range(len(slots)))
    for arrival in read_here(reading):
        data = arrival.parsed.tcp.data
        slot = None
        if slots and len(data) <= SLOT_BYTES:
            while not free or pipe.poll():
                free.append(pipe.recv())
            slot = free.pop()
            slots[slot][: len(data)] = memoryview(data.data)
            arrival.parsed = _with_data(arrival.parsed, np.empty(0, np.uint8))
        yield arrival, slot, len(data)


def _with_data(parsed: Parsed, data: Bytes) -> Parsed:
    return Parsed(replace(parsed.tcp, data=data), replace(parsed.ib, data=data))
