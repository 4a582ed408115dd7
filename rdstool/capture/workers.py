"""Run a stage of capture reading in a process of its own, ahead of this one.

What the other process makes comes through a pipe, item by item, and so does the ``CaptureError`` that ends it. A
process that nobody listens to any more ends by itself.
"""

from __future__ import annotations

import pickle
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rdstool.errors import CaptureError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

_END_SECONDS = 5.0
"""Time that a process gets to end."""


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
        process.join(_END_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()


def _start(run: Callable[..., None], arguments: tuple[Any, ...], pipe: Connection) -> None:
    # Ctrl-C goes to all processes of the terminal; the first one decides what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run(*arguments, pipe)


def serve(items: Iterable[Any], pipe: Connection) -> None:
    """Send all items, then the end; where they end in a ``CaptureError``, send that."""
    try:
        try:
            for item in items:
                pipe.send_bytes(pickle.dumps(("item", item), pickle.HIGHEST_PROTOCOL))
            pipe.send_bytes(pickle.dumps(("end", None)))
        except CaptureError as error:
            pipe.send_bytes(pickle.dumps(("error", (str(error), error.position))))
    except (BrokenPipeError, ConnectionResetError, EOFError):
        pass  # The other side has ended early and needs nothing more.


def received(pipe: Connection) -> Generator[Any]:
    """Yield what :func:`serve` sends. Raises its ``CaptureError``."""
    while True:
        try:
            kind, content = pickle.loads(pipe.recv_bytes())  # noqa: S301 - from our own process
        except (EOFError, ConnectionResetError):
            raise CaptureError("the reading process ended unexpectedly: try again with --jobs 1") from None
        if kind == "end":
            return
        if kind == "error":
            raise CaptureError(*content)
        yield content
