"""What a run counts: round trips, and keys of memory regions."""

from __future__ import annotations

import pytest

from rdstool.stress.counters import Counters, KeyMeter, Times


def test_keys_that_come_again_are_counted() -> None:
    keys = KeyMeter()
    for cookie in (1, 2, 1 << 32 | 1, 1):
        keys.add(cookie)
    assert keys.reissued == 2
    assert 0 <= keys.least_s <= keys.total_s / 2


def test_percentiles_are_off_by_a_sixteenth_at_most() -> None:
    times = Times()
    for us in range(1, 10_001):
        times.add(us)
    for share in (0.1, 0.5, 0.9, 0.99):
        assert times.percentile_us(share) == pytest.approx(share * 10_000, rel=1 / 16)
    assert (times.percentile_us(1.0) or 0) <= times.longest_us == 10_000
    assert Times().percentile_us(0.5) is None


def test_a_histogram_counts_between_powers_of_two() -> None:
    times = Times()
    assert times.doublings() == []
    for us in (0, 1, 2, 3, 4, 1023, 1024, 1025, 5_000_000):
        times.add(us)
    counted = {each.from_us: each.count for each in times.doublings() if each.count}
    assert counted == {0: 2, 2: 2, 4: 1, 512: 1, 1024: 2, 1 << 22: 1}
    edges = [(each.from_us, each.below_us) for each in times.doublings()]
    assert edges == [(0, 2), *((1 << power, 2 << power) for power in range(1, 23))]


def test_long_round_trips_are_told() -> None:
    told: list[str] = []
    counters = Counters(outlier_us=100, tell=told.append)
    for us in (50, 100, 101):
        counters.round_trip(us, 4001, "10.0.0.2:4002")
    assert told == ["round trip of 101 us: 4001 to 10.0.0.2:4002"]
    assert counters.round_trips.count == 3
