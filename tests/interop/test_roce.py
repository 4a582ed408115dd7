"""Userspace RoCE and the kernel's rdma_rxe, below RDS: rping and ibv_rc_pingpong in the guest, both roles."""

from __future__ import annotations

import json
import select
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dissectors.wire.cm import RejectReason
from dissectors.wire.icrc import icrc_good
from rdstool.lab import Guest, Network
from rdstool.lab.capture import Capture
from rdstool.transport.ib.provider import Completed, Refused, Status
from rdstool.transport.ib.roce.flow import MAX_BURST
from rdstool.transport.ib.roce.numbers import gid_of
from tests.interop.conftest import Guests
from tests.interop.roce import ALL, OPTIONS, TIMEOUT_S, Peer, Program, dial, roce_packets
from tests.interop.roce_ends import PINGPONG_PORT, PingPong, RpingClient, RpingServer
from tests.interop.rxe import add_rxe, gid_index, has_rxe, remove_rxe

VERBS_PROGRAM = Path(__file__).with_name("verbs_program.py")
VERBS_PORT = 7175
Starter = Callable[..., Program]
SIZES = pytest.mark.parametrize("size", [64, 4096, 65_535])
FAMILIES = pytest.mark.parametrize("suffix", ["", "6"], ids=["ipv4", "ipv6"])


@pytest.fixture
def guest(guests: Guests, kernel: str) -> Guest:
    """A running kernel. Nothing here uses its RDS, which would take a second to load anew."""
    return guests.shared(kernel, as_new=False)


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
    if not has_rxe(guest):
        add_rxe(guest)
        with_rxe[guest.kernel.name] = guest
    return guest


@pytest.fixture
def start(rxe: Guest) -> Iterator[Callable[..., Program]]:
    """Starts programs in the guest."""
    started: list[Program] = []

    def begin(*arguments: str) -> Program:
        started.append(Program(rxe, list(arguments)))
        return started[-1]

    yield begin
    for program in started:
        program.end()


@pytest.fixture
def peer(network: Network) -> Iterator[Peer]:
    with Peer(network, network.smaller) as made:
        yield made


def odd(peer: Peer) -> dict[str, int]:
    """What should not have been: every ICRC was good, and everything was for us."""
    counted = peer.counted()
    names = ("bad_icrc", "malformed", "no_queue_pair", "wrong_peer", "bad_pkey")
    return {name: counted[name] for name in names if name in counted} | peer.provider.send_errors


@FAMILIES
def test_rping_in_the_guest_reads_and_writes_our_memory(start: Starter, network: Network, suffix: str) -> None:
    here, there = getattr(network, "larger" + suffix), getattr(network, "guest" + suffix)
    program = start("rping", "-s", "-a", there, "-S", "4000", "-v")
    with Peer(network, here) as peer:
        client = RpingClient(peer, there, 4000, rounds=5)
        peer.until(lambda: client.ended)
        done = program.wait(check=False)
        assert client.equal == 5
        assert odd(peer) == {}
    assert "ping data: rdma-ping-4" in done.stdout


@FAMILIES
@SIZES
def test_we_read_and_write_the_memory_of_rping(start: Starter, network: Network, size: int, suffix: str) -> None:
    here, there = getattr(network, "smaller" + suffix), getattr(network, "guest" + suffix)
    with Peer(network, here) as peer:
        server = RpingServer(peer, size)
        program = start("rping", "-c", "-a", here, "-I", there, "-S", str(size), "-C", "5", "-V")
        peer.until(lambda: server.ended)
        done = program.wait()
        assert server.rounds == 10
        assert odd(peer) == {}
    assert "mismatch" not in done.stdout + done.stderr


@FAMILIES
def test_bursts_are_packets_on_the_wire_each_with_a_good_icrc(
    start: Starter, network: Network, capture: Capture, suffix: str
) -> None:
    here, there = getattr(network, "smaller" + suffix), getattr(network, "guest" + suffix)
    with Peer(network, here) as peer:
        server = RpingServer(peer, 65_535)
        program = start("rping", "-c", "-a", here, "-I", there, "-S", "65535", "-C", "2", "-V")
        peer.until(lambda: server.ended)
        program.wait()
        assert peer.provider.device.burst == MAX_BURST
    capture.stop()
    packets = list(roce_packets(capture.path, here))
    assert len(packets) > 64
    assert max(map(len, packets)) < 1200
    assert all(icrc_good(packet) for packet in packets)
    if not suffix:
        numbers = {int.from_bytes(packet[4:6]) for packet in packets}
        assert numbers == set(range(max(numbers) + 1))
        assert len(numbers) > 16


@pytest.mark.parametrize("size", [1, 4096, 100_000])
@pytest.mark.parametrize("mtu", [256, 1024])
def test_ibv_rc_pingpong_with_the_guest_as_server(
    start: Starter, guest: Guest, network: Network, peer: Peer, size: int, mtu: int
) -> None:
    program = start("ibv_rc_pingpong", "-g", gid_index(guest), "-s", str(size), "-n", "50", "-m", str(mtu))
    pingpong = PingPong(peer, network.guest, size, 50, mtu)
    with dial(network, network.guest, PINGPONG_PORT) as wire:
        pingpong.exchange(wire, first=True)
        wire.sendall(b"done\0")
        pingpong.send()
        peer.until(lambda: pingpong.done)
        done = program.wait()
    assert "50 iters" in done.stdout
    assert odd(peer) == {}


