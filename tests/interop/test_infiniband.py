"""RDS over InfiniBand with real kernels: userspace RoCE here, rds_rdma over rdma_rxe in the guest."""

from __future__ import annotations

import errno
import hashlib
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from time import monotonic

import pytest

from rdstool.endpoint.blocking import Socket
from rdstool.endpoint.constants import SO_RCVBUF, SOL_SOCKET
from rdstool.endpoint.core import NodeOptions
from rdstool.endpoint.stack import Stack
from rdstool.lab import Guest, Network
from rdstool.lab.capture import Capture
from rdstool.lab.content import digest, payload
from rdstool.lab.fetch import fetch_kernel
from rdstool.protocol.config import Settings
from rdstool.protocol.control import RdmaMap
from rdstool.protocol.errors import RdmaError, WouldBlock
from rdstool.protocol.kinds import Transport
from rdstool.protocol.reasons import SendStatus
from tests.interop import rdma_program
from tests.interop.rdma_program import REQUEST, content

TIMEOUT_S = 60.0
SIZES = (0, 1, 4095, 4096, 4097, 65536, 1 << 20)
RDMA_SIZES = (1, 4096, 10_000, 1 << 20)
BUFFER = 4 << 20
MET = ("newest",)
"""Kernels of these tests. 6.12 answers the first connection; once that has ended, its RDS was seen to stand still."""
PROGRAM = Path(rdma_program.__file__)


@pytest.fixture(scope="module", params=MET)
def rxe(request: pytest.FixtureRequest) -> Iterator[Guest]:
    """A guest of this module's own, with RDS over Soft-RoCE.

    The others' unloads RDS after each test; with rds_rdma and a peer that was connected, that ends a kernel.
    """
    with Network() as net, Guest(fetch_kernel(request.param), net) as guest:
        for name in ("wmem_max", "rmem_max"):
            guest.sysctl(f"net.core.{name}", BUFFER)
        guest.add_rxe()
        yield guest


@pytest.fixture
def network(rxe: Guest) -> Iterator[Network]:
    assert rxe.network is not None
    yield rxe.network
    rxe.rds.close_all()


@pytest.fixture
def stack(network: Network) -> Iterator[Stack]:
    options = NodeOptions(
        Settings(sndbuf=BUFFER, rcvbuf=BUFFER),
        transport=Transport.IB,
        make_socket=network.socket,
    )
    with Stack(options) as made:
        yield made


def ours(stack: Stack, address: str, port: int = 4000) -> Socket:
    socket = Socket(stack)
    socket.bind((address, port))
    socket.settimeout(TIMEOUT_S)
    return socket


def await_port(guest: Guest, port: int) -> None:
    """Until a program in the guest has bound it."""
    deadline = monotonic() + TIMEOUT_S
    while all(each["port"] != port for each in guest.rds.table("sockets")):
        assert monotonic() < deadline, f"nobody binds port {port}"


@pytest.mark.parametrize("role", ["smaller", "larger"])
def test_messages_of_all_sizes_go_both_ways_when_we_connect(
    rxe: Guest, network: Network, stack: Stack, judged: Capture, role: str
) -> None:
    there = rxe.rds.open(rxe.address, 5000, transport="ib", sndbuf=BUFFER, rcvbuf=BUFFER)
    with ours(stack, getattr(network, role)) as here:
        for seed, size in enumerate(SIZES):
            here.sendto(payload(seed, size), there.end)
            assert rxe.rds.receive(there).sha256 == digest(payload(seed, size))
            rxe.rds.send(there, here.getsockname(), size=size, seed=100 + seed)
            assert here.recvfrom() == (payload(100 + seed, size), there.end)
        here.sendto(b"", (rxe.address, 0))
        assert here.recvfrom() == (b"", (rxe.address, 0))
        here.drain(TIMEOUT_S)


