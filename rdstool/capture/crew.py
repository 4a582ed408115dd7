"""Several processes that work on one thing: copies of this one, pipes between them, and memory that they share."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import pickle
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from fcntl import fcntl
from multiprocessing import get_context
from multiprocessing.connection import wait
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdstool.errors import CaptureError
from rdstool.parentage import end_with_parent

PIPE_BYTES = 1 << 20
"""What waits in a pipe until it is read."""
KEPT_BYTES = 64 << 20
"""Memory that all processes of a crew keep for their next step: given back, its pages would be cleared each time."""
WAITING_ITEMS, ITEM_BYTES = 4, 8 << 20
"""What a process may deliver before the first one takes it: a pipe alone holds less than one item."""
ALIGNED_BYTES = 64
"""Columns on a shelf begin at multiples of this."""
_ENDED = "a worker process ended unexpectedly: try again with --jobs 1"
_F_SETPIPE_SZ = 1031
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def can_fork() -> bool:
    """Tell whether processes start as copies of this one: at once, and with its anonymous memory shared."""
    return sys.platform == "linux" and threading.active_count() == 1


class Pipe:
    """One way between processes. What is short comes through whole, even from several writers."""

    def __init__(self) -> None:
        self.reader, self.writer = get_context("fork").Pipe(duplex=False)
        with suppress(OSError):  # More than an unprivileged user may have: then it stays as small as it is.
            fcntl(self.writer.fileno(), _F_SETPIPE_SZ, PIPE_BYTES)

    def close(self) -> None:
        """Close both ends."""
        self.reader.close()
        self.writer.close()


def _shared(size: int) -> mmap.mmap:
    """Memory that processes have in common. Pages that are never written to take none."""
    try:
        return mmap.mmap(-1, size)
    except OSError as error:
        raise CaptureError("there is no memory that processes could share: try again with --jobs 1") from error


class Shelf:
    """Shared memory in places, each for one item that is made of arrays, valid until another is placed there."""

    def __init__(self, places: int, size: int) -> None:
        self._places = [_shared(size) for _ in range(places)]

    def put(self, number: int, at: int, columns: Iterable[NDArray[Any]], rows: NDArray[np.intp]) -> int:
        """Place these rows of columns from byte ``at`` of an item on; returns where they end."""
        for column in columns:
            room, at = self._room(number, at, column.dtype, len(rows))
            # Indices are good. Were they to be checked, NumPy would gather the rows elsewhere and copy them here.
            np.take(column, rows, out=room, mode="clip")
        return at

    def get(self, number: int, at: int, dtypes: Iterable[np.dtype[Any]], count: int) -> tuple[list[NDArray[Any]], int]:
        """Columns of ``count`` rows from byte ``at`` of an item on, and where they end."""
        columns = []
        for dtype in dtypes:
            column, at = self._room(number, at, dtype, count)
            columns.append(column)
        return columns, at

    def _room(self, number: int, at: int, dtype: np.dtype[Any], count: int) -> tuple[NDArray[Any], int]:
        place = self._places[number % len(self._places)]
        at = -(-at // ALIGNED_BYTES) * ALIGNED_BYTES
        return np.frombuffer(place, dtype, count, at), at + count * dtype.itemsize


class _Basket:
    """Where a process lays the arrays of what it delivers: shared memory with places that are used in turn.

    Each side counts the items for itself.
    """

    def __init__(self) -> None:
        self._places = [_shared(ITEM_BYTES) for _ in range(WAITING_ITEMS)]
        self._taken = np.frombuffer(_shared(mmap.PAGESIZE), np.int64)
        """Items that the first process has taken."""
        self._number = 0

    def lay(self, arrays: list[memoryview]) -> bool:
        """Lay the arrays of the next item here; False where there is no room."""
        number = self._number
        self._number += 1
        if number - self._taken[0] >= WAITING_ITEMS or sum(map(len, arrays)) > ITEM_BYTES:
            return False
        place, at = self._places[number % WAITING_ITEMS], 0
        for array in arrays:
            place[at : at + len(array)] = array
            at += len(array)
        return True

    def take(self, sizes: list[int], *, here: bool) -> list[NDArray[np.uint8]]:
        """Copies of the next item's arrays, which are empty where it was not laid here."""
        number = self._number
        self._number += 1
        # Told with the item behind it: by now all of the one before was copied.
        self._taken[0] = number
        place = np.frombuffer(self._places[number % WAITING_ITEMS], np.uint8)
        ends = np.cumsum(sizes).tolist()
        return [
            place[end - size : end].copy() if here else np.empty(size, np.uint8)
            for size, end in zip(sizes, ends, strict=True)
        ]


