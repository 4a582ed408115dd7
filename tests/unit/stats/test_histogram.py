"""Histograms keep what they promise: exact ends, percentiles within the stated error, bounded memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdstool.stats.histogram import OCTAVES, RELATIVE_ERROR, Histograms, SizeRange

VALUES = st.lists(st.integers(0, (1 << OCTAVES) - 1), min_size=1, max_size=200)


def filled(values: list[int], group: int = 0) -> Histograms:
    histograms = Histograms()
    histograms.add(np.full(len(values), group, np.intp), np.array(values, np.int64))
    return histograms


def test_error_is_at_most_two_percent() -> None:
    assert RELATIVE_ERROR <= 0.02


@given(VALUES)
def test_percentiles_are_within_the_relative_error(values: list[int]) -> None:
    found = filled(values).distribution([0])
    assert found is not None
    ordered = sorted(values)
    for share, percentile in ((0.5, found.p50), (0.9, found.p90), (0.99, found.p99)):
        exact = ordered[max(0, int(np.ceil(share * len(values))) - 1)]
        assert percentile == pytest.approx(exact, rel=RELATIVE_ERROR)
    assert (found.count, found.minimum, found.maximum) == (len(values), ordered[0], ordered[-1])


@given(VALUES, VALUES)
def test_groups_taken_together_are_as_if_counted_together(some: list[int], others: list[int]) -> None:
    apart = Histograms()
    apart.add(np.array([3] * len(some) + [70] * len(others), np.intp), np.array(some + others, np.int64))
    together = filled(some + others).distribution([0])
    assert apart.distribution([3, 70]) == together
    assert apart.distribution([4]) is None


def test_sparse_and_dense_counting_agree() -> None:
    values = np.arange(50_000, dtype=np.int64)
    groups = (values % 3).astype(np.intp)
    dense, sparse = Histograms(), Histograms()
    dense.add(groups, values)
    for begin in range(0, 50_000, 100):
        sparse.add(groups[begin : begin + 100], values[begin : begin + 100])
    assert dense.distribution([0, 1, 2]) == sparse.distribution([0, 1, 2])


def test_ranges_are_powers_of_two_with_zero_apart() -> None:
    assert filled([0, 0, 1, 2, 3, 4, 1000]).ranges([0]) == [
        SizeRange(0, 0, 2),
        SizeRange(1, 1, 1),
        SizeRange(2, 3, 2),
        SizeRange(4, 7, 1),
        SizeRange(512, 1023, 1),
    ]


def test_values_beyond_the_last_bucket_are_counted_in_it() -> None:
    found = filled([1 << 62]).distribution([0])
    assert found is not None
    assert found.maximum == 1 << 62
    assert found.count == 1
