"""Words of which an option takes one: all commands refuse others in the same way."""

from __future__ import annotations

from collections.abc import Iterable

from rdstool.errors import UsageError


def one_of(option: str, value: str, known: Iterable[str]) -> str:
    """``value``, as it was given for ``option``. Raises ``UsageError`` where it is not one of ``known``."""
    words = tuple(known)
    if value not in words:
        raise UsageError(f"{option} {value} is not known: take one of {', '.join(words)}")
    return value
