"""Files to parsed packets, in this process or in one of its own.

Reading and parsing know nothing of streams, so they can run ahead in a second process while this one reassembles.
The chunk's bytes go through shared memory, what was parsed of them through a pipe.
"""

from __future__ import annotations

import pickle
import signal
import sys
import threading
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from mmap import mmap
from typing import TYPE_CHECKING, Any

import numpy as np

from rdstool.capture.counts import FrameCounts
from rdstool.capture.frames import CHUNK_BYTES, FrameReader
from rdstool.capture.network import Parsed, parse
from rdstool.errors import CaptureError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

SLOTS = 4
"""Chunks that the reading process may be ahead."""
SLOT_BYTES = 2 * CHUNK_BYTES
"""A chunk with what was left over of the one before; larger ones (of huge frames) go through the pipe."""
_END_SECONDS = 5.0
"""Time that the reading process gets to end."""


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
    import multiprocessing  # noqa: PLC0415 - one process does without it

    # Fork starts at once and shares anonymous memory; without it, everything goes through the pipe.
    forks = sys.platform == "linux" and threading.active_count() == 1
    context: Any = multiprocessing.get_context("fork" if forks else "spawn")
    slots = [mmap(-1, SLOT_BYTES) for _ in range(SLOTS)] if forks else []
    here, there = context.Pipe()
    process = context.Process(target=_read_for, args=(reading, slots, there), daemon=True)
    with warnings.catch_warnings():
        # Python warns of fork beside NumPy's idle threads, which the child never uses.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    there.close()
    try:
        yield from _arrivals(here, slots)
    finally:
        here.close()
        process.join(_END_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()


def _arrivals(pipe: Connection, slots: Sequence[mmap]) -> Iterator[Arrival]:
    while True:
        try:
            kind, *rest = pickle.loads(pipe.recv_bytes())  # noqa: S301 - from our own process
        except EOFError:
            raise CaptureError("the reading process ended unexpectedly: try again with --jobs 1") from None
        if kind == "end":
            return
        if kind == "error":
            raise CaptureError(*rest)
        arrival, slot, size = rest
        if slot is not None:
            data = np.frombuffer(slots[slot], np.uint8, size)
            arrival.parsed = Parsed(replace(arrival.parsed.tcp, data=data), replace(arrival.parsed.ib, data=data))
            yield arrival
            with suppress(BrokenPipeError):  # It has read everything, and ended.
                pipe.send(slot)
        else:
            yield arrival


def _read_for(reading: Reading, slots: Sequence[mmap], pipe: Connection) -> None:
    """Run in the other process: read, parse, and hand over until the end, or until nobody listens."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    free = list(range(len(slots)))
    try:
        for arrival in read_here(reading):
            data = arrival.parsed.tcp.data
            slot = None
            if slots and len(data) <= SLOT_BYTES:
                while not free or pipe.poll():
                    free.append(pipe.recv())
                slot = free.pop()
                slots[slot][: len(data)] = memoryview(data.data)
                bare = np.empty(0, np.uint8)
                arrival.parsed = Parsed(replace(arrival.parsed.tcp, data=bare), replace(arrival.parsed.ib, data=bare))
            pipe.send_bytes(pickle.dumps(("item", arrival, slot, len(data)), pickle.HIGHEST_PROTOCOL))
        pipe.send_bytes(pickle.dumps(("end",)))
    except CaptureError as error:
        pipe.send_bytes(pickle.dumps(("error", str(error), error.position)))
    except (BrokenPipeError, EOFError, ConnectionResetError):
        pass  # The other side has ended early and needs nothing more.
