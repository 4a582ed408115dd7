"""Nodes of asyncio programs, over real TCP on loopback and over a network of one process."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

import rdstool
from dissectors.wire.rds import TCP_PORT
from rdstool.endpoint.constants import MSG_DONTWAIT
from rdstool.endpoint.node import MESSAGES_IN_A_ROW, AsyncSocket
from rdstool.errors import TransportError
from rdstool.protocol import events
from rdstool.protocol.connection import Connection
from rdstool.protocol.errors import SocketError, WouldBlock
from rdstool.protocol.link import BaseLink, Link
from rdstool.protocol.profile import UEK
from rdstool.protocol.reasons import SendStatus
from rdstool.protocol.received import Notification
from rdstool.transport.driver import BURST_BYTES
from rdstool.transport.loop import LoopNetwork
from rdstool.transport.tcp.queues import unacknowledged
from rdstool.transport.tcp.transport import TcpTransport
from tests.kit.loopback import own_addresses

SIZES = (0, 1, 47, 48, 4096, 65_536, 1 << 20)
GENEROUS_S = 60.0
"""For what takes no time, on a busy machine."""
BIG = rdstool.Settings(sndbuf=4 << 20, rcvbuf=4 << 20)


@asynccontextmanager
async def pair(
    settings: rdstool.Settings = BIG, network: LoopNetwork | None = None
) -> AsyncIterator[tuple[rdstool.Node, rdstool.Node]]:
    """Two nodes; the first has the smaller address."""
    small, large = own_addresses(2)
    options = rdstool.NodeOptions(settings, network=network)
    async with rdstool.Node(small, options=options) as one, rdstool.Node(large, options=options) as other:
        yield one, other


@pytest.mark.parametrize("in_process", [False, True], ids=["tcp", "loop"])
@pytest.mark.parametrize("larger_first", [False, True], ids=["smaller sends", "larger sends"])
async def test_messages_of_all_sizes_arrive_whole_and_in_order(larger_first: bool, in_process: bool) -> None:
    async with pair(network=LoopNetwork() if in_process else None) as nodes:
        sender, receiver = reversed(nodes) if larger_first else nodes
        out, back = sender.socket(4000), receiver.socket(4001)
        for size in SIZES:
            await out.sendto(bytes([size % 251]) * size, back.getsockname())
        for size in SIZES:
            assert await back.recvfrom() == (bytes([size % 251]) * size, out.getsockname())
        await out.drain()
        assert out.unacknowledged == 0


@pytest.mark.parametrize("npaths", range(2, 9))
async def test_all_paths_come_up_and_each_socket_stays_on_one(npaths: int) -> None:
    async with pair(dataclasses.replace(BIG, paths=npaths)) as (small, large):
        all_up = asyncio.Event()
        ends = small.addresses[0], large.addresses[0]

        def count(_event: events.Event) -> None:
            if small.engine.up(*ends) == npaths:
                all_up.set()

        small.on_event(count)
        sockets = [small.socket(0) for _ in range(32)]
        target = large.socket(4000)
        for number in range(10):
            for sock in sockets:
                await sock.sendto(bytes([number]), target.getsockname())
        seen: dict[tuple[str, int], list[int]] = {}
        for _ in range(320):
            data, sender = await target.recvfrom()
            seen.setdefault(sender, []).append(data[0])
        assert set(seen) == {sock.getsockname() for sock in sockets}
        assert all(numbers == list(range(10)) for numbers in seen.values())
        await all_up.wait()


async def link_between(node: rdstool.Node, sender: AsyncSocket, receiver: AsyncSocket) -> Link:
    """What carries messages from ``node``, which has one connection and one path."""
    await sender.sendto(b"first", receiver.getsockname())
    await receiver.recv()
    (connection,) = node.engine.connections.values()
    assert isinstance(connection, Connection)
    link = connection.paths[0].link
    assert link is not None
    return link


async def test_much_that_is_sent_in_one_go_does_not_wait_for_the_loop() -> None:
    async with pair(rdstool.Settings(paths=1, sndbuf=4 << 20, rcvbuf=4 << 20)) as (one, other):
        sender, receiver = one.socket(0), other.socket(4000)
        link = await link_between(one, sender, receiver)
        before = link.sent
        for _ in range(2 * BURST_BYTES // 65_536):
            await sender.sendto(bytes(65_536), receiver.getsockname())  # never waits: there is room
        assert link.sent - before >= BURST_BYTES


async def test_what_follows_a_long_write_closely_does_not_go_out_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async with pair(rdstool.Settings(paths=1)) as (one, other):
        sender, receiver = one.socket(0), other.socket(4000)
        link = await link_between(one, sender, receiver)
        driver = one.core.driver
        clock, flush = driver.now() + 1, driver.transport.flush

        def flush_slowly(link: BaseLink) -> bool:
            nonlocal clock
            clock += 1
            return flush(link)

        monkeypatch.setattr(driver, "now", lambda: clock)
        monkeypatch.setattr(driver.transport, "flush", flush_slowly)
        before = link.sent
        await sender.sendto(b"long after the last one", receiver.getsockname())
        written = link.sent
        assert written > before
        await sender.sendto(b"at once", receiver.getsockname())  # never waits: there is room
        assert link.sent == written
        assert [await receiver.recv(), await receiver.recv()] == [b"long after the last one", b"at once"]


async def test_who_sends_empty_messages_in_a_loop_lets_others_have_their_turn() -> None:
    async with pair() as (small, large):
        out, back = small.socket(4000), large.socket(4000)
        turns: list[int] = []
        for number in range(3 * MESSAGES_IN_A_ROW):
            if not number % MESSAGES_IN_A_ROW:
                asyncio.get_running_loop().call_soon(turns.append, number)
            await out.sendto(b"", back.getsockname())  # never waits: there is room
        assert turns[:2] == [0, MESSAGES_IN_A_ROW]


async def test_a_ping_is_answered_by_the_node_itself() -> None:
    async with pair() as (small, large):
        sock = large.socket(0)
        await sock.sendto(b"", (small.addresses[0], 0))
        assert await sock.recvfrom() == (b"", (small.addresses[0], 0))


async def test_a_sender_waits_for_a_full_receiver_and_is_woken_when_it_reads() -> None:
    async with pair(rdstool.Settings(sndbuf=1 << 20, rcvbuf=10_000)) as (small, large):
        out, back = small.socket(4000), large.socket(4000)

        async def fill() -> None:
            while True:
                await out.sendmsg(bytes(4000), back.getsockname(), flags=MSG_DONTWAIT)
                await out.drain()

        with pytest.raises(WouldBlock) as refused:
            await fill()
        assert refused.value.errno == errno.ENOBUFS
        waiting = asyncio.create_task(out.sendto(b"the last", back.getsockname()))
        while (await back.recv()) != b"the last":
            pass
        assert await waiting == 8


async def test_an_acknowledgement_is_reported_for_a_token() -> None:
    async with pair() as (small, large):
        out, back = small.socket(4000), large.socket(4000)
        await out.sendmsg(b"hello", back.getsockname(), token=7)
        message = await out.recvmsg()
        assert message.control == (Notification(7, SendStatus.ACKNOWLEDGED),)


async def test_a_timeout_ends_a_wait_and_loses_nothing() -> None:
    async with pair() as (small, large):
        out, back = small.socket(4000), large.socket(4000)
        back.receive_timeout_s = 0.01
        with pytest.raises(TimeoutError):
            await back.recv()
        back.receive_timeout_s = None
        await out.sendto(b"late", back.getsockname())
        assert await back.recv() == b"late"


async def test_messages_wait_for_a_peer_that_is_not_there_yet() -> None:
    small, large = own_addresses(2)
    async with rdstool.Node(small) as one:
        failed = asyncio.Event()
        one.on_event(lambda event: failed.set() if isinstance(event, events.ConnectFailed) else None)
        sock = one.socket(4000)
        await sock.sendto(b"patience", (large, 4000))
        await failed.wait()
        async with rdstool.Node(large) as other:
            # Until its port is bound a message is dropped, as the kernel does.
            back = other.socket(4000)
            assert await back.recv() == b"patience"


async def test_a_restarted_peer_is_noticed_and_talked_to() -> None:
    small, large = own_addresses(2)
    async with rdstool.Node(small) as one:
        sock = one.socket(4000)
        for text in (b"first life", b"second life"):
            async with rdstool.Node(large) as other:
                back = other.socket(4000)
                await back.sendto(text, sock.getsockname())
                assert await sock.recv() == text
                await back.drain()
        assert one.engine.counters.peer_restarts == 1


async def test_cancelled_messages_are_not_sent() -> None:
    small, large = own_addresses(2)
    async with rdstool.Node(small) as one:
        sock = one.socket(4000)
        await sock.sendto(b"never", (large, 4000))
        assert sock.cancel_sent_to((large, 4000)) == 1
        await sock.sendto(b"but this", (large, 4000))
        async with rdstool.Node(large) as other:
            assert await other.socket(4000).recv() == b"but this"


async def test_a_second_node_on_an_address_is_refused_plainly() -> None:
    (address,) = own_addresses(1)
    async with rdstool.Node(address):
        with pytest.raises(TransportError, match=f"{address} speaks RDS already.*TCP port {TCP_PORT}"):
            await rdstool.Node(address).start()


async def test_an_address_of_another_machine_is_refused_plainly() -> None:
    with pytest.raises(TransportError, match=r"192\.0\.2\.1 is not an address of this machine"):
        await rdstool.Node("192.0.2.1").start()


async def test_nothing_listens_on_an_address_that_was_not_asked_for() -> None:
    asked, other = own_addresses(2)
    async with rdstool.Node(asked):
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(other, TCP_PORT)


async def test_ipv6_carries_messages_between_programs_of_one_node() -> None:
    async with rdstool.Node("::1", options=rdstool.NodeOptions(network=LoopNetwork())) as node:
        one, other = node.socket(4000), node.socket(4001)
        await one.sendto(b"six", ("::1", 4001))
        assert await other.recvfrom() == (b"six", ("::1", 4000))


async def test_a_closed_socket_wakes_whoever_reads_from_it() -> None:
    (address,) = own_addresses(1)
    async with rdstool.Node(address) as node:
        sock = node.socket(4000)
        reader = asyncio.create_task(sock.recv())
        await asyncio.sleep(0)
        sock.close()
        with pytest.raises(SocketError, match="EBADF"):
            await reader


@pytest.mark.parametrize("ends", ["socket", "node"])
async def test_closing_ends_what_waits_for_a_peer_that_never_answers(ends: str) -> None:
    options = rdstool.NodeOptions(profile=UEK, network=LoopNetwork())
    async with rdstool.Node("10.0.0.1", options=options) as node:
        sock = node.socket(4000)
        sender = asyncio.create_task(sock.sendto(b"whether there are other paths", ("10.0.0.2", 4000)))
        await asyncio.sleep(0)
        assert not sender.done()
        if ends == "socket":
            sock.close()
        else:
            await node.close()
        with pytest.raises(SocketError, match="EBADF"):
            await asyncio.wait_for(sender, GENEROUS_S)


async def test_nothing_can_come_to_a_socket_that_is_not_bound() -> None:
    (address,) = own_addresses(1)
    async with rdstool.Node(address) as node:
        with pytest.raises(SocketError, match="ENOTCONN"):
            await node.socket().recv()


async def test_the_kernels_options_are_known_by_number() -> None:
    (address,) = own_addresses(1)
    async with rdstool.Node(address) as node:
        sock = node.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 5000)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 10_000
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 2304
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_SEQPACKET
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        assert sock.getsockopt(276, 8) == -1
        sock.setsockopt(276, 8, 2)
        sock.bind((address, 0))
        assert sock.getsockopt(276, 8) == 2
        sock.set_tos(3)
        assert sock.get_tos() == 0
        with pytest.raises(SocketError) as problem:
            sock.setsockopt(276, 99, 1)
        assert problem.value.errno == errno.ENOPROTOOPT


async def test_listeners_may_look_at_a_node_that_is_being_closed() -> None:
    async with pair() as (small, large):
        seen: list[int] = []
        small.on_event(lambda _event: seen.append(small.engine.counters.conn_reset))
        await small.socket(4000).sendto(b"hello", large.socket(4000).getsockname())
        while small.engine.up(small.addresses[0], large.addresses[0]) < 8:
            await asyncio.sleep(0)
        before = len(seen)
        await small.close()
        assert len(seen) > before


async def test_all_acknowledgements_are_told_when_drain_returns() -> None:
    async with pair() as (small, large):
        told: list[int] = []
        small.on_event(lambda event: told.append(event.token) if isinstance(event, events.SendFinished) else None)
        out, back = small.socket(4000), large.socket(4000)
        for token in range(20):
            await out.sendmsg(b"hello", back.getsockname(), token=token)
            await asyncio.sleep(0)  # lets the loop hand the message to the system
            _await_system_acks(small)
            await out.drain()
            assert told == list(range(token + 1))
            await back.recv()


def _await_system_acks(node: rdstool.Node) -> None:
    """Until the system has everything acknowledged, while the event loop stands still: drain is first to ask."""
    transport = node.core.driver.transport
    assert isinstance(transport, TcpTransport)
    while any(unacknowledged(stream.sock) for stream in transport._streams.values() if not stream.dialled):
        pass
