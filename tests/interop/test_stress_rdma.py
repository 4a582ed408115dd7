"""``rdstool stress -D`` and tasks on the kernel's own sockets move each other's memory, and compare all of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdstool.lab import Guest
from tests.interop import rdma_stress_peer
from tests.interop.rxe import has_rxe
from tests.kit.once_more import runs_again

PEER = [sys.executable, "-m", rdma_stress_peer.__name__]
PLACE = {"PYTHONPATH": str(Path(__file__).parents[2])}
RDSTOOL = [sys.executable, "-m", "rdstool", "stress", "--transport", "ib", "--json", "--timeout", "120"]
LOAD = ["-t", "2", "-d", "2", "-q", "500", "-a", "200", "-v", "-T", "3", "-D", "9000"]
LIMIT_S = 240
LASTING = "6.12"
"""Its RDS stands still once a connection has ended (``tests/interop/infiniband.py``): it boots for each test."""


@pytest.fixture
def rxe(own_guest: Guest, request: pytest.FixtureRequest) -> Iterator[Guest]:
    """With RDS over Soft-RoCE."""
    if not own_guest.alive or runs_again(request.node):
        own_guest.reboot()
    if not has_rxe(own_guest):
        own_guest.allow_buffers(4 << 20)
        own_guest.add_rxe()
    yield own_guest
    if own_guest.kernel.name == LASTING:
        own_guest.kill()


def judge(ours: str, kernels: str) -> None:
    """Both sides have read and written, by RDMA, and found everything as it should be."""
    summary = json.loads(ours.splitlines()[-1])
    assert summary["rdma_bytes_in"] > 0
    assert summary["rdma_bytes_out"] > 0
    done_reads, done_writes, suffered_reads, suffered_writes = map(int, kernels.split())
    assert min(done_reads, done_writes, suffered_reads, suffered_writes) > 0


def test_rdstool_asks_and_the_kernel_moves_memory(rxe: Guest) -> None:
    network = rxe.network
    assert network is not None
    passive = rxe.popen([*PEER, "-r", network.guest], environment=PLACE)
    asking = [*RDSTOOL, "-r", network.smaller, "-s", network.guest, "--connect-retries", "60", *LOAD]
    done = network.run(asking, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    ended = passive.wait(LIMIT_S)
    assert ended.status == 0, ended.stderr
    judge(done.stdout, ended.stdout)


def test_the_kernel_asks_and_rdstool_moves_memory(rxe: Guest) -> None:
    network = rxe.network
    assert network is not None
    here = network.larger
    passive = network.popen([*RDSTOOL, "-r", here], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert passive.stderr is not None
        assert "waiting for the active side" in passive.stderr.readline()
        active = rxe.run([*PEER, "-r", network.guest, "-s", here, *LOAD], timeout_s=LIMIT_S, environment=PLACE)
        output, complaints = passive.communicate(timeout=LIMIT_S)
    finally:
        passive.kill()
        passive.wait()
    assert active.status == 0, active.stderr
    assert passive.returncode == 0, complaints
    judge(output, active.stdout)