def test_messages_arrive_when_the_kernel_connects(rxe: Guest, network: Network, stack: Stack, judged: Capture) -> None:
    there = rxe.rds.open(rxe.address, 5000, transport="ib", sndbuf=BUFFER, rcvbuf=BUFFER)
    with ours(stack, network.smaller) as here:
        for seed, size in enumerate(SIZES):
            rxe.rds.send(there, here.getsockname(), size=size, seed=seed)
            assert here.recvfrom() == (payload(seed, size), there.end)
            here.sendto(payload(100 + seed, size), there.end)
            assert rxe.rds.receive(there).sha256 == digest(payload(100 + seed, size))


def test_the_kernel_reads_and_writes_memory_that_we_offer(
    rxe: Guest, network: Network, stack: Stack, judged: Capture
) -> None:
    program = rxe.popen([sys.executable, "-S", str(PROGRAM), "serve", rxe.address, "5000"])
    await_port(rxe, 5000)
    with ours(stack, network.smaller) as here:
        for seed, (operation, size) in enumerate(product("rw", RDMA_SIZES)):
            before = content(seed, size) if operation == "r" else bytes(size)
            offer = RdmaMap(bytearray(before))
            request = REQUEST.pack(operation.encode(), size, seed)
            here.sendmsg(request, (rxe.address, 5000), control=[offer])
            assert here.recv() == b"done"
            status, told = here.recv().split()
            wanted = content(seed, size)
            assert (status, told) == (b"0", hashlib.sha256(wanted).hexdigest().encode())
            assert bytes(offer.memory) == wanted
    program.kill()


def test_a_wrong_key_fails_and_the_connection_recovers(rxe: Guest, network: Network, stack: Stack) -> None:
    there = rxe.rds.open(rxe.address, 5000, transport="ib")
    with ours(stack, network.smaller) as here:
        with pytest.raises(RdmaError) as caught:
            here.rdma_write(0xDEAD, b"nowhere", there.end, timeout_s=TIMEOUT_S)
        assert caught.value.status is SendStatus.REMOTE_ERROR
        here.sendto(b"still here", there.end)
        assert rxe.rds.receive(there).sha256 == digest(b"still here")


def test_many_sockets_exchange_many_messages_both_ways(
    rxe: Guest, network: Network, stack: Stack, judged: Capture
) -> None:
    count, each = 16, 150
    theirs = rxe.rds.open_many(count, rxe.address, transport="ib", sndbuf=BUFFER, rcvbuf=BUFFER)
    with ExitStack() as opened:
        mine = [opened.enter_context(ours(stack, network.smaller, 4000 + number)) for number in range(count)]
        plan = [(n, at, (n * 131 + at * 977) % 9000, n * each + at) for at in range(each) for n in range(count)]
        for n, at, size, seed in plan:
            mine[n].sendto(payload(seed, size), theirs[(n + at) % count].end)
        sent = [(theirs[n], mine[(n + at) % count].getsockname(), size, seed) for n, at, size, seed in plan]
        assert set(rxe.rds.send_many(sent)) == {None}
        arrived = rxe.rds.receive_many(theirs, len(plan), timeout_s=TIMEOUT_S)
        assert sorted(message.sha256 for message in arrived) == sorted(digest(payload(s, z)) for _, _, z, s in plan)
        expected: dict[tuple[int, tuple[str, int]], list[bytes]] = {}
        for n, at, size, seed in plan:
            expected.setdefault(((n + at) % count, theirs[n].end), []).append(payload(seed, size))
        got: dict[tuple[int, tuple[str, int]], list[bytes]] = {}
        for number, socket in enumerate(mine):
            for _ in range(each):
                data, source = socket.recvfrom()
                got.setdefault((number, source), []).append(data)
        assert got == expected


def test_a_full_receiver_of_the_kernel_holds_us_back_and_lets_us_go_on(
    rxe: Guest, network: Network, stack: Stack, judged: Capture
) -> None:
    there = rxe.rds.open(rxe.address, 5000, transport="ib", rcvbuf=10_000)
    with ours(stack, network.larger) as here:
        here.setblocking(False)
        sent = 0
        deadline = monotonic() + TIMEOUT_S
        while monotonic() < deadline:
            try:
                here.sendto(payload(sent, 4000), there.end)
                sent += 1
            except WouldBlock as reason:
                if reason.errno == errno.ENOBUFS:
                    break
        assert sent >= 3
        for seed in range(sent):
            assert rxe.rds.receive(there).sha256 == digest(payload(seed, 4000))
        here.settimeout(TIMEOUT_S)
        here.sendto(b"free again", there.end)
        assert rxe.rds.receive(there).sha256 == digest(b"free again")


