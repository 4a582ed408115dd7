"""The engine keeps RDS's promise whatever the network does. SIM_SEEDS sets how many networks, SIM_START the first."""

from __future__ import annotations

import os

import pytest

from tests.sim.world import digest, run_seed

SEEDS = int(os.environ.get("SIM_SEEDS", "1400"))
START = int(os.environ.get("SIM_START", "0"))
AT_A_TIME = 25


@pytest.mark.parametrize("first", range(START, START + SEEDS, AT_A_TIME))
def test_nothing_is_lost_doubled_or_reordered(first: int) -> None:
    for seed in range(first, min(first + AT_A_TIME, START + SEEDS)):
        run_seed(seed)


@pytest.mark.parametrize("seed", range(3))
def test_a_seed_replays_exactly(seed: int) -> None:
    assert digest(run_seed(seed)) == digest(run_seed(seed))


def test_the_runs_hold_what_they_are_meant_to_test() -> None:
    """Restarts, retransmission, duplicates, congestion and several paths all happen within a few seeds."""
    seen = dict.fromkeys(
        ("recv_drop_old_seq", "cong_send_error", "peer_restarts", "conn_reset", "send_queue_full", "forgotten_peers"), 0
    )
    told: list[str] = []
    for seed in range(40):
        world = run_seed(seed)
        told += world.story
        for host in world.hosts:
            counters = host.node.counters.as_dict()
            for name in seen:
                seen[name] += counters[name]
    assert all(seen.values()), seen
    assert any("path=7" in line for line in told)
    assert any("MISPLACED" in line for line in told)
    assert any("MessagesDropped" in line for line in told)
