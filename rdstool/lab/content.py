"""What test messages consist of: bytes that follow from a seed, so that both ends know them without exchanging them."""

from __future__ import annotations

import hashlib


def payload(seed: int, size: int) -> bytes:
    """``size`` bytes that differ for every seed, and for every size."""
    return hashlib.shake_128(b"rdstool %d %d" % (seed, size)).digest(size)


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
