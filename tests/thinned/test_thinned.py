"""What a capture lacks is never a finding: thinned ones say nothing worse than whole ones do."""

from __future__ import annotations

import pytest

from tests.thinned.judging import beyond, surprises
from tests.thinned.thinning import CASES, WAYS, whole

SEEDS = range(len(WAYS))
"""Each way once for each capture; ``python -m tests.thinned --seeds 1000`` tries more."""


@pytest.mark.parametrize(("name", "end"), CASES)
def test_what_is_missing_is_no_error_and_no_warning(name: str, end: str) -> None:
    found = {seed: surprises(name, end, seed)[:2] for seed in SEEDS}
    assert {seed: (how, findings) for seed, (how, findings) in found.items() if findings} == {}


@pytest.mark.parametrize(("name", "end", "frames"), [("tcp-cut-61", "b", 1157), ("tcp-cutlossy-61", "b", 542)])
def test_what_may_still_come_after_a_reconnect_is_not_concluded(name: str, end: str, frames: int) -> None:
    """The path of a new connection is not known yet, and messages may be sent again on the next one."""
    assert beyond(name, end, whole(name, end)[1][:frames]) == []
