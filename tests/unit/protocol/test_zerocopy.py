"""Zerocopy: a sender learns when its buffer is free again (protocol.md §9.2)."""

from __future__ import annotations

import errno

import pytest

from rdstool.protocol import events
from rdstool.protocol.control import ZerocopyCookie
from rdstool.protocol.inbox import MSG_DONTWAIT
from rdstool.protocol.node import Node
from rdstool.protocol.received import ZerocopyCompletion
from rdstool.protocol.sockets import Socket
from rdstool.protocol.zerocopy import MSG_ZEROCOPY
from tests.unit.protocol.driving import (
    LARGE,
    SMALL,
    bound,
    connection_of,
    fails,
    make_node,
    pair,
    received,
)


def zerocopy_socket(node: Node) -> Socket:
    socket = bound(node)
    socket.zerocopy = True
    return socket


def test_with_zerocopy_a_sender_learns_that_its_buffer_is_free_once_the_peer_has_the_message() -> None:
    small, large, wire = pair(paths=1)
    sender, receiver = zerocopy_socket(small), bound(large)
    wire.acknowledging = False
    sender.sendmsg(bytearray(b"abc"), LARGE, 4000, now=0.0, flags=MSG_ZEROCOPY, control=[ZerocopyCookie(7)])
    wire.run()
    assert received(receiver) == [b"abc"]
    fails(errno.EAGAIN, lambda: sender.recvmsg(now=0.0, flags=MSG_DONTWAIT))
    link = connection_of(small, LARGE).paths[0].link
    assert link is not None
    small.bytes_acked(link, link.sent, 0.0)
    assert events.SocketReadable(sender) in wire.run()
    assert sender.readable
    assert sender.recvmsg(now=0.0, flags=MSG_DONTWAIT).control == (ZerocopyCompletion((7,)),)
    assert not sender.readable


def test_completions_come_eight_at_a_time_with_messages_or_alone_to_who_does_not_wait() -> None:
    small, large, wire = pair()
    sender, other = zerocopy_socket(small), bound(large)
    for cookie in range(20):
        sender.sendmsg(b"x", LARGE, 4000, now=0.0, flags=MSG_ZEROCOPY, control=[ZerocopyCookie(cookie)])
    other.sendmsg(b"first", SMALL, 4000, now=0.0)
    other.sendmsg(b"second", SMALL, 4000, now=0.0)
    wire.run()
    assert sender.recvmsg(now=0.0).control == (ZerocopyCompletion(tuple(range(8))),)
    second = sender.recvmsg(now=0.0, with_control=False)
    assert (second.data, second.control) == (b"second", ())
    fails(errno.EAGAIN, lambda: sender.recvmsg(now=0.0))
    alone = [sender.recvmsg(now=0.0, flags=MSG_DONTWAIT).control for _ in range(2)]
    assert alone == [(ZerocopyCompletion(tuple(range(8, 16))),), (ZerocopyCompletion(tuple(range(16, 20))),)]
    fails(errno.EAGAIN, lambda: sender.recvmsg(now=0.0, flags=MSG_DONTWAIT))


def test_the_buffer_of_a_message_that_was_given_up_is_free() -> None:
    socket = zerocopy_socket(make_node())
    socket.sendmsg(b"x", LARGE, 4000, now=0.0, flags=MSG_ZEROCOPY, control=[ZerocopyCookie(1)])
    socket.cancel_sent_to(LARGE, 4000)
    assert socket.recvmsg(now=0.0, flags=MSG_DONTWAIT).control == (ZerocopyCompletion((1,)),)


@pytest.mark.parametrize(
    ("enabled", "flags", "cookies", "data"),
    [
        (True, MSG_ZEROCOPY, (), b"x"),
        (False, MSG_ZEROCOPY, (1,), b"x"),
        (True, 0, (1,), b"x"),
        (True, MSG_ZEROCOPY, (1,), b""),
        (True, MSG_ZEROCOPY, (1 << 32,), b"x"),
        (True, MSG_ZEROCOPY, (-1,), b"x"),
    ],
    ids=["no cookie", "not enabled", "no flag", "no payload", "a cookie of 33 bits", "a negative cookie"],
)
def test_zerocopy_needs_the_option_the_flag_a_cookie_and_a_payload(
    enabled: bool, flags: int, cookies: tuple[int, ...], data: bytes
) -> None:
    socket = bound(make_node())
    socket.zerocopy = enabled
    control = [ZerocopyCookie(number) for number in cookies]
    fails(errno.EINVAL, lambda: socket.sendmsg(data, LARGE, 4000, now=0.0, flags=flags, control=control))
    assert socket.outstanding == 0
