"""RDS messages for scripts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dissectors.wire.congestion import BITMAP_BYTES, bitmap_of
from dissectors.wire.extensions import Extension, GenNum, NPaths, SportIdx, build_extensions
from dissectors.wire.rds import Flags, RdsHeader

GENERATION = 0x5EED1234
MODERN: tuple[Extension, ...] = (NPaths(8), GenNum(GENERATION), SportIdx())
"""The handshake of 7.0 and later."""
OLD: tuple[Extension, ...] = (NPaths(8),)
"""The handshake of earlier kernels."""


def header(sequence: int, length: int, sport: int, dport: int, **fields: Any) -> RdsHeader:
    """A header; ``extensions`` are built into their field."""
    extensions: Iterable[Extension] = fields.pop("extensions", ())
    fields.setdefault("exthdr", build_extensions(extensions))
    return RdsHeader(sequence=sequence, length=length, sport=sport, dport=dport, **fields)


def bitmap(*ports: int) -> tuple[RdsHeader, bytes]:
    """A congestion bitmap with these ports marked."""
    return header(0, BITMAP_BYTES, 0, 0, flags=int(Flags.CONG_BITMAP)), bitmap_of(ports)


def text(size: int, seed: int = 0) -> bytes:
    """Payload of that size."""
    return bytes((seed * 31 + index * 7) & 0xFF for index in range(size))
