"""What a capture lacks is never a finding: thinned ones say nothing worse than whole ones do."""

from __future__ import annotations

import pytest

from tests.thinned.judging import surprises
from tests.thinned.thinning import CASES, WAYS

SEEDS = range(len(WAYS))
"""Each way once for each capture; ``python -m tests.thinned --seeds 1000`` tries more."""


@pytest.mark.parametrize(("name", "end"), CASES)
def test_what_is_missing_is_no_error_and_no_warning(name: str, end: str) -> None:
    found = {seed: surprises(name, end, seed)[:2] for seed in SEEDS}
    assert {seed: (how, findings) for seed, (how, findings) in found.items() if findings} == {}