def test_ibv_rc_pingpong_with_the_guest_as_client(start: Starter, guest: Guest, network: Network, peer: Peer) -> None:
    pingpong = PingPong(peer, network.guest, 4096, 50, 1024)
    with network.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.settimeout(TIMEOUT_S)
        listener.bind((network.smaller, PINGPONG_PORT))
        listener.listen()
        index = gid_index(guest)
        program = start("ibv_rc_pingpong", "-g", index, "-s", "4096", "-n", "50", "-m", "1024", network.smaller)
        wire, _ = listener.accept()
        with wire:
            wire.settimeout(TIMEOUT_S)
            pingpong.exchange(wire, first=False)
            peer.until(lambda: pingpong.done)
            done = program.wait()
    assert "50 iters" in done.stdout
    assert odd(peer) == {}


def test_a_wrong_key_is_refused_by_us(start: Starter, network: Network, peer: Peer) -> None:
    program = start("rping", "-s", "-a", network.guest, "-S", "100")
    client = RpingClient(peer, network.guest, 100, rounds=1, wrong_key=0x10)
    peer.until(lambda: client.broken)
    done = program.wait(check=False)
    assert client.broken is not None
    assert "allows no read of 100 bytes" in client.broken
    assert "status 10" in done.stdout + done.stderr


def test_a_wrong_key_is_refused_by_the_kernel_and_the_next_connection_works(
    start: Starter, network: Network, peer: Peer
) -> None:
    command = ["rping", "-c", "-a", network.smaller, "-I", network.guest, "-S", "100", "-C", "1", "-V"]
    server = RpingServer(peer, 100, wrong_key=0x10)
    program = start(*command)
    peer.until(lambda: server.broken)
    assert server.failed[0] is Status.REMOTE_ACCESS_ERROR
    assert server.connection is not None
    server.connection.disconnect()
    peer.until(lambda: server.ended)
    program.end()
    server.wrong_key, server.rounds, server.ended = 0, 0, False
    program = start(*command)
    peer.until(lambda: server.rounds == 2 and server.ended)
    program.wait()


def test_a_service_that_nobody_offers_is_refused_by_the_kernel(start: Starter, network: Network, peer: Peer) -> None:
    peer.provider.connect(network.guest, 0x0106_0007)
    peer.until(lambda: peer.events)
    (refused,) = peer.events
    assert isinstance(refused, Refused)
    assert refused.reason == RejectReason.INVALID_SERVICE_ID


def test_atomic_operations_both_ways(start: Starter, guest: Guest, network: Network, peer: Peer) -> None:
    program = start("/usr/bin/python3", str(VERBS_PROGRAM), gid_index(guest))
    memory = bytearray(64)
    memory[:8] = (40).to_bytes(8, sys.byteorder)
    region = peer.provider.register(memory, ALL)
    connection = peer.provider.device.queue_pair(network.guest, OPTIONS)
    with dial(network, network.guest, VERBS_PORT) as wire, wire.makefile("rw") as lines:

        def tell(**what: object) -> None:
            lines.write(json.dumps(what) + "\n")
            lines.flush()

        other = json.loads(lines.readline())
        psn, gid = connection.receive_psn, gid_of(network.smaller).hex()
        tell(number=connection.number, psn=psn, key=region.rkey, address=region.address,
             gid=":".join(gid[at : at + 4] for at in range(0, 32, 4)))  # fmt: skip
        peer.provider.device.join(connection, other["number"], psn, other["psn"])
        assert json.loads(lines.readline()) == {"ready": True}
        tell(go=True)
        peer.until(lambda: select.select([wire], [], [], 0)[0])
        assert json.loads(lines.readline()) == {"found": [40, 47, 1 << 40]}
        assert int.from_bytes(memory[:8], sys.byteorder) == 1 << 40
        connection.post_fetch_add(1, other["address"], other["key"], 5)
        connection.post_compare_swap(2, other["address"], other["key"], 105, 1 << 50)
        connection.post_compare_swap(3, other["address"], other["key"], 105, 1)
        peer.until(lambda: len(peer.events) == 3)
        done = [(each.status, each.original) for each in peer.events if isinstance(each, Completed)]
        assert done == [(Status.SUCCESS, 100), (Status.SUCCESS, 105), (Status.SUCCESS, 1 << 50)]
        tell(done=True)
        assert json.loads(lines.readline()) == {"value": 1 << 50}
    program.wait()


@pytest.mark.parametrize(
    ("fault", "arguments"),
    [
        ("loss", ["loss", "2%"]),
        ("reorder", ["delay", "2ms", "1ms", "reorder", "25%", "50%"]),
        ("duplicate", ["duplicate", "5%"]),
        ("corrupt", ["corrupt", "2%"]),
    ],
)
def test_faults_of_the_network_are_made_good(
    start: Starter, guest: Guest, network: Network, fault: str, arguments: list[str]
) -> None:
    # rping ends at once when our last SEND has come, and its queue pair with it. The kernel sends its DREQ once and no
    # more then (ib_cm cancels it when its owner goes). Where that is lost, a capture shows nothing behind the SEND's
    # ACK, and nobody owes us more: what counts is that rping has seen all rounds and found them right. It looks for
    # our address for no more than 2 s, so the network becomes bad after that.
    command = ["rping", "-c", "-a", network.smaller, "-I", network.guest, "-S", "30000", "-C", "10", "-V"]
    with Peer(network, network.smaller, fault) as peer:
        server = RpingServer(peer, 30_000, waits=True)
        program = start(*command)
        peer.until(lambda: server.connection)
        with guest.wire.netem(*arguments):
            server.accept()
            peer.until(lambda: server.ended or server.broken or server.confirmed == 20)
            done = program.wait()
        assert server.rounds == 20
    assert "mismatch" not in done.stdout + done.stderr
