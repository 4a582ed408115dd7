"""Userspace RoCE and the kernel's rdma_rxe, below RDS: rping and ibv_rc_pingpong in the guest, both roles."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from dissectors.wire.cm import RejectReason
from rdstool.lab import Guest, Network
from rdstool.transport.ib.provider import Completed, Refused, Status
from tests.interop.roce import (
    PINGPONG_PORT,
    TIMEOUT_S,
    Peer,
    PingPong,
    RpingClient,
    RpingServer,
    add_rxe,
    dial,
    gid_index,
    netem,
    remove_rxe,
)

_ENDS = {Status.SUCCESS, Status.FLUSHED}
SIZES = pytest.mark.parametrize("size", [64, 4096, 65_535])
FAMILIES = pytest.mark.parametrize("suffix", ["", "6"], ids=["ipv4", "ipv6"])


@pytest.fixture(scope="module")
def with_rxe() -> Iterator[dict[str, Guest]]:
    """Guests that have a Soft-RoCE device, by kernel: it takes seconds to make one."""
    made: dict[str, Guest] = {}
    yield made
    for guest in made.values():
        if guest.alive:
            remove_rxe(guest)


@pytest.fixture
def rxe(guest: Guest, with_rxe: dict[str, Guest]) -> Guest:
    """The guest with a Soft-RoCE device."""
    if guest.kernel.name not in with_rxe:
        add_rxe(guest)
        with_rxe[guest.kernel.name] = guest
    return guest


@pytest.fixture
def peer(network: Network) -> Iterator[Peer]:
    with Peer(network, network.smaller) as made:
        yield made


def clean(peer: Peer) -> bool:
    """Every ICRC was good, and nothing was odd."""
    counted = peer.provider.device.counters
    return not (counted.bad_icrc or counted.malformed or counted.no_queue_pair or peer.provider.send_errors)


@FAMILIES
def test_rping_in_the_guest_reads_and_writes_our_memory(rxe: Guest, network: Network, suffix: str) -> None:
    here, there = getattr(network, "larger" + suffix), getattr(network, "guest" + suffix)
    program = rxe.popen(["rping", "-s", "-a", there, "-S", "4000", "-v"])
    with Peer(network, here) as peer:
        client = RpingClient(peer, there, 4000, rounds=5)
        peer.until(lambda: client.ended)
        done = program.wait(TIMEOUT_S, check=False)
        assert client.equal == 5
        assert clean(peer)
    assert "ping data: rdma-ping-4" in done.stdout


@FAMILIES
@SIZES
def test_we_read_and_write_the_memory_of_rping(rxe: Guest, network: Network, size: int, suffix: str) -> None:
    here, there = getattr(network, "smaller" + suffix), getattr(network, "guest" + suffix)
    with Peer(network, here) as peer:
        server = RpingServer(peer, size)
        program = rxe.popen(["rping", "-c", "-a", here, "-I", there, "-S", str(size), "-C", "5", "-V", "-v"])
        peer.until(lambda: server.ended)
        done = program.wait(TIMEOUT_S)
        assert server.rounds == 10
        assert clean(peer)
    assert "ping data: rdma-ping-4" in done.stdout
    assert "mismatch" not in done.stdout + done.stderr


@pytest.mark.parametrize("size", [1, 4096, 100_000])
@pytest.mark.parametrize("mtu", [256, 1024])
def test_ibv_rc_pingpong_with_the_guest_as_server(
    rxe: Guest, network: Network, peer: Peer, size: int, mtu: int
) -> None:
    program = rxe.popen(["ibv_rc_pingpong", "-g", gid_index(rxe), "-s", str(size), "-n", "50", "-m", str(mtu)])
    pingpong = PingPong(peer, network.guest, size, 50, mtu)
    with dial(network, network.guest, PINGPONG_PORT) as wire:
        pingpong.exchange(wire, first=True)
        wire.sendall(b"done\0")
        pingpong.send()
        peer.until(lambda: pingpong.got == 50)
        done = program.wait(TIMEOUT_S)
    assert "50 iters" in done.stdout
    assert clean(peer)


def test_ibv_rc_pingpong_with_the_guest_as_client(rxe: Guest, network: Network, peer: Peer) -> None:
    pingpong = PingPong(peer, network.guest, 4096, 50, 1024)
    with network.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.settimeout(TIMEOUT_S)
        listener.bind((network.smaller, PINGPONG_PORT))
        listener.listen()
        index = gid_index(rxe)
        program = rxe.popen(["ibv_rc_pingpong", "-g", index, "-s", "4096", "-n", "50", "-m", "1024", network.smaller])
        wire, _ = listener.accept()
        with wire:
            wire.settimeout(TIMEOUT_S)
            pingpong.exchange(wire, first=False)
            peer.until(lambda: pingpong.got == 50)
            done = program.wait(TIMEOUT_S)
    assert "50 iters" in done.stdout
    assert clean(peer)


def test_a_wrong_key_is_refused_by_us(rxe: Guest, network: Network, peer: Peer) -> None:
    program = rxe.popen(["rping", "-s", "-a", network.guest, "-S", "100"])
    client = RpingClient(peer, network.guest, 100, rounds=1, wrong_key=0x10)
    peer.until(lambda: client.broken)
    done = program.wait(TIMEOUT_S, check=False)
    assert client.broken is not None
    assert "allows no read of 100 bytes" in client.broken
    assert "status 10" in done.stdout + done.stderr


def test_a_wrong_key_is_refused_by_the_kernel_and_the_next_connection_works(
    rxe: Guest, network: Network, peer: Peer
) -> None:
    command = ["rping", "-c", "-a", network.smaller, "-I", network.guest, "-S", "100", "-C", "1", "-V"]
    server = RpingServer(peer, 100, wrong_key=0x10)
    program = rxe.popen(command)
    peer.until(lambda: server.broken)
    assert server.failed[0] is Status.REMOTE_ACCESS_ERROR
    assert server.connection is not None
    server.connection.disconnect()
    peer.until(lambda: server.ended)
    program.kill()
    server.wrong_key, server.rounds, server.ended = 0, 0, False
    program = rxe.popen(command)
    peer.until(lambda: server.rounds == 2 and server.ended)
    program.wait(TIMEOUT_S)


def test_a_service_that_nobody_offers_is_refused_by_the_kernel(rxe: Guest, network: Network, peer: Peer) -> None:
    peer.provider.connect(network.guest, 0x0106_0007)
    peer.until(lambda: peer.events)
    (refused,) = peer.events
    assert isinstance(refused, Refused)
    assert refused.reason == RejectReason.INVALID_SERVICE_ID


@pytest.mark.parametrize(
    "fault",
    [["loss", "2%"], ["delay", "2ms", "1ms", "reorder", "25%", "50%"], ["duplicate", "5%"], ["corrupt", "2%"]],
    ids=lambda fault: fault[0] if "reorder" not in fault else "reorder",
)
def test_faults_of_the_network_are_made_good(rxe: Guest, network: Network, peer: Peer, fault: list[str]) -> None:
    server = RpingServer(peer, 30_000)
    with rxe.wire.netem(*fault), netem(network, fault):
        program = rxe.popen(
            ["rping", "-c", "-a", network.smaller, "-I", network.guest, "-S", "30000", "-C", "20", "-V"]
        )
        peer.until(lambda: server.ended)
        program.wait(TIMEOUT_S)
    assert server.rounds == 40
    assert not [event for event in peer.events if isinstance(event, Completed) and event.status not in _ENDS]
