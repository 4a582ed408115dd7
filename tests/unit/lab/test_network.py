"""The network's namespace: its addresses, what runs in it, and captures of it; a tap device without a guest."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

import rdstool
from rdstool.errors import LabError
from rdstool.lab.annex import Annex
from rdstool.lab.network import TAP, Network

TIMEOUT_S = 60


@pytest.fixture
def network() -> Iterator[Network]:
    with Network() as made:
        yield made


def test_the_host_has_an_address_on_either_side_of_the_guest(network: Network) -> None:
    addresses = network.ip("-brief", "address", "show", "dev", TAP).split()
    for family in ("", "6"):
        smaller, guest, larger = (getattr(network, role + family) for role in ("smaller", "guest", "larger"))
        kind = socket.AF_INET6 if family else socket.AF_INET
        assert socket.inet_pton(kind, smaller) < socket.inet_pton(kind, guest) < socket.inet_pton(kind, larger)
        assert [each for each in addresses if each.startswith((f"{smaller}/", f"{larger}/"))]
        assert not [each for each in addresses if each.startswith(f"{guest}/")]


def test_nothing_leads_out_of_it(network: Network) -> None:
    assert "default" not in network.ip("route") + network.ip("-6", "route")
    assert sorted(line.split()[0] for line in network.ip("-brief", "link").splitlines()) == ["lo", TAP]


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_sockets_of_this_process_live_in_it(network: Network, family: int) -> None:
    address = network.larger if family == socket.AF_INET else network.larger6
    with network.socket(family) as listener, network.socket(family) as client:
        listener.bind((address, 0))
        listener.listen()
        client.settimeout(TIMEOUT_S)
        client.connect(listener.getsockname())
        with listener.accept()[0] as accepted:
            accepted.sendall(b"here")
            assert client.recv(4) == b"here"
    with socket.socket(family) as outside, pytest.raises(OSError, match="assign"):
        outside.bind((address, 0))


def test_programs_run_in_it(network: Network) -> None:
    done = network.run(["ip", "-brief", "address"], capture_output=True, text=True, check=True)
    assert network.smaller in done.stdout


def test_two_networks_do_not_see_each_other(network: Network) -> None:
    with Network() as other, network.socket() as mine, other.socket() as theirs:
        mine.bind((network.smaller, 16385))
        theirs.bind((other.smaller, 16385))


def test_errors_of_sockets_come_as_they_are(network: Network) -> None:
    with pytest.raises(OSError, match="not supported"):
        network.socket(socket.AF_INET, socket.SOCK_SEQPACKET)


def test_a_network_that_ended_says_so() -> None:
    network = Network()
    with network:
        pass
    with pytest.raises(LabError, match="not up"):
        network.socket()


def test_a_capture_has_every_frame_of_the_device(network: Network, tmp_path: Path) -> None:
    frame = bytes.fromhex("ffffffffffff020000000001") + struct.pack(">H", 0x88B5) + bytes(100)
    with network.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((TAP, 0))
        device = network.plug()  # a tap device that nobody holds passes nothing
        with network.capture(tmp_path / "frames.pcap"), open(device, "rb") as _:  # noqa: PTH123
            while " state UP " not in network.ip("link", "show", TAP):
                pass  # Linux passes frames a moment after somebody holds the device
            for _ in range(100):
                sender.send(frame)
    assert (tmp_path / "frames.pcap").read_bytes().count(frame) == 100
    with rdstool.open_capture(str(tmp_path / "frames.pcap")) as read:
        assert list(read) == []  # no RDS in it, but it reads to its end


def test_an_annex_has_a_tap_device_of_its_own_and_the_network_forwards_to_it(network: Network) -> None:
    with Annex(network) as annex:
        assert f"dev {annex.tap} " in network.ip("route", "get", annex.guest, "from", network.guest, "iif", TAP) + " "
        assert f"dev {TAP} " in network.ip("route", "get", network.guest, "from", annex.guest, "iif", annex.tap) + " "
        with os.fdopen(annex.plug()), pytest.raises(LabError, match="another guest holds it"):
            annex.plug()
    network.ip("link", "show", TAP)
