"""What real kernels make of traffic that misbehaves. ``DIFFERENCES`` records where they do not as rdstool expects."""

from __future__ import annotations

import json
import sys

import pytest

from rdstool.craft.library import names, scenario
from rdstool.craft.scenario import Role
from rdstool.lab import Guest, Network
from rdstool.protocol.kinds import Transport

PATIENCE = "6"
"""Answers may take half a minute; they come at once where the machine is not busy."""
LIMIT_S = 900
"""For all scenarios of a role: 20 s on an idle machine, and 5 s for each that is played again."""
HARMFUL = {"ping-flood", "connections-10000"}
"""Not for a guest with little memory: kernels have no limit for answers to pings."""
ENDLESS = {"length-4gib"}
"""No kernel has a limit for h_len: it waits for 4 GiB, and a test that waits for nothing to come proves little."""
COUNTS = {"source-port-of-another-path": "pong seq 1 0 > 5000 len 0 came"}
"""Up to 6.x source ports tell nothing: the second connection is the second path."""
DIFFERENCES: dict[str, dict[str, str]] = {"6.1": COUNTS, "6.12": COUNTS, "newest": {}}
"""By kernel and scenario: what was seen otherwise."""


@pytest.mark.timeout(LIMIT_S + 60)
@pytest.mark.parametrize("role", Role)
def test_kernels_do_what_scenarios_say(guest: Guest, network: Network, kernel: str, role: Role) -> None:
    ours = [name for name in names() if scenario(name).role is role and scenario(name).transport is Transport.TCP]
    chosen = [name for name in ours if name not in HARMFUL | ENDLESS]
    ends = "--to", network.guest, "--from", getattr(network, role.value)
    done = network.run(
        [sys.executable, "-m", "rdstool", "craft", *chosen, *ends, "--json", "--patience", PATIENCE],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    verdicts = [told for told in map(json.loads, done.stdout.splitlines()) if told["event"] == "verdict"]
    assert [told["scenario"] for told in verdicts] == chosen, done.stderr
    found = {told["scenario"]: told["difference"] for told in verdicts if told["difference"]}
    assert found == {name: text for name, text in DIFFERENCES[kernel].items() if name in chosen}, done.stdout
    assert guest.alive
