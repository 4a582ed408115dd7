"""TCP checksums of many segments at once (RFC 1071, 9293 §3.1).

A sum of 16-bit words in ones' complement is that of their values modulo 65,535, so plain sums do. So do words of the
other byte order: they sum up to the same with the bytes changed over.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rdstool.capture.columns import Bytes, Ints

_MODULUS = 0xFFFF
_PROTOCOL_TCP = 6

Addresses = tuple[NDArray[np.uint64], ...]
"""Of IP: source and destination, each in two halves. What IPv4-mapped ones have in front counts nothing."""


def intact(data: Bytes, begin: Ints, end: Ints, field: NDArray[np.uint16], addresses: Addresses) -> NDArray[np.bool_]:
    """Which segments ``data[begin:end]``, header and all, agree with the checksum ``field`` in them.

    One that the network adapter was to finish is as good: it holds the sum of the pseudo header alone, with the length
    as Linux leaves it there, or without, as Windows does for segments that are to be cut.
    """
    length = end - begin
    pseudo = _PROTOCOL_TCP + sum((_words(half) for half in addresses), start=np.zeros(len(begin), np.int64))
    whole = (_sums(data, begin, end) + pseudo + length) % _MODULUS == 0
    left = (field.astype(np.int64) - pseudo) % _MODULUS
    return np.asarray(whole | (left == length % _MODULUS) | (left == 0))


def _words(half: NDArray[np.uint64]) -> Ints:
    """The sum of four 16-bit words."""
    return np.asarray(half % np.uint64(_MODULUS)).astype(np.int64)  # 2^16 leaves 1


def _sums(data: Bytes, begin: Ints, end: Ints) -> Ints:
    """Sums of the big-endian words of ``data[begin:end]``, modulo 65,535; an odd last byte is the upper half of one.

    Each has two bytes at least.
    """
    if not len(begin):
        return np.zeros(0, np.int64)
    words = data[: len(data) & ~1].view("<u2")
    first, last = begin >> 1, end >> 1
    bounds = np.stack([first, last], axis=1).ravel()
    # A word more, so that a segment may end where the words do.
    totals = np.add.reduceat(np.append(words, np.uint16(0)), bounds, dtype=np.uint64)[::2].astype(np.int64)
    totals += np.where(end & 1, data[np.minimum(end - 1, end & ~1)], 0)
    odd = (begin & 1).astype(bool)
    totals -= np.where(odd, data[np.maximum(begin - 1, 0)], 0)
    # Where the segment begins at an odd place, its words lie across these: they are changed over already.
    return np.where(odd, totals, totals * 256) % _MODULUS
