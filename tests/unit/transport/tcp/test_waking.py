"""Of how many bytes the system tells the loop."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator

import pytest

from rdstool.transport.tcp.stream import Stream
from tests.kit.hostile import PATIENCE_S
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
        stream = Stream(1, link, near, None, connecting=False)
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
