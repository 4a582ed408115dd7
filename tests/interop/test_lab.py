"""The lab itself: guests run the kernels that they should, and host and guest reach each other's RDS."""

from __future__ import annotations

from time import monotonic

import pytest

import rdstool
from dissectors.wire.rds import PING_PORT, PROBE_PORT, RdsHeader
from rdstool.lab import Guest, GuestError, Network, digest, find_kernel, payload
from rdstool.lab.capture import Capture
from tests.interop.bare import BareListener, BarePeer

IPV4_AND_IPV6 = pytest.mark.parametrize("suffix", ["", "6"], ids=["ipv4", "ipv6"])


def address(network: Network, role: str, suffix: str) -> str:
    found: str = getattr(network, role + suffix)
    return found


def test_the_guest_runs_the_kernel(guest: Guest, kernel: str) -> None:
    assert guest.run(["uname", "-r"]).stdout.strip() == find_kernel(kernel).release
    assert kernel == "newest" or guest.kernel.release.startswith(f"{kernel}.")
    assert guest.rds.counters()["conn_reset"] == 0


@IPV4_AND_IPV6
@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_the_kernel_delivers_to_itself(guest: Guest, network: Network, suffix: str, size: int) -> None:
    here = address(network, "guest", suffix)
    sender, receiver = guest.rds.open(here, transport="tcp"), guest.rds.open(here)
    guest.rds.send(sender, receiver, size=size, seed=7)
    message = guest.rds.receive(receiver)
    assert (message.source, message.length) == (sender.end, size)
    assert message.sha256 == digest(payload(7, size))
    (connection,) = guest.rds.table("connections", ipv6=bool(suffix))
    assert connection["transport"] == "loopback"


@IPV4_AND_IPV6
def test_a_client_on_the_smaller_address_is_answered(guest: Guest, network: Network, suffix: str) -> None:
    with BarePeer.dial(network, address(network, "smaller", suffix), address(network, "guest", suffix)) as peer:
        assert peer.receive().is_bitmap
        peer.send(RdsHeader(sequence=1, sport=4000, dport=PING_PORT))
        while (pong := peer.receive_data().header).sport != PING_PORT:
            pass  # recent kernels probe, too
        assert pong.dport == 4000
    assert guest.rds.counters()["recv_ping"] == 1


@IPV4_AND_IPV6
def test_the_kernel_connects_to_the_larger_address(
    guest: Guest, network: Network, capture: Capture, suffix: str
) -> None:
    there = address(network, "larger", suffix)
    with BareListener(network, there) as listener:
        sock = guest.rds.open(address(network, "guest", suffix))
        guest.rds.send(sock, (there, 4000), size=1000, seed=3, flags=["nonblocking"])
        with listener.accept() as peer:
            assert peer.receive().is_bitmap
            while (data := peer.receive_data()).header.sport == PROBE_PORT:
                pass  # it may ask for several paths first
    assert (data.header.sport, data.header.dport, data.payload) == (sock.port, 4000, payload(3, 1000))
    capture.stop()
    with rdstool.open_capture(str(capture.path)) as frames:
        assert [(each.src, each.sport, each.length) for each in frames if each.kind.label == "data"] == [
            (sock.address, sock.port, 1000)
        ]


def test_cut_connections_are_reset(guest: Guest, network: Network) -> None:
    with BarePeer.dial(network, network.smaller, network.guest) as peer:
        assert peer.receive().is_bitmap
        assert guest.wire.cut() == 1
        with pytest.raises(ConnectionResetError):  # noqa: PT012 - what was sent before the cut comes first
            while True:
                peer.receive()


def test_netem_delays_what_the_guest_sends(guest: Guest, network: Network) -> None:
    with BarePeer.dial(network, network.smaller, network.guest) as peer, guest.wire.netem("delay", "300ms"):
        asked = monotonic()
        peer.send(RdsHeader(sequence=1, sport=4000, dport=PING_PORT))
        while peer.receive_data().header.sport != PING_PORT:
            pass
        # The clocks of an emulated processor and of the host differ a little.
        assert monotonic() - asked >= 0.2


def test_errors_of_the_guest_have_their_errno(guest: Guest, network: Network) -> None:
    with pytest.raises(GuestError) as caught:
        guest.rds.open(network.smaller)
    assert caught.value.errno == "EADDRNOTAVAIL"
    sock = guest.rds.open(network.guest)
    with pytest.raises(GuestError) as caught:
        guest.rds.receive(sock, timeout_s=0)
    assert caught.value.errno == "ETIMEDOUT"
