"""Distributions in bounded memory: histograms whose buckets grow with the value, many side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdstool.capture.columns import Ints

PER_OCTAVE = 32
"""Buckets for each doubling."""
RELATIVE_ERROR = 0.5 / PER_OCTAVE
"""A percentile is off by at most this share of its value; minimum, maximum and mean are exact."""
OCTAVES = 48
"""Values of 2^48 and more (3 days in ns) are counted in the last bucket."""
_BUCKETS = (OCTAVES + 1) * PER_OCTAVE
_LARGEST = (1 << OCTAVES) - 1
_DENSE = 16
"""With fewer buckets for each value than this, all of them are counted in one pass."""
_NO_VALUE = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Distribution:
    """What a histogram says, in the unit of its values."""

    count: int
    minimum: int
    mean: float
    p50: float
    p90: float
    p99: float
    maximum: int


@dataclass(frozen=True, slots=True)
class SizeRange:
    """Values from ``low`` to ``high``, both included."""

    low: int
    high: int
    count: int


class Histograms:
    """One histogram for each group, numbered from 0 as the caller likes."""

    def __init__(self) -> None:
        self._counts: NDArray[np.int64] = np.zeros((8, _BUCKETS), np.int64)
        self._lowest: NDArray[np.int64] = np.full(8, _NO_VALUE, np.int64)
        self._highest: NDArray[np.int64] = np.full(8, -1, np.int64)
        self._sums: NDArray[np.float64] = np.zeros(8)

    def add(self, groups: NDArray[np.intp], values: Ints) -> None:
        """Count ``values`` (not negative) in their groups."""
        if not len(values):
            return
        used = int(groups.max()) + 1
        self._grow(used)
        at = groups * _BUCKETS + _bucket_of(values)
        if used * _BUCKETS < _DENSE * len(values):
            self._counts[:used] += np.bincount(at, minlength=used * _BUCKETS).reshape(used, _BUCKETS)
        else:
            np.add.at(self._counts.reshape(-1), at, 1)
        np.minimum.at(self._lowest, groups, values)
        np.maximum.at(self._highest, groups, values)
        self._sums[:used] += np.bincount(groups, values, minlength=used)

    def distribution(self, groups: Sequence[int]) -> Distribution | None:
        """Groups taken as one; None where they hold nothing."""
        known = [group for group in groups if group < len(self._sums)]
        if not known:
            return None
        counts = self._counts[known].sum(axis=0)
        total = int(counts.sum())
        if not total:
            return None
        low, high = int(self._lowest[known].min()), int(self._highest[known].max())
        reached = np.cumsum(counts)

        def percentile(share: float) -> float:
            bucket = int(np.searchsorted(reached, max(1, np.ceil(share * total))))
            return min(max(_middle(bucket), low), high)

        mean = float(self._sums[known].sum()) / total
        return Distribution(total, low, mean, percentile(0.5), percentile(0.9), percentile(0.99), high)

    def ranges(self, groups: Sequence[int]) -> list[SizeRange]:
        """Counts by powers of two, zero on its own; only ranges that hold something."""
        known = [group for group in groups if group < len(self._sums)]
        if not known:
            return []
        octaves = self._counts[known].sum(axis=0).reshape(-1, PER_OCTAVE).sum(axis=1)
        return [
            SizeRange(1 << octave >> 1, max(0, (1 << octave) - 1), int(octaves[octave]))
            for octave in np.flatnonzero(octaves).tolist()
        ]

    def _grow(self, count: int) -> None:
        have = len(self._sums)
        if count <= have:
            return
        more = max(count, 2 * have) - have
        self._counts = np.concatenate((self._counts, np.zeros((more, _BUCKETS), np.int64)))
        self._lowest = np.concatenate((self._lowest, np.full(more, _NO_VALUE, np.int64)))
        self._highest = np.concatenate((self._highest, np.full(more, -1, np.int64)))
        self._sums = np.concatenate((self._sums, np.zeros(more)))


def _bucket_of(values: Ints) -> NDArray[Any]:
    # A value is m * 2^e with m in [0.5, 1): e tells the octave, m the place in it. Zero has e = 0, m = 0.
    part, octave = np.frexp(np.minimum(values, _LARGEST).astype(np.float64))
    place = np.maximum((part - 0.5) * (2 * PER_OCTAVE), 0).astype(np.intp)
    return octave.astype(np.intp) * PER_OCTAVE + place


def _middle(bucket: int) -> float:
    """The value in the middle of a bucket; where it is narrower than 1, the one integer in it."""
    octave, place = divmod(bucket, PER_OCTAVE)
    if octave == 0:
        return 0
    width = 2.0 ** (octave - 1) / PER_OCTAVE
    low = 2.0 ** (octave - 1) + place * width
    return low + width / 2 if width > 1 else float(np.ceil(low))
