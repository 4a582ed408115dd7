"""Numbers on the command line: bytes, durations, and numbers of 64 bits."""

from __future__ import annotations

from rdstool.durations import seconds_of
from rdstool.errors import UsageError

DURATION = "TIME"
"""What help texts call the value of every option that takes a duration."""


def byte_count(text: str, option: str) -> int:
    """A number of bytes; suffixes K and M are binary. Raises ``UsageError``, which begins with ``option``."""
    digits, factor = text, 1
    if text[-1:].upper() in {"K", "M"}:
        digits, factor = text[:-1], 1 << 10 if text[-1].upper() == "K" else 1 << 20
    if not digits.isascii() or not digits.isdigit():
        raise UsageError(f"{option}: {text!r} is not a number of bytes")
    return int(digits) * factor


def duration(text: str, option: str) -> float:
    """The seconds of a duration, which may be 0. Raises ``UsageError``, which begins with ``option``."""
    try:
        return seconds_of(text)
    except ValueError:
        raise UsageError(f"{option}: {text!r} is not a duration: write seconds, or 500ms, 2s, 1m") from None


def time_limit(text: str, option: str = "--timeout") -> float:
    """The seconds after which something is given up, more than 0. Raises ``UsageError``, as ``duration``."""
    seconds = duration(text, option)
    if not seconds:
        raise UsageError(f"{option} {text} leaves no time: write seconds, or 500ms, 2s, 1m")
    return seconds


def whole_seconds(text: str, option: str) -> int:
    """A duration that is told to a program that counts in seconds. Raises ``UsageError``, as ``duration``."""
    seconds = duration(text, option)
    if not seconds.is_integer():
        raise UsageError(f"{option}: {text} is not a whole number of seconds")
    return int(seconds)


def number_64(text: str, what: str) -> int:
    """A number of 64 bits, decimal or with 0x. Raises ``UsageError``, which says that it is not ``what``."""
    value = _integer(text, 0)
    if value is None:
        raise UsageError(f"{text!r} is not {what}: a number of 64 bits, such as 0x1f3a")
    return value


def operand_64(text: str, option: str) -> int:
    """A number of 64 bits to count with; below 0 the two's complement. Raises ``UsageError``, as ``duration``."""
    value = _integer(text, -1 << 63)
    if value is None:
        raise UsageError(f"{option}: {text!r} is not a number of 64 bits, such as 7, -1 or 0x1f3a")
    return value % (1 << 64)


def _integer(text: str, least: int) -> int | None:
    """The number from ``least`` to 64 bits; None where there is none."""
    try:
        value = int(text, 0)
    except ValueError:
        return None
    return value if least <= value < 1 << 64 else None
