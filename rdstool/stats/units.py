"""Values with their units, as people read them; ``-`` stands for what is not known."""

from __future__ import annotations

from datetime import UTC, datetime

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
_MS = 1e-3
_US = 1e-6


def amount(value: float | None) -> str:
    """Bytes with a decimal unit."""
    if value is None:
        return "-"
    step = 0
    while abs(value) >= 10_000 and step < len(_UNITS) - 1:
        value /= 1000
        step += 1
    return f"{value:.0f} {_UNITS[step]}"


def rate(value: float | None) -> str:
    """Bytes a second."""
    return "-" if value is None else f"{amount(value)}/s"


def duration(seconds: float | None) -> str:
    """Seconds, milliseconds or microseconds, three digits."""
    if seconds is None:
        return "-"
    if abs(seconds) >= 1:
        return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:.0f} s"
    return f"{seconds / _MS:.3g} ms" if abs(seconds) >= _MS else f"{seconds / _US:.3g} us"


def share(value: float | None) -> str:
    """A share in percent; 100 % only where nothing is missing."""
    if value is None:
        return "-"
    return "100 %" if value == 1 else f"{min(value * 100, 99.99):.4g} %"


def moment(seconds: float | None) -> str:
    """UTC with microseconds."""
    if seconds is None:
        return "-"
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    except (OverflowError, ValueError, OSError):
        return f"{seconds} s"
