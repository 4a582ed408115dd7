"""Numbers on the command line: bytes, times, and numbers of 64 bits."""

from __future__ import annotations

import re

from rdstool.errors import UsageError

_UNITS = {"": 1.0, "s": 1.0, "sec": 1.0, "ms": 1e-3, "msec": 1e-3, "us": 1e-6, "usec": 1e-6}
_DURATION = re.compile(r"(\d+\.?\d*|\.\d+)\s*([a-z]*)")


def byte_count(text: str, option: str) -> int:
    """A number of bytes; suffixes K and M are binary. Raises ``UsageError``, which begins with ``option``."""
    digits, factor = text, 1
    if text[-1:].upper() in {"K", "M"}:
        digits, factor = text[:-1], 1 << 10 if text[-1].upper() == "K" else 1 << 20
    if not digits.isascii() or not digits.isdigit():
        raise UsageError(f"{option}: {text!r} is not a number of bytes")
    return int(digits) * factor


def duration(text: str) -> float:
    """Seconds of ``1``, ``0.5s``, ``20ms``, ``100usec``. Raises ``UsageError``."""
    found = _DURATION.fullmatch(text.strip().lower())
    if found is None or found[2] not in _UNITS:
        raise UsageError(f"{text!r} is not a time: write 1, 0.5s, 20ms or 100us")
    return float(found[1]) * _UNITS[found[2]]


def number_64(text: str, what: str) -> int:
    """A number of 64 bits, decimal or with 0x. Raises ``UsageError``, which says that it is not ``what``."""
    try:
        value = int(text, 0)
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 64:
        raise UsageError(f"{text!r} is not {what}: a number of 64 bits, such as 0x1f3a")
    return value
