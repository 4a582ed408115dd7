"""A program in a guest, joined to this process's standard streams."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from rdstool.errors import LabError

_CHUNK_BYTES = 1 << 15
_PASSED_ON = ("COLUMNS", "HOME", "LANG", "LC_ALL", "LINES", "NO_COLOR", "PATH", "PYTHONPATH", "TERM", "VIRTUAL_ENV")
"""Environment variables that a program in a guest should see as it would here."""


class Stream(Protocol):
    """``GuestStream``, or one of a guest that stays up."""

    def feed(self, data: bytes) -> None:
        """Give the program more to read; nothing at all is the end."""

    def wait(self) -> int:
        """Its exit status; negative for a signal."""


def passed_environment() -> dict[str, str]:
    """What a program in a guest gets of this process's environment."""
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ}


def write_through(number: int, data: bytes) -> None:
    """Write what a program printed, to stdout (1) or stderr (2)."""
    stream = sys.stdout if number == 1 else sys.stderr
    stream.buffer.write(data)
    stream.buffer.flush()


def join(start: Callable[[bool], Stream]) -> int:
    """Run a program with this process's streams; the exit status as a shell gives it: 128 and the signal's number.

    ``start`` starts it, and is told whether it shall read what is fed: a terminal's keys are not passed on.
    """
    reads = not sys.stdin.isatty()
    stream = start(reads)
    if reads:
        threading.Thread(target=_feed, args=(stream,), daemon=True).start()
    status = stream.wait()
    return 128 - status if status < 0 else status


def _feed(stream: Stream) -> None:
    with suppress(LabError, OSError):  # the program has ended, or reads no more: its status tells
        while data := os.read(sys.stdin.fileno(), _CHUNK_BYTES):
            stream.feed(data)
        stream.feed(b"")
