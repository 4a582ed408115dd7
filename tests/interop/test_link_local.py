"""A kernel and rdstool exchange datagrams between link-local addresses, whoever connects."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from rdstool.lab import Guest, Network

OURS = {"smaller": "fe80::1", "larger": "fe80::200"}
THEIRS = "fe80::100"
LIMIT_S = 240
PROGRAM = f"""
import socket, sys
from rdstool.afrds.sockets import open_socket
own, peer, device = sys.argv[1:]
number = socket.if_nametoindex(device)
sock = open_socket(socket.AF_INET6)
sock.bind((own, 4000, 0, number))
sock.settimeout({LIMIT_S // 2})
sock.sendto(b"hello", (peer, 4000, 0, number))
print(sock.recvfrom(100)[0].decode())
"""


@pytest.fixture
def device(guest: Guest, network: Network) -> Iterator[str]:
    """The guest's, with an address between ours."""
    for address in OURS.values():
        network.add_address(address)
    guest.run(["ip", "address", "add", f"{THEIRS}/64", "dev", guest.device, "nodad"])
    yield guest.device
    guest.run(["ip", "address", "del", f"{THEIRS}/64", "dev", guest.device])
    for address in OURS.values():
        network.remove_address(address)


@pytest.mark.parametrize("role", OURS)
def test_a_kernel_gets_its_message_back(guest: Guest, network: Network, device: str, role: str) -> None:
    own = f"{OURS[role]}%{network.tap}"
    command = [sys.executable, "-m", "rdstool", "listen", f"[{own}]:4000", "--echo", "--count", "1"]
    with network.popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as listening:
        try:
            assert listening.stderr is not None
            assert f"listening on [{own}]:4000" in listening.stderr.readline()
            answered = guest.run([sys.executable, "-c", PROGRAM, THEIRS, OURS[role], device], timeout_s=LIMIT_S)
            shown, _ = listening.communicate(timeout=LIMIT_S)
        finally:
            listening.kill()
    assert (answered.stdout, listening.returncode) == ("hello\n", 0)
    assert f'[{THEIRS}%{network.tap}]:4000 > 4000  5 bytes  "hello"' in shown
