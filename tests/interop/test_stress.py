"""``rdstool stress`` and a task on the kernel's own sockets load each other, in both roles, with every message checked.

In the guest runs rds-stress of rds-tools where the machine has it in its PATH, and always ``stress_peer.py``, which
does the same on AF_RDS sockets. (Debian has no rds-tools any more.)
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rdstool.lab import Guest, Network
from rdstool.lab.capture import Capture

PEER = [sys.executable, str(Path(__file__).with_name("stress_peer.py"))]
RDS_STRESS = shutil.which("rds-stress")
COUNTERPARTS = {"sockets": PEER, **({"rds-stress": [RDS_STRESS]} if RDS_STRESS else {})}
LOAD = ["-t", "2", "-d", "2", "-q", "3000", "-a", "200", "-v", "-T", "2"]
LIMIT_S = 240
PATIENCE = ["--timeout", "120"]
"""Emulated processors are slow where the machine is busy."""

both_roles = pytest.mark.parametrize("own", ["smaller", "larger"])
counterparts = pytest.mark.parametrize("counterpart", COUNTERPARTS)


def rdstool(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "rdstool", "stress", *arguments]


def summary(output: str) -> dict[str, Any]:
    """The last line of ``--json``."""
    last: dict[str, Any] = json.loads(output.splitlines()[-1])
    assert last["event"] == "summary"
    return last


@both_roles
@counterparts
def test_rdstool_asks_and_the_kernel_answers(
    guest: Guest, network: Network, judged: Capture, counterpart: str, own: str
) -> None:
    here = getattr(network, own)
    passive = guest.popen([*COUNTERPARTS[counterpart], "-r", network.guest])
    done = network.run(
        rdstool("-r", here, "-s", network.guest, "--connect-retries", "60", "--json", *PATIENCE, *LOAD),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr
    assert summary(done.stdout)["acks_received"] > 0
    ended = passive.wait(LIMIT_S)
    assert ended.status == 0, ended.stderr


@both_roles
@counterparts
def test_the_kernel_asks_and_rdstool_answers(
    guest: Guest, network: Network, judged: Capture, counterpart: str, own: str
) -> None:
    here = getattr(network, own)
    passive = network.popen(
        rdstool("-r", here, "--json", *PATIENCE), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert passive.stderr is not None
        assert "waiting for the active side" in passive.stderr.readline()
        active = guest.run([*COUNTERPARTS[counterpart], "-r", network.guest, "-s", here, *LOAD], timeout_s=LIMIT_S)
        output, complaints = passive.communicate(timeout=LIMIT_S)
    finally:
        passive.kill()
        passive.wait()
    assert active.status == 0
    assert passive.returncode == 0, complaints
    assert summary(output)["requests_received"] > 0


def test_one_way_only_the_active_side_asks(guest: Guest, network: Network, judged: Capture) -> None:
    passive = guest.popen([*PEER, "-r", network.guest])
    done = network.run(
        rdstool(
            "-r", network.smaller, "-s", network.guest, "-T", "1", "-o", "--connect-retries", "60", "--json", *PATIENCE
        ),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr
    whole = summary(done.stdout)
    assert whole["acks_received"] > 0
    assert whole["requests_received"] == 0
    assert passive.wait(LIMIT_S).status == 0
