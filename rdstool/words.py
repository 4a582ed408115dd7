"""Numbers in plain words, for whatever people read."""

from __future__ import annotations


def plural(count: int, noun: str) -> str:
    """``1 path``, ``2 paths``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
