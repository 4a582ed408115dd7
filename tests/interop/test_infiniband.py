"""RDS over InfiniBand with real kernels: userspace RoCE here, rds_rdma over rdma_rxe in the guest."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from rdstool.endpoint.blocking import Socket
from rdstool.endpoint.core import NodeOptions
from rdstool.endpoint.stack import Stack
from rdstool.lab import Guest, Network, digest, payload
from rdstool.lab.capture import Capture
from rdstool.protocol.config import Settings
from rdstool.protocol.kinds import Transport
from rdstool.transport.ib.roce_udp import RoceProvider

TIMEOUT_S = 60.0
SIZES = (0, 1, 4095, 4096, 4097, 65536, 1 << 20)
BUFFER = 4 << 20


@pytest.fixture(scope="module")
def with_rxe() -> Iterator[dict[str, Guest]]:
    """Guests with RDS over Soft-RoCE, by kernel."""
    made: dict[str, Guest] = {}
    yield made
    for guest in made.values():
        if guest.alive:
            guest.run(["rdma", "link", "delete", "rxe0"])
            guest.unload_modules("rds_rdma")


@pytest.fixture
def rxe(guest: Guest, with_rxe: dict[str, Guest]) -> Guest:
    """The guest, which has RDS over InfiniBand."""
    if guest.kernel.name not in with_rxe:
        guest.add_rxe()
        with_rxe[guest.kernel.name] = guest
    return guest


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
