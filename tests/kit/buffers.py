"""Fills buffers as the system does."""

from __future__ import annotations

from collections.abc import Sequence


def scatter(data: bytes, buffers: Sequence[memoryview | bytearray]) -> None:
    """Put bytes into one buffer after the other (readv(2)); there has to be room for all of them."""
    assert len(data) <= sum(map(len, buffers))
    at = 0
    for buffer in buffers:
        part = data[at : at + len(buffer)]
        buffer[: len(part)] = part
        at += len(part)
