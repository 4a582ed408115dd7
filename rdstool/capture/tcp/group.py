"""Sort the segments of a chunk by TCP connection."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from struct import Struct

import numpy as np
from numpy.typing import NDArray

from rdstool.capture.columns import Ints, Segments
from rdstool.capture.gather import ascending
from rdstool.capture.streams import Endpoint

Key = bytes
"""The two ends, smaller first, as :func:`ends_of` reads them: one object, as there may be a hundred thousand."""
_KEY = Struct(">16s16s4xHH")


def ends_of(key: Key) -> tuple[Endpoint, Endpoint]:
    """The smaller and the larger end."""
    small, large, small_port, large_port = _KEY.unpack(key)
    return _endpoint(small, small_port), _endpoint(large, large_port)


# Servers have many connections to the same end.
_endpoint = lru_cache(4096)(Endpoint)


@dataclass(frozen=True, slots=True)
class Grouping:
    """Which segment belongs to which connection. Groups are numbered in no order."""

    group: Ints
    """Group of each segment."""
    backward: NDArray[np.bool_]
    """Which segments go from the key's larger end to the smaller one."""
    keys: list[Key]
    """Key of each group."""
    flags: list[int]
    """All TCP flags that occur in each group."""
    order: Ints
    """Segments sorted by group, in capture order within each."""
    bounds: Ints
    """Where each group begins in ``order``, and its end."""
    first: Ints
    """The first segment of each group."""

    def rows(self, group: int) -> Ints:
        """Return a group's segments in capture order."""
        return self.order[self.bounds[group] : self.bounds[group + 1]]


def by_connection(segments: Segments) -> Grouping:
    """Group segments by their two ends, whichever of them sent."""
    backward = (segments.src_hi > segments.dst_hi) | (
        (segments.src_hi == segments.dst_hi)
        & (
            (segments.src_lo > segments.dst_lo)
            | ((segments.src_lo == segments.dst_lo) & (segments.sport > segments.dport))
        )
    )
    ends = np.empty((5, len(segments)), np.uint64)
    ends[0] = np.where(backward, segments.dst_hi, segments.src_hi)
    ends[1] = np.where(backward, segments.dst_lo, segments.src_lo)
    ends[2] = np.where(backward, segments.src_hi, segments.dst_hi)
    ends[3] = np.where(backward, segments.src_lo, segments.dst_lo)
    low_port = np.where(backward, segments.dport, segments.sport).astype(np.uint64)
    high_port = np.where(backward, segments.sport, segments.dport).astype(np.uint64)
    ends[4] = low_port << np.uint64(16) | high_port
    first, group = _unique_columns(ends)
    order = ascending(group, len(first))
    bounds = np.searchsorted(group[order], np.arange(len(first) + 1))
    flags = np.bitwise_or.reduceat(segments.flags[order], bounds[:-1]).tolist()
    raw = ends[:, first].T.astype(">u8").tobytes()
    keys = [raw[at : at + _KEY.size] for at in range(0, len(raw), _KEY.size)]
    return Grouping(group, backward, keys, flags, order, bounds, first)


def _unique_columns(table: NDArray[np.uint64]) -> tuple[Ints, Ints]:
    """First place and group number of each distinct column. Hashes first, then makes sure that no two share a hash."""
    hashes = np.zeros(table.shape[1], np.uint64)
    for line in table:
        hashes ^= line
        hashes *= np.uint64(0x9E3779B97F4A7C15)
        hashes ^= hashes >> np.uint64(29)
    _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
    if all((line[first][group] == line).all() for line in table):
        return first, group
    _, first, group = np.unique(table, axis=1, return_index=True, return_inverse=True)
    return first, group