class Deliveries:
    """The way from one process to the first one."""

    def __init__(self) -> None:
        self.pipe = Pipe()
        self._basket = _Basket()

    def send(self, item: Any) -> None:
        """Send an item, the arrays in it as they are: they need not be copied into one message."""
        buffers: list[pickle.PickleBuffer] = []
        head = pickle.dumps(item, 5, buffer_callback=buffers.append)
        arrays = [buffer.raw() for buffer in buffers]
        laid = self._basket.lay(arrays)
        self.pipe.writer.send(([len(array) for array in arrays], laid, head))
        for array in arrays if not laid else ():
            _write(self.pipe.writer.fileno(), array)

    def receive(self) -> Any:
        """The next item. Raises ``EOFError`` at the end of the pipe."""
        sizes, laid, head = self.pipe.reader.recv()
        arrays = self._basket.take(sizes, here=laid)
        for array in arrays if not laid else ():
            _fill(self.pipe.reader.fileno(), array.data)
        return pickle.loads(head, buffers=arrays)  # noqa: S301 - from a process of our own


def _write(file: int, data: memoryview) -> None:
    while data:
        data = data[os.write(file, data) :]


def _fill(file: int, data: memoryview) -> None:
    while data:
        got = os.readv(file, [data])
        if not got:
            raise EOFError
        data = data[got:]


class Crew:
    """Processes that were started, and what they deliver."""

    def __init__(self, deliveries: list[Deliveries], processes: list[Any]) -> None:
        self._deliveries = deliveries
        self._processes = processes

    def receive(self) -> list[Any]:
        """The next item of each process. Raises the ``CaptureError`` of one, or that one ended unexpectedly."""
        items = []
        for deliveries in self._deliveries:
            pipe = deliveries.pipe.reader
            while pipe not in (ready := wait([pipe, *(process.sentinel for process in self._processes)])):
                ended = [process for process in self._processes if process.sentinel in ready]
                for process in ended:
                    process.join()  # Its files are closed a moment before its exit code is known.
                    if process.exitcode:
                        raise CaptureError(_ENDED)
                self._processes = [process for process in self._processes if process not in ended]
            try:
                item = deliveries.receive()
            except EOFError:
                raise CaptureError(_ENDED) from None
            if isinstance(item, CaptureError):
                raise item
            items.append(item)
        return items


@contextmanager
def crew(size: int, run: Callable[..., None], *arguments: Any) -> Iterator[Crew]:
    """Start ``run(*arguments, number, deliver)`` in ``size`` processes; all are ended with the context."""
    ways = [Deliveries() for _ in range(size)]
    parent = os.getpid()
    context = get_context("fork")
    processes = [context.Process(target=_start, args=(parent, ways, number, run, arguments)) for number in range(size)]
    try:
        with warnings.catch_warnings():
            # Python warns of fork beside NumPy's idle threads, which the child never uses.
            warnings.simplefilter("ignore", DeprecationWarning)
            for process in processes:
                process.start()
        for way in ways:
            way.pipe.writer.close()
        yield Crew(ways, list(processes))
    finally:
        for process in processes:
            if process.pid is not None:
                process.kill()
                process.join()
        for way in ways:
            way.pipe.close()


def _start(
    parent: int, ways: list[Deliveries], number: int, run: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    # What was there before the fork is shared as long as nobody writes to it, which the collector would.
    gc.freeze()
    # Ctrl-C goes to all processes of the terminal; the first one decides what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Where that one is killed, nobody else would end this one.
    end_with_parent(parent, signal.SIGKILL)
    libc = ctypes.CDLL(None)
    with suppress(AttributeError):  # A C library that knows nothing of it.
        for parameter in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
            libc.mallopt(parameter, KEPT_BYTES // len(ways))
    # A pipe that nobody else can write to ends with its process.
    for other, way in enumerate(ways):
        if other != number:
            way.pipe.close()
    deliver = ways[number].send
    try:
        run(*arguments, number, deliver)
    except CaptureError as error:
        deliver(error)
    # What the first process has not yet written is not to be written by this one as well.
    os._exit(0)
