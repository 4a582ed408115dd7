"""Two nodes of one machine over InfiniBand: the userspace RoCE provider on loopback."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from rdstool.capture.pipeline import open_capture
from rdstool.endpoint import constants as c
from rdstool.endpoint.blocking import Socket
from rdstool.endpoint.constants import RDS_TRANS_IB, RDS_TRANS_TCP, SO_RDS_TRANSPORT, SOL_RDS
from rdstool.endpoint.core import NodeOptions
from rdstool.endpoint.node import AsyncSocket, Node
from rdstool.endpoint.stack import Stack
from rdstool.protocol.config import Settings
from rdstool.protocol.control import RdmaArgs, RdmaDest, RdmaMap, ZerocopyCookie
from rdstool.protocol.errors import RdmaError, SocketError
from rdstool.protocol.ib.memory import RdmaFlags
from rdstool.protocol.kinds import MessageKind, Transport
from rdstool.protocol.reasons import SendStatus
from rdstool.protocol.received import Notification
from rdstool.validate.validator import validate
from tests.kit.loopback import own_addresses

LIMIT_S = 90
OPTIONS = NodeOptions(Settings(sndbuf=1 << 21, rcvbuf=1 << 22), transport=Transport.IB)
SIZES = (0, 1, 4095, 4096, 4097, 65536, 1 << 20)


class Pair:
    """Two nodes, a socket on each."""

    def __init__(self, one: Node, other: Node) -> None:
        self.nodes = one, other
        self.near, self.far = one.socket(4000), other.socket(4001)


@pytest_asyncio.fixture
async def pair() -> AsyncIterator[Pair]:
    here, there = own_addresses(2)
    async with Node(here, options=OPTIONS) as one, Node(there, options=OPTIONS) as other:
        yield Pair(one, other)


async def got(socket: AsyncSocket) -> bytes:
    return (await asyncio.wait_for(socket.recvfrom(), LIMIT_S))[0]


async def test_messages_of_all_sizes_arrive_both_ways(pair: Pair) -> None:
    for size in SIZES:
        data = os.urandom(size)
        await pair.near.sendto(data, pair.far.getsockname())
        assert await got(pair.far) == data
        await pair.far.sendto(data, pair.near.getsockname())
        assert await got(pair.near) == data
    await asyncio.wait_for(pair.near.drain(), LIMIT_S)
    assert pair.near.unacknowledged == 0


async def test_there_is_no_zerocopy(pair: Pair) -> None:
    pair.near.setsockopt(c.SOL_SOCKET, c.SO_ZEROCOPY, 1)
    with pytest.raises(SocketError) as caught:
        await pair.near.sendmsg(b"x", pair.far.getsockname(), flags=c.MSG_ZEROCOPY, control=[ZerocopyCookie(1)])
    assert caught.value.errno == errno.EOPNOTSUPP


def test_one_address_and_port_has_a_socket_of_each_transport() -> None:
    here, there = own_addresses(2)
    with Stack() as stack:
        for number in (RDS_TRANS_IB, RDS_TRANS_TCP):
            made = Socket(stack), Socket(stack)
            for sock, address in zip(made, (here, there), strict=True):
                sock.setsockopt(SOL_RDS, SO_RDS_TRANSPORT, number)
                sock.bind((address, 4000))
                sock.settimeout(LIMIT_S)
                assert sock.getsockopt(SOL_RDS, SO_RDS_TRANSPORT) == number
                with pytest.raises(SocketError) as caught:
                    sock.setsockopt(SOL_RDS, SO_RDS_TRANSPORT, number)
                assert caught.value.errno == errno.EOPNOTSUPP
            made[0].sendto(bytes([number]), (there, 4000))
            assert made[1].recvfrom(10) == (bytes([number]), (here, 4000))


async def test_a_ping_is_answered(pair: Pair) -> None:
    await pair.near.sendto(b"", (pair.far.getsockname()[0], 0))
    assert await got(pair.near) == b""


async def test_memory_is_written_read_and_counted_in(pair: Pair) -> None:
    memory = bytearray(os.urandom(10_000))
    cookie = pair.far.offer_memory(memory)
    peer = pair.far.getsockname()
    await pair.near.rdma_write(cookie, b"written", peer, offset=100)
    assert memory[100:107] == b"written"
    into = bytearray(9_000)
    await pair.near.rdma_read(cookie, into, peer, offset=1_000)
    assert into == memory[1_000:]
    memory[:8] = (40).to_bytes(8, "little")
    assert await pair.near.fetch_add(cookie, 2, peer) == 40
    assert await pair.near.compare_swap(cookie, 41, 7, peer) == 42
    assert await pair.near.compare_swap(cookie, 42, 7, peer) == 42
    assert await pair.near.fetch_add(cookie, 0, peer) == 7
    assert await pair.near.compare_swap(cookie, 0x107, 0x333, peer, compare_mask=0xFF, swap_mask=0xF0) == 7
    assert await pair.near.fetch_add(cookie, 0xD0, peer, nocarry_mask=0x80) == 0x37
    assert memory[:8] == (7).to_bytes(8, "little")


async def test_memory_for_one_destination_is_offered_as_any_other(pair: Pair) -> None:
    memory = bytearray(10)
    cookie = pair.far.offer_memory(memory, destination=pair.near.getsockname())
    await pair.near.rdma_write(cookie, b"for you", pair.far.getsockname())
    assert memory == b"for you" + bytes(3)
    with pytest.raises(SocketError) as caught:
        pair.far.offer_memory(memory, destination=("nobody", 1))
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("wrong", ["key", "end", "rights", "freed"])
async def test_memory_that_refuses_gives_a_status_and_the_connection_recovers(pair: Pair, wrong: str) -> None:
    memory = bytearray(100)
    cookie = pair.far.offer_memory(memory, RdmaFlags(0) if wrong == "rights" else RdmaFlags.READWRITE)
    peer, offset = pair.far.getsockname(), 0
    if wrong == "key":
        cookie ^= 1
    elif wrong == "end":
        offset = 99
    elif wrong == "freed":
        pair.far.free_memory(cookie)
    with pytest.raises(RdmaError) as caught:
        await pair.near.rdma_write(cookie, b"xx", peer, offset=offset)
    assert caught.value.status is SendStatus.REMOTE_ERROR
    assert memory == bytes(100)
    await pair.near.sendto(b"still here", peer)
    assert await got(pair.far) == b"still here"


@pytest.mark.parametrize("offset", [3, -8, 1 << 64])
async def test_an_atomic_at_a_place_where_none_can_be_is_refused_at_once(pair: Pair, offset: int) -> None:
    cookie, peer = pair.far.offer_memory(bytearray(16)), pair.far.getsockname()
    for call in (
        pair.near.fetch_add(cookie, 1, peer, offset=offset),
        pair.near.compare_swap(cookie, 0, 1, peer, offset=offset),
    ):
        with pytest.raises(SocketError) as caught:
            await asyncio.wait_for(call, LIMIT_S)
        assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("offset", [-1, (1 << 64) - 1])
async def test_rdma_outside_of_what_64_bits_address_is_refused_at_once(pair: Pair, offset: int) -> None:
    cookie, peer = pair.far.offer_memory(bytearray(16)), pair.far.getsockname()
    for call in (
        pair.near.rdma_write(cookie, b"xx", peer, offset=offset),
        pair.near.rdma_read(cookie, bytearray(2), peer, offset=offset),
    ):
        with pytest.raises(SocketError) as caught:
            await asyncio.wait_for(call, LIMIT_S)
        assert caught.value.errno == errno.EINVAL


async def test_a_server_fills_the_memory_that_a_request_offers(pair: Pair) -> None:
    """The dialogue of §8.1: offer with a message, RDMA before the answer, memory void after it."""
    memory = bytearray(5_000)
    offer = RdmaMap(memory)
    await pair.near.sendmsg(b"please", pair.far.getsockname(), control=[offer])
    request = await asyncio.wait_for(pair.far.recvmsg(), LIMIT_S)
    assert request.control == (RdmaDest(offer.cookie),)
    data = os.urandom(5_000)
    args = RdmaArgs(offer.cookie, [data], flags=RdmaFlags.READWRITE | RdmaFlags.NOTIFY_ME, token=77)
    await pair.far.sendmsg(b"done", (request.address, request.port), control=[args])
    assert await got(pair.near) == b"done"
    assert memory == data
    notice = await asyncio.wait_for(pair.far.recvmsg(), LIMIT_S)
    assert notice.control == (Notification(77, SendStatus.ACKNOWLEDGED),)
    with pytest.raises(SocketError) as caught:
        pair.near.free_memory(offer.cookie)
    assert caught.value.errno == errno.EINVAL


async def test_a_recording_decodes_without_findings(tmp_path: Path) -> None:
    here, there = own_addresses(2)
    file = tmp_path / "node.pcapng"
    recorded = NodeOptions(OPTIONS.settings, transport=Transport.IB, pcap=file)
    async with Node(here, options=recorded) as one, Node(there, options=OPTIONS) as other:
        pair = Pair(one, other)
        for size in (0, 4097, 30_000):
            await pair.near.sendto(bytes(size), pair.far.getsockname())
            await got(pair.far)
            await pair.far.sendto(bytes(size), pair.near.getsockname())
            await got(pair.near)
        cookie = pair.far.offer_memory(bytearray(100))
        await pair.near.rdma_write(cookie, b"x" * 100, pair.far.getsockname())
        await asyncio.wait_for(pair.near.drain(), LIMIT_S)
    with open_capture(file) as capture:
        messages = list(capture)
    data = [message for message in messages if message.kind is MessageKind.DATA]
    assert [message.header.length for message in data] == [0, 0, 4097, 4097, 30_000, 30_000]
    assert all(message.complete for message in messages)
    with open_capture(file) as capture:
        findings = [finding for finding in validate(capture) if finding.severity.name != "NOTE"]
    assert findings == []


def test_blocking_sockets_choose_infiniband_by_option() -> None:
    here, there = own_addresses(2)
    with Stack() as stack, Socket(stack) as near, Socket(stack) as far:
        for socket, address in ((near, here), (far, there)):
            socket.setsockopt(SOL_RDS, SO_RDS_TRANSPORT, RDS_TRANS_IB)
            socket.bind((address, 4000))
            socket.settimeout(LIMIT_S)
            assert socket.getsockopt(SOL_RDS, SO_RDS_TRANSPORT) == RDS_TRANS_IB
        near.sendto(b"over verbs", (there, 4000))
        assert far.recvfrom() == (b"over verbs", (here, 4000))
        memory = bytearray(16)
        cookie = far.offer_memory(memory)
        near.rdma_write(cookie, b"sixteen bytes ok", (there, 4000), timeout_s=LIMIT_S)
        assert memory == b"sixteen bytes ok"
        assert near.fetch_add(cookie, 1, (there, 4000), timeout_s=LIMIT_S) == int.from_bytes(b"sixteen ", "little")


def test_over_tcp_there_is_no_rdma() -> None:
    (here,) = own_addresses(1)
    with Stack() as stack, Socket(stack) as socket:
        socket.bind((here, 4000))
        with pytest.raises(SocketError) as caught:
            socket.offer_memory(bytearray(8))
        assert caught.value.errno == errno.EOPNOTSUPP
        with pytest.raises(SocketError) as caught:
            socket.rdma_write(1, b"x", (own_addresses(1)[0], 4000))
        assert caught.value.errno == errno.EOPNOTSUPP


async def test_atomics_with_masks_of_several_peers_lose_nothing() -> None:
    addresses = own_addresses(4)
    memory = bytearray(8)
    async with AsyncExitStack() as stack:
        server, *clients = [await stack.enter_async_context(Node(each, options=OPTIONS)) for each in addresses]
        target = server.socket(4000)
        cookie, peer = target.offer_memory(memory), target.getsockname()

        async def count(node: Node) -> None:
            sock = node.socket(0)
            for _ in range(20):
                await sock.fetch_add(cookie, 0x1_0000_0001, peer, nocarry_mask=1 << 31)

        async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(count(client))
    assert memory == (60).to_bytes(4, "little") * 2
