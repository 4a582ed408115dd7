"""Congestion bitmaps of a batch: nearly all are empty, and nearly all others were seen before."""

from __future__ import annotations

from functools import lru_cache

from dissectors.wire.congestion import BITMAP_BYTES, congested_ports
from dissectors.wire.rds import Flags
from rdstool.validate.view import View

EMPTY = bytes(BITMAP_BYTES)
_BITMAP = int(Flags.CONG_BITMAP)
_CACHED_BITMAPS = 64
"""Bitmaps whose ports are remembered: one that is sent on several paths is read once."""


@lru_cache(maxsize=_CACHED_BITMAPS)
def _ports(bitmap: bytes) -> tuple[int, ...]:
    return tuple(congested_ports(bitmap))


def marked_ports(view: View) -> dict[int, list[int]]:
    """Row -> ports that its bitmap marks, for bitmaps that were seen whole."""
    return {
        row: [] if payload == EMPTY else list(_ports(payload))
        for row, payload in sorted(view.decoded.messages.payloads.items())
        if len(payload) == BITMAP_BYTES and view.flags[row] == _BITMAP
    }
