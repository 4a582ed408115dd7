"""The RoCE transport keeps its promise whatever the network does to datagrams. ROCE_SEEDS sets how many networks."""

from __future__ import annotations

import os

import pytest

from tests.sim.roce import run_seed

SEEDS = int(os.environ.get("ROCE_SEEDS", "600"))
AT_A_TIME = 25


@pytest.mark.parametrize("first", range(0, SEEDS, AT_A_TIME))
def test_nothing_is_lost_doubled_wrong_or_stuck(first: int) -> None:
    for seed in range(first, min(first + AT_A_TIME, SEEDS)):
        run_seed(seed)


@pytest.mark.parametrize("seed", range(3))
def test_a_seed_replays_exactly(seed: int) -> None:
    one, other = run_seed(seed), run_seed(seed)
    assert one.story == other.story
    assert one.digest.digest() == other.digest.digest()


def test_the_runs_hold_what_they_are_meant_to_test() -> None:
    """Losses, gaps, repeated requests, timeouts and receivers that are not ready all happen within a few seeds."""
    missing = {
        "sent_again", "timeouts", "sequence_naks_sent", "sequence_naks_received", "rnr_naks_sent", "rnr_naks_received",
        "duplicates", "ahead", "stale_responses", "responses_missed", "bad_icrc",
    }  # fmt: skip
    for seed in range(40):
        for host in run_seed(seed).hosts:
            missing -= {name for name, count in host.device.counters.as_dict().items() if count}
        if not missing:
            break
    assert missing == set()
