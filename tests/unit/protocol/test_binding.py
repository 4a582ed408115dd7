"""Which addresses and ports a socket takes, for itself and as its peer (protocol.md §9.3)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from random import Random

import pytest

from rdstool.protocol.node import Node
from tests.unit.protocol.driving import (
    LARGE,
    SMALL,
    bound,
    connection_of,
    fails,
    make_node,
    send,
)


@pytest.mark.parametrize(
    ("address", "port", "number"),
    [
        ("0.0.0.0", 4000, errno.EINVAL),  # noqa: S104
        ("224.0.0.1", 4000, errno.EINVAL),
        ("255.255.255.255", 4000, errno.EINVAL),
        ("nowhere", 4000, errno.EINVAL),
        (SMALL, 1, errno.EINVAL),
        (SMALL, 65536, errno.EINVAL),
        (SMALL, -1, errno.EINVAL),
        (LARGE, 4000, errno.EADDRNOTAVAIL),
        (SMALL, 4000, errno.EADDRINUSE),
    ],
)
def test_bind_refuses_with_the_errno_of_the_kernel(address: str, port: int, number: int) -> None:
    node = make_node()
    bound(node, 4000)
    fails(number, lambda: node.socket().bind(address, port))


def test_bind_says_what_a_port_is() -> None:
    socket = make_node().socket()
    assert "70000 is not a port: they are 0 to 65535" in str(fails(errno.EINVAL, lambda: socket.bind(SMALL, 70000)))
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        socket.bind(SMALL, "4000")  # type: ignore[arg-type]


def test_a_socket_binds_once() -> None:
    socket = bound(make_node())
    fails(errno.EINVAL, lambda: socket.bind(SMALL, 4001))


def test_port_zero_takes_a_free_port_above_one() -> None:
    node = make_node()
    ports = {bound(node, 0).port for _ in range(200)}
    assert len(ports) == 200
    assert min(ports) >= 2


def test_no_port_is_given_once_all_are_taken() -> None:
    node = make_node()
    first = bound(node, 0)
    node.ports[SMALL].update(dict.fromkeys(range(2, 65536), first))
    fails(errno.EADDRINUSE, lambda: node.socket().bind(SMALL, 0))


@pytest.mark.parametrize(
    ("address", "number"),
    [
        ("0.0.0.0", errno.EDESTADDRREQ),  # noqa: S104
        ("::", errno.EPROTOTYPE),
        ("ff02::1", errno.EPROTOTYPE),
        ("224.0.0.1", errno.EINVAL),
        ("x", errno.EINVAL),
    ],
)
def test_connect_refuses_with_the_errno_of_the_kernel(address: str, number: int) -> None:
    fails(number, lambda: make_node().socket().connect(address, 4000))


LOCAL = "fe80::1%eth0"


@pytest.mark.parametrize("call", ["bind", "connect", "sendmsg"])
def test_a_link_local_address_needs_its_interface(call: str) -> None:
    node = make_node(LOCAL)
    socket = node.socket() if call == "bind" else bound(node)
    refused: dict[str, Callable[[], object]] = {
        "bind": lambda: socket.bind("fe80::1", 4000),
        "connect": lambda: socket.connect("fe80::2", 4000),
        "sendmsg": lambda: send(socket, address="fe80::2"),
    }
    assert "fe80::1%eth0" in str(fails(errno.EINVAL, refused[call])).replace("::2", "::1")


def test_a_link_local_address_reaches_its_own_link_and_what_is_not_link_local() -> None:
    socket = bound(make_node(LOCAL))
    fails(errno.EINVAL, lambda: socket.connect("fe80::2%eth1", 4000))
    fails(errno.EINVAL, lambda: send(socket, address="fe80::2%eth1"))
    assert send(socket, b"x", "fe80::2%eth0") == 1
    assert send(socket, b"x", "fd00::2") == 1


def test_an_interface_that_a_program_numbers_is_known_by_its_name() -> None:
    def name(text: str) -> str:
        return text.replace("%2", "%eth0")

    node = Node("fe80::1%2", random=Random(1), name=name)
    socket = bound(node)
    assert socket.address == LOCAL
    send(socket, address="fe80::2%2")
    socket.connect("fe80::2%2", 4000)
    send(socket, address=None)
    assert list(node.connections) == [(LOCAL, "fe80::2%eth0", 0)]


def test_connect_only_sets_the_default_destination() -> None:
    node = make_node()
    socket = bound(node)
    socket.connect(LARGE, 1)
    socket.connect(LARGE, 4000)
    assert node.take_events() == []
    assert socket.sendmsg(b"abc", now=0.0) == 3
    assert connection_of(node, LARGE).paths[0].queue[0].dport == 4000
