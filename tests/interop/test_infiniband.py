"""RDS over InfiniBand with real kernels: userspace RoCE here, rds_rdma over rdma_rxe in the guest."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path
from time import monotonic

import pytest

from rdstool.endpoint.blocking import Socket
from rdstool.endpoint.core import NodeOptions
from rdstool.endpoint.stack import Stack
from rdstool.lab import Guest, Network
from rdstool.lab.capture import Capture
from rdstool.lab.fetch import fetch_kernel
from rdstool.lab.payload import digest, payload
from rdstool.protocol.config import Settings
from rdstool.protocol.control import RdmaArgs, RdmaDest, RdmaMap
from rdstool.protocol.errors import RdmaError
from rdstool.protocol.ib.memory import RdmaFlags
from rdstool.protocol.kinds import Transport
from rdstool.protocol.reasons import SendStatus
from rdstool.protocol.sockets import Notification
from rdstool.transport.ib.roce_udp import RoceProvider
from tests.interop import rdma_program
from tests.interop.conftest import KERNELS
from tests.interop.rdma_program import REQUEST, content

TIMEOUT_S = 60.0
SIZES = (0, 1, 4095, 4096, 4097, 65536, 1 << 20)
RDMA_SIZES = (1, 4096, 10_000, 1 << 20)
BUFFER = 4 << 20
PROGRAM = Path(rdma_program.__file__)


@pytest.fixture(scope="module", params=KERNELS)
def rxe(request: pytest.FixtureRequest) -> Iterator[Guest]:
    """A guest of this module's own, with RDS over Soft-RoCE.

    The others' unloads RDS after each test; with rds_rdma and a peer that was connected, that ends a kernel.
    """
    with Network() as net, Guest(fetch_kernel(request.param), net) as guest:
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
        provider=partial(RoceProvider, make_socket=network.socket),
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


def test_we_read_and_write_memory_that_the_kernel_offers(
    rxe: Guest, network: Network, stack: Stack, judged: Capture
) -> None:
    jobs = list(enumerate(product("rw", RDMA_SIZES)))
    with ours(stack, network.larger) as here:
        asked = [f"{operation},{size},{seed}" for seed, (operation, size) in jobs]
        program = rxe.popen(
            [sys.executable, "-S", str(PROGRAM), "ask", rxe.address, "5000", network.larger, "4000", *asked]
        )
        for seed, (operation, size) in jobs:
            request = here.recvmsg()
            assert REQUEST.unpack(request.data) == (operation.encode(), size, seed)
            (offered,) = request.control
            assert isinstance(offered, RdmaDest)
            flags = RdmaFlags.NOTIFY_ME | (RdmaFlags.READWRITE if operation == "w" else RdmaFlags.FENCE)
            local = bytearray(content(seed, size) if operation == "w" else bytes(size))
            args = RdmaArgs(offered.cookie, [local], flags=flags, token=seed)
            here.sendmsg(b"done", (request.address, request.port), control=[args])
            assert here.recvmsg().control == (Notification(seed, SendStatus.ACKNOWLEDGED),)
            assert local == content(seed, size)
        told = program.wait(TIMEOUT_S).stdout.split("\n")
        wanted = [hashlib.sha256(content(seed, size)).hexdigest() for seed, (_, size) in jobs]
        assert [line.split()[0] for line in told if line] == wanted


def test_a_wrong_key_fails_and_the_connection_recovers(rxe: Guest, network: Network, stack: Stack) -> None:
    there = rxe.rds.open(rxe.address, 5000, transport="ib")
    with ours(stack, network.smaller) as here:
        with pytest.raises(RdmaError) as caught:
            here.rdma_write(0xDEAD, b"nowhere", there.end, timeout_s=TIMEOUT_S)
        assert caught.value.status is SendStatus.REMOTE_ERROR
        here.sendto(b"still here", there.end)
        assert rxe.rds.receive(there).sha256 == digest(b"still here")