def test_our_full_receiver_holds_the_kernel_back_and_lets_it_go_on(
    rxe: Guest, network: Network, stack: Stack, judged: Capture
) -> None:
    there = rxe.rds.open(rxe.address, 5000, transport="ib", sndbuf=BUFFER)
    with ours(stack, network.smaller) as here:
        here.setsockopt(SOL_SOCKET, SO_RCVBUF, 10_000)
        taken: list[int] = []
        told: list[str | None] = [None]
        deadline = monotonic() + TIMEOUT_S
        while told[-1] != "ENOBUFS":
            assert monotonic() < deadline
            told = rxe.rds.send_many([(there, here.getsockname(), 4000, len(taken))], nonblocking=True)
            if told == [None]:
                taken.append(len(taken))
        assert len(taken) >= 3
        for seed in taken:
            assert here.recv() == payload(seed, 4000)
        assert rxe.rds.send(there, here.getsockname(), size=10, seed=99, timeout_s=TIMEOUT_S) == 10
        assert here.recv() == payload(99, 10)


@pytest.mark.parametrize("fault", [("loss", "1%"), ("delay", "5ms", "reorder", "25%", "50%"), ("duplicate", "2%")])
def test_a_bad_network_loses_doubles_and_reorders_nothing(
    rxe: Guest, network: Network, stack: Stack, fault: tuple[str, ...]
) -> None:
    there = rxe.rds.open(rxe.address, 5000, transport="ib", sndbuf=BUFFER, rcvbuf=BUFFER)
    with ours(stack, network.smaller) as here, rxe.wire.netem(*fault):
        sizes = [(seed * 613) % 12_000 for seed in range(60)]
        for seed, size in enumerate(sizes):
            here.sendto(payload(seed, size), there.end)
        plan = [(there, here.getsockname(), size, 1000 + seed) for seed, size in enumerate(sizes)]
        assert set(rxe.rds.send_many(plan)) == {None}
        arrived = rxe.rds.receive_many([there], len(sizes), timeout_s=TIMEOUT_S)
        assert [each.sha256 for each in arrived] == [digest(payload(seed, size)) for seed, size in enumerate(sizes)]
        assert [here.recv() for _ in sizes] == [payload(1000 + seed, size) for seed, size in enumerate(sizes)]


def test_messages_survive_a_link_that_is_down(rxe: Guest, network: Network, stack: Stack) -> None:
    there = rxe.rds.open(rxe.address, 5000, transport="ib", sndbuf=BUFFER, rcvbuf=BUFFER)
    with ours(stack, network.larger) as here:
        here.sendto(payload(0, 100), there.end)
        assert rxe.rds.receive(there).sha256 == digest(payload(0, 100))
        with rxe.wire.down():
            for seed in range(1, 20):
                here.sendto(payload(seed, 5000), there.end)
        arrived = rxe.rds.receive_many([there], 19, timeout_s=2 * TIMEOUT_S)
        assert [each.sha256 for each in arrived] == [digest(payload(seed, 5000)) for seed in range(1, 20)]


def test_datagrams_go_over_ipv6(rxe: Guest, network: Network, stack: Stack, judged: Capture) -> None:
    there = rxe.rds.open(rxe.address6, 5000, transport="ib", sndbuf=BUFFER, rcvbuf=BUFFER)
    with ours(stack, network.smaller6) as here:
        here.sendto(payload(1, 10_000), there.end)
        assert rxe.rds.receive(there).sha256 == digest(payload(1, 10_000))
        rxe.rds.send(there, here.getsockname(), size=10_000, seed=2)
        assert here.recvfrom() == (payload(2, 10_000), there.end)
