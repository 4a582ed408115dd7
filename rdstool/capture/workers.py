"""Run a stage of capture reading in a process of its own, ahead of this one.

What the other process makes comes through a pipe, item by item, and so does the ``CaptureError`` that ends it. A
process that nobody listens to any more ends by itself, and on Linux when the first one is killed.
"""

from __future__ import annotations

import ctypes
import pickle
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from mmap import mmap
from typing import TYPE_CHECKING, Any

from rdstool.errors import CaptureError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

_PR_SET_PDEATHSIG = 1
"""``prctl``: the signal that this process gets when its parent ends (linux/prctl.h)."""


def can_fork() -> bool:
    """Tell whether processes start as copies of this one: at once, and with its anonymous memory shared."""
    return sys.platform == "linux" and threading.active_count() == 1


@contextmanager
def worker(run: Callable[..., None], *arguments: Any) -> Iterator[Connection]:
    """Start ``run(*arguments, pipe)`` in another process; gives this end of the pipe, and ends the process at last."""
    import multiprocessing  # noqa: PLC0415 - one process does without it

    context: Any = multiprocessing.get_context("fork" if can_fork() else "spawn")
    here, there = context.Pipe()
    process = context.Process(target=_start, args=(run, arguments, there))
    with warnings.catch_warnings():
        # Python warns of fork beside NumPy's idle threads, which the child never uses.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    there.close()
    try:
        yield here
    finally:
        here.close()
        process.kill()  # It has nothing to put in order, and may be waiting for a file to grow.
        process.join()


def _start(run: Callable[..., None], arguments: tuple[Any, ...], pipe: Connection) -> None:
    # Ctrl-C goes to all processes of the terminal; the first one decides what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    run(*arguments, pipe)


class Slots:
    """Shared memory for the arrays of a few items. What was received from it is valid until the next is asked for."""

    def __init__(self, count: int, size: int) -> None:
        # Anonymous memory is shared with a forked process only; without it, everything goes through the pipe.
        self.slots = [mmap(-1, size) for _ in range(count)] if can_fork() else []
        self.size = size
        self._free = list(range(len(self.slots)))

    def put(self, buffers: Sequence[memoryview], pipe: Connection) -> tuple[int, list[int]] | None:
        """Copy into a slot, waiting until one is free. Returns it and the sizes, None where they do not fit."""
        sizes = [len(buffer) for buffer in buffers]
        if not self.slots or sum(map(_aligned, sizes)) > self.size:
            return None
        while not self._free or pipe.poll():
            self._free.append(pipe.recv())
        slot = self._free.pop()
        at = 0
        for buffer, size in zip(buffers, sizes, strict=True):
            self.slots[slot][at : at + size] = buffer
            at += _aligned(size)
        return slot, sizes

    def get(self, slot: int, sizes: Sequence[int]) -> list[memoryview]:
        """Return what was put into a slot."""
        view = memoryview(self.slots[slot])
        parts = []
        at = 0
        for size in sizes:
            parts.append(view[at : at + size])
            at += _aligned(size)
        return parts


def _aligned(size: int) -> int:
    return (size + 63) & ~63


def serve(items: Iterable[Any], pipe: Connection, slots: Slots | None = None) -> None:
    """Send all items, then the end; where they end in a ``CaptureError``, send that."""
    try:
        try:
            for item in items:
                buffers: list[pickle.PickleBuffer] = []
                content = pickle.dumps(item, 5, buffer_callback=buffers.append if slots else None)
                place = slots.put([buffer.raw() for buffer in buffers], pipe) if slots else None
                if buffers and place is None:
                    content = pickle.dumps(item, 5)
                pipe.send_bytes(pickle.dumps(("item", content, place)))
            pipe.send_bytes(pickle.dumps(("end", None, None)))
        except CaptureError as error:
            pipe.send_bytes(pickle.dumps(("error", (str(error), error.position), None)))
    except (BrokenPipeError, ConnectionResetError, EOFError):
        pass  # The other side has ended early and needs nothing more.


def received(pipe: Connection, slots: Slots | None = None) -> Generator[Any]:
    """Yield what :func:`serve` sends. Raises its ``CaptureError``."""
    while True:
        try:
            kind, content, place = pickle.loads(pipe.recv_bytes())  # noqa: S301 - from our own process
        except (EOFError, ConnectionResetError):
            raise CaptureError("the reading process ended unexpectedly: try again with --jobs 1") from None
        if kind == "end":
            return
        if kind == "error":
            raise CaptureError(*content)
        shared = slots.get(*place) if slots and place else None
        yield pickle.loads(content, buffers=shared)  # noqa: S301
        if place:
            with suppress(BrokenPipeError):  # It has sent everything, and ended.
                pipe.send(place[0])
