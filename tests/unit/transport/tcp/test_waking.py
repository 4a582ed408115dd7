"""Of how many bytes the system tells the loop."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Iterator

import pytest

import rdstool
from dissectors.wire.extensions import GenNum, NPaths, build_extensions
from rdstool.protocol.connection import Connection
from rdstool.transport.tcp.stream import Stream
from tests.kit.hostile import PATIENCE_S, RawPeer, message
from tests.kit.loopback import own_addresses
from tests.unit.protocol.driving import LARGE, SMALL, greeted, make_node

ENOUGH = 100_000


@pytest.fixture
def waiting() -> Iterator[tuple[Stream, socket.socket]]:
    """A stream that waits for ``ENOUGH`` bytes, and its peer's socket."""
    link = greeted(make_node(LARGE), LARGE, SMALL, 32768, 0.0)
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as far,
        server.accept()[0] as near,
    ):
        near.setblocking(False)
        stream = Stream(1, link, near)
        stream.wait_for(ENOUGH)
        yield stream, far


def arrive(stream: Stream, count: int) -> None:
    """Wait until there are as many bytes to read, by looking at them: the system does not tell."""
    seen = 0
    while seen < count:
        try:
            seen = len(stream.sock.recv(count, socket.MSG_PEEK))
        except BlockingIOError:
            continue


def told(stream: Stream, timeout_s: float = 0) -> bool:
    """The loop would call the stream's reader."""
    return bool(select.select([stream.sock], [], [], timeout_s)[0])


async def test_a_payload_of_which_part_was_read_before_its_time_is_not_waited_for_in_vain() -> None:
    """A connection that has just come up has path 0 read first, whatever there is of it."""
    small, large = own_addresses(2)
    settings = rdstool.Settings(sndbuf=1 << 20, rcvbuf=1 << 20)
    async with (
        asyncio.timeout(PATIENCE_S),
        rdstool.Node(large, options=rdstool.NodeOptions(settings)) as node,
        await RawPeer(small).reach(large) as peer,
    ):
        sock = node.socket(4000)
        payload = bytes(4 * ENOUGH)
        await peer.say(message(1, 1, 0, exthdr=build_extensions([NPaths(2), GenNum(1)])))
        await peer.say(message(2, 5000, 4000, payload))
        assert await sock.recv() == payload
        (connection,) = node.engine.connections.values()
        assert isinstance(connection, Connection)
        link = connection.paths[0].link
        assert link is not None
        # Of the second message a part is read, the next part left to the system, and read for another connection.
        second = message(3, 5000, 4000, payload)
        await peer.say(second[:ENOUGH])
        while link.deframer.held < ENOUGH:
            await asyncio.sleep(0)
        await peer.say(second[ENOUGH : 3 * ENOUGH])
        async with await RawPeer(small).reach(large) as other:
            await other.say(message(1, 5000, 0))
            while link.deframer.held < 3 * ENOUGH:
                await asyncio.sleep(0)
        await peer.say(second[3 * ENOUGH :])
        assert await sock.recv() == payload


def test_the_loop_is_told_once_there_is_enough(waiting: tuple[Stream, socket.socket]) -> None:
    stream, far = waiting
    far.sendall(bytes(ENOUGH - 1))
    arrive(stream, ENOUGH - 1)
    assert not told(stream)
    far.sendall(b"!")
    assert told(stream, PATIENCE_S)


def test_the_loop_is_told_of_any_byte_again(waiting: tuple[Stream, socket.socket]) -> None:
    stream, far = waiting
    far.sendall(b"!")
    arrive(stream, 1)
    assert not told(stream)
    stream.wait_for(1)
    assert told(stream)


def test_the_end_of_a_connection_is_told_at_once(waiting: tuple[Stream, socket.socket]) -> None:
    stream, far = waiting
    far.sendall(b"!")
    far.shutdown(socket.SHUT_WR)
    assert told(stream, PATIENCE_S)


def test_a_stream_whose_connection_is_gone_waits_all_the_same(waiting: tuple[Stream, socket.socket]) -> None:
    stream, _far = waiting
    stream.sock.close()
    stream.wait_for(1)
    assert stream.enough == 1
