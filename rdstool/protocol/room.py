"""Memory for a payload that is about to be read, which is not filled with zeros first.

Python fills what it makes by size. For 1 MiB that is a third of what receiving it costs, and every byte is written
again at once.
"""

from __future__ import annotations

import ctypes
import sys
from io import BytesIO

if sys.implementation.name == "cpython":
    # C API: "If v is NULL, the contents of the bytes object are uninitialized."
    _make = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t)(
        ("PyBytes_FromStringAndSize", ctypes.pythonapi)
    )

    def room_for(size: int) -> BytesIO:
        """A buffer of ``size`` bytes. What they are is not defined until they are written: give none before."""
        return BytesIO(_make(None, size))

else:

    def room_for(size: int) -> BytesIO:
        """A buffer of ``size`` bytes, of zeros."""
        return BytesIO(bytes(size))
