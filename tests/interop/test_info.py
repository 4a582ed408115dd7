"""``rdstool info --kernel`` in a guest shows what the guest's kernel has."""

from __future__ import annotations

import json
import sys

from rdstool.lab import Guest, Network
from tests.unit.cli.running import ROOT


def shown(guest: Guest, *arguments: str) -> list[dict[str, object]]:
    """The records of a command line, run in the guest."""
    command = [sys.executable, "-m", "rdstool", "info", "--kernel", "--json", *arguments]
    return [json.loads(line) for line in guest.run(command, folder=str(ROOT)).stdout.splitlines()]


def test_sockets_connections_and_messages_of_both_families(guest: Guest, network: Network) -> None:
    pairs = []
    for here in (network.guest, network.guest6):
        sender, receiver = guest.rds.open(here, transport="tcp"), guest.rds.open(here)
        guest.rds.send(sender, receiver, size=100, seed=1)
        pairs.append((sender, receiver))
    found = shown(guest, "-k", "-n", "-r", "-c", "recv_queued")
    bound = [(each["address"], each["port"]) for each in found if each["section"] == "sockets"]
    assert {sock.end for pair in pairs for sock in pair} <= set(bound)
    assert len(bound) == len(set(bound))
    ends = [(each["local"], each["transport"]) for each in found if each["section"] == "connections"]
    messages = [each for each in found if each["section"] == "receive_messages"]
    for sender, receiver in pairs:
        assert (sender.address, "loopback") in ends
        (message,) = (each for each in messages if each["local_port"] == receiver.port)
        assert (message["local"], message["length"], message["peer_port"]) == (receiver.address, 100, sender.port)
    (counter,) = (each for each in found if each["section"] == "counters")
    assert counter["value"] == guest.rds.counters()["recv_queued"] == len(pairs)
