"""Link-local addresses of IPv6, in a network namespace of the test's own: both ends are addresses of its device."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import rdstool
from rdstool.lab.network import TAP, Network

TIMEOUT_S = 60
SMALLER, LARGER = f"fe80::1%{TAP}", f"fe80::2%{TAP}"

SOCKETS = f"""
import socket, rdstool
number = socket.if_nametoindex("{TAP}")
with rdstool.Socket() as one, rdstool.Socket() as other:
    one.bind(("fe80::1", 4000, 0, number))
    other.bind((f"fe80::2%{{number}}", 4000))
    other.settimeout({TIMEOUT_S})
    one.sendto(b"by tuple", ("fe80::2", 4000, 0, number))
    one.sendto(b"by number", (f"fe80::2%{{number}}", 4000))
    one.sendto(b"by name", ("{LARGER}", 4000))
    print([other.recvfrom() for _ in range(3)])
    one.drain({TIMEOUT_S})
"""


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as made:
        made.add_address("fe80::1")
        made.add_address("fe80::2")
        yield made


def run(network: Network, *command: str) -> str:
    done = network.run([sys.executable, *command], capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


@pytest.mark.parametrize("transport", ["tcp", "ib"])
@pytest.mark.parametrize(("listener", "sender"), [(LARGER, SMALLER), (SMALLER, LARGER)])
def test_messages_go_between_link_local_addresses(
    network: Network, transport: str, listener: str, sender: str, tmp_path: Path
) -> None:
    recording = tmp_path / "sender.pcapng"
    command = [sys.executable, "-m", "rdstool"]
    with network.popen(
        [*command, "listen", f"[{listener}]:4000", "--count", "2", "--json", "--transport", transport],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as listening:
        assert listening.stderr is not None
        assert f"listening on [{listener}]:4000" in listening.stderr.readline()
        said = ["-m", "rdstool", "send", f"[{listener}]:4000", "--from", f"[{sender}]:5000", "-m", "one", "-m", "two"]
        run(network, *said, "--timeout", str(TIMEOUT_S), "--transport", transport, "--pcap", str(recording))
        came = [json.loads(line) for line in listening.communicate(timeout=TIMEOUT_S)[0].splitlines()]
    assert [(each["source"], each["sport"], each["length"]) for each in came] == [(sender, 5000, 3)] * 2
    with rdstool.open_capture(recording) as frames:
        assert {(message.src, message.dst) for message in frames if message.kind.label == "data"} == {
            (sender.partition("%")[0], listener.partition("%")[0])
        }


def test_the_interface_is_told_by_name_by_number_or_in_the_address_of_a_socket(network: Network) -> None:
    came = [(said, (SMALLER, 4000)) for said in (b"by tuple", b"by number", b"by name")]
    assert run(network, "-c", SOCKETS) == f"{came}\n"


def test_a_ping_finds_its_own_address_on_the_link(network: Network) -> None:
    with network.popen(
        [sys.executable, "-m", "rdstool", "listen", LARGER, "--count", "1"], stderr=subprocess.PIPE, text=True
    ) as listening:
        assert listening.stderr is not None
        listening.stderr.readline()
        told = run(network, "-m", "rdstool", "ping", LARGER, "-I", SMALLER, "-c", "1", "--json").splitlines()
        listening.terminate()
        listening.communicate()
    assert json.loads(told[0])["source"] == LARGER
