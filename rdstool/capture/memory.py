"""What becomes of memory that was given back: kept for the next chunk, which needs as much, or handed to the kernel."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

KEPT_BYTES = 64 << 20
"""Memory that is kept, by all processes that work on one thing together."""
_MOST_APART_BYTES = 32 << 20
"""The C library takes no larger threshold: above it, a block has pages of its own (mallopt(3), M_MMAP_THRESHOLD)."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_memory(size: int = KEPT_BYTES) -> None:
    """Keep up to ``size`` bytes that were given back. Each chunk would have its pages cleared by the kernel otherwise.

    Concerns the whole process, so programs and commands call it, not what they call. Without effect where the C library
    is not that of GNU.
    """
    if sys.platform != "linux":
        return
    with suppress(AttributeError):  # A C library that knows nothing of it.
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, size)
        mallopt(_M_MMAP_THRESHOLD, min(size, _MOST_APART_BYTES))
