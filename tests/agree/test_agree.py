"""On damaged captures, native decoder and plugin see the same; one pass and two, one process and two tell the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.agree.damaging import DAMAGE, damaged
from tests.agree.judging import between_decoders, between_passes, between_processes, is_for_two, make
from tests.kit.tsharks import VERSIONS

SEEDS = range(len(DAMAGE))
"""Each way of damage once; ``python -m tests.agree --seeds 1000`` tries more."""
ONCE_READ_DIFFERENTLY = (75, 208, 216, 251, 324, 356, 370, 531)
"""By what stood before a SYN or behind headers, ports used again, odd numbers, and a long RDMA operation."""
LONG = (0, 6, 12, 15, 18, 21, 24)
"""Some whose captures are long enough for two processes."""
TSHARKS = tuple(VERSIONS.values())
"""Those that the seeds go to by turns."""


@pytest.mark.parametrize("seed", [*SEEDS, *ONCE_READ_DIFFERENTLY])
def test_native_decoder_and_plugin_agree(seed: int, tmp_path: Path) -> None:
    path, how = make(seed, tmp_path)
    assert (how, between_decoders(path, TSHARKS[seed % len(TSHARKS)]())) == (how, [])


@pytest.mark.parametrize("seed", SEEDS[::6])
def test_one_pass_and_two_tell_the_same(seed: int, tmp_path: Path) -> None:
    path, how = make(seed, tmp_path)
    assert (how, list(between_passes(path, TSHARKS[seed // 6 % len(TSHARKS)]()))) == (how, [])


@pytest.mark.parametrize("seed", LONG)
def test_one_process_and_two_tell_the_same(seed: int, tmp_path: Path) -> None:
    path, how = make(seed, tmp_path)
    assert is_for_two(path)
    assert (how, between_processes(path)) == (how, [])


def test_a_seed_always_gives_the_same_capture() -> None:
    assert [damaged(seed) for seed in SEEDS] == [damaged(seed) for seed in SEEDS]
