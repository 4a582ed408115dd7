"""What the system tells of a peer's TCP, and that it tells it by itself where a sender waits."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator

import pytest

from rdstool.transport.tcp.notices import ACK_NOTICE, allow_notices, take_notice
from rdstool.transport.tcp.queues import unacknowledged
from rdstool.transport.tcp.stream import Stream
from tests.kit.hostile import PATIENCE_S
from tests.unit.protocol.driving import ALL, LARGE, SMALL, bound, greeted, make_node

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two ends of a TCP connection; the first is not waited for."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as near:
        near.setblocking(False)
        with server.accept()[0] as far:
            yield near, far


def has_news(sock: socket.socket) -> bool:
    """The loop would call the reader of the socket, though there is nothing to read."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(PATIENCE_S * 1000))


def test_the_system_tells_once_that_a_write_is_acknowledged(pair: Pair) -> None:
    near, far = pair
    assert allow_notices(near)
    near.sendmsg([b"hello"], ACK_NOTICE)
    assert has_news(near)
    assert take_notice(near)
    assert not take_notice(near)
    assert unacknowledged(near) == 0
    with pytest.raises(BlockingIOError):
        near.recv(1)
    assert far.recv(100) == b"hello"


def test_a_sender_that_will_need_room_has_the_system_tell_of_its_acknowledgement(pair: Pair) -> None:
    near, _far = pair
    node = make_node(LARGE, sndbuf=1000)
    link = greeted(node, LARGE, SMALL, 32768, 0.0)
    stream = Stream(1, link, near)
    sock = bound(node)
    sock.sendmsg(bytes(400), SMALL, 4001, now=0.0)
    stream.write(node.data_to_send(link, ALL))
    assert not stream.asked, "there is room for another one"
    sock.sendmsg(bytes(400), SMALL, 4001, now=0.0)
    stream.write(node.data_to_send(link, ALL))
    assert stream.asked
    assert has_news(near)
    stream.notice()
    assert not stream.asked
    assert stream.update_acked()
    assert stream.acked == stream.written


def test_a_full_socket_tells_by_the_room_that_becomes_free(pair: Pair) -> None:
    near, _far = pair
    node = make_node(LARGE, sndbuf=1000)
    link = greeted(node, LARGE, SMALL, 32768, 0.0)
    stream = Stream(1, link, near)
    stream.writing = True
    bound(node).sendmsg(bytes(1000), SMALL, 4001, now=0.0)
    stream.write(node.data_to_send(link, ALL))
    assert not stream.asked
