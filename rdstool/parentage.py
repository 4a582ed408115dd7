"""Processes that end with the one that started them, however that ended: it may be killed, and can do nothing then."""

from __future__ import annotations

import ctypes
import os
from signal import Signals

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


def end_with_parent(parent: int, number: Signals) -> None:
    """Let the kernel send a signal to this process when its parent ends, or at once where it has. Linux only.

    It holds for a program that is executed next, too.
    """
    _LIBC.prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def outlive_parent() -> None:
    """Take that back."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, 0)
