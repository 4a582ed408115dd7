"""The same promise over InfiniBand, with the datagrams below it lost, doubled and late. SIM_IB_SEEDS sets how many."""

from __future__ import annotations

import os

import pytest

from tests.sim.ib_world import run_ib_seed
from tests.sim.world import digest

SEEDS = int(os.environ.get("SIM_IB_SEEDS", "1000"))
START = int(os.environ.get("SIM_START", "0"))
AT_A_TIME = 25


@pytest.mark.parametrize("first", range(START, START + SEEDS, AT_A_TIME))
def test_nothing_is_lost_doubled_or_reordered(first: int) -> None:
    for seed in range(first, min(first + AT_A_TIME, START + SEEDS)):
        run_ib_seed(seed)


@pytest.mark.parametrize("seed", range(3))
def test_a_seed_replays_exactly(seed: int) -> None:
    assert digest(run_ib_seed(seed)) == digest(run_ib_seed(seed))


def test_the_runs_hold_what_they_are_meant_to_test() -> None:
    """Crossing requests, stale connections, retransmission, credits that run out, and atomics within a few seeds."""
    names = (
        "recv_drop_old_seq",
        "cong_send_error",
        "conn_reset",
        "send_queue_full",
        "ib_connect_raced",
        "ib_listen_closed_stale",
        "ib_tx_ring_full",
        "ib_tx_throttle",
        "ib_rx_credit_updates",
        "ib_ack_sent",
        "ib_ack_send_delayed",
        "ib_ack_send_piggybacked",
        "ib_atomic_fadd",
    )
    seen = dict.fromkeys(names, 0)
    added = 0
    for seed in range(100):
        world = run_ib_seed(seed)
        added += sum(counted.added for counted in world.counted.values())
        for host in world.hosts:
            counters = host.node.counters.as_dict()
            for name in seen:
                seen[name] += counters[name]
    assert all(seen.values()), seen
    assert added > 50
