"""Congestion of ports: when a receiver marks one, and what that means for senders (protocol.md §3, §9.6)."""

from __future__ import annotations

import errno
from collections.abc import Callable

from rdstool.protocol import events
from rdstool.protocol.errors import Wait, WouldBlock
from rdstool.protocol.inbox import MSG_DONTWAIT
from rdstool.protocol.node import Node
from rdstool.protocol.received import CongestionUpdate, Poll
from rdstool.protocol.sockets import Socket
from tests.unit.protocol.driving import (
    LARGE,
    SMALL,
    bound,
    fails,
    make_node,
    pair,
    received,
    send,
)


def overfull(rcvbuf: int = 1000) -> tuple[Node, Node, Socket, Socket, Callable[[], object]]:
    """A receiver just above its receive buffer; the last is what moves messages."""
    small, large, wire = pair(rcvbuf=rcvbuf)
    sender, receiver = bound(small, 5000), bound(large)
    for length in (rcvbuf, 1):
        send(sender, b"x" * length)
        wire.run()
    return small, large, sender, receiver, wire.run


def test_a_full_receive_buffer_is_not_congested_but_one_byte_more_is() -> None:
    small, large, wire = pair(rcvbuf=1000)
    sender, receiver = bound(small), bound(large)
    send(sender, b"x" * 1000)
    wire.run()
    assert not receiver.congested
    send(sender)
    wire.run()
    assert not receiver.congested
    send(sender, b"x")
    assert events.PortCongested(LARGE, 4000, True) in wire.run()


def test_senders_to_a_congested_port_wait_and_others_do_not() -> None:
    _, _, sender, _, _ = overfull()
    error = fails(errno.ENOBUFS, lambda: send(sender, flags=MSG_DONTWAIT))
    assert isinstance(error, WouldBlock)
    assert error.waiting_for is Wait.CONGESTION
    fails(errno.ENOBUFS, lambda: send(sender))
    assert sender.node.counters.cong_send_error == 1
    assert sender.node.counters.cong_send_blocked == 1
    assert sender.sendmsg(b"", LARGE, 4001, now=0.0) == 0


def test_congestion_ends_below_half_of_the_receive_buffer() -> None:
    small, large, wire = pair(rcvbuf=1000)
    sender, receiver = bound(small, 5000), bound(large)
    for length in (400, 100, 501):
        send(sender, b"x" * length)
    wire.run()
    assert receiver.congested
    receiver.recvmsg(now=0.0)
    receiver.recvmsg(now=0.0)
    assert (receiver.receive_bytes, receiver.congested) == (501, True)
    receiver.recvmsg(now=0.0)
    assert not receiver.congested
    assert events.CongestionChanged(SMALL, LARGE) in wire.run()
    assert send(sender, flags=MSG_DONTWAIT) == 0


def test_exactly_half_is_still_congested() -> None:
    small, large, wire = pair(rcvbuf=1000)
    sender, receiver = bound(small, 5000), bound(large)
    for length in (501, 500):
        send(sender, b"x" * length)
    wire.run()
    receiver.recvmsg(now=0.0)
    assert (receiver.receive_bytes, receiver.congested) == (500, True)


def test_in_flight_messages_are_accepted_above_the_limit() -> None:
    small, large, wire = pair(rcvbuf=10)
    sender, receiver = bound(small, 5000), bound(large)
    for _ in range(20):
        send(sender, b"x" * 10)
    wire.run()
    assert receiver.receive_bytes == 200


def test_closing_a_congested_socket_ends_its_congestion() -> None:
    _, large, sender, receiver, run = overfull()
    receiver.close()
    run()
    assert send(sender, flags=MSG_DONTWAIT) == 0
    assert large.maps[LARGE].ports == set()


def test_the_monitor_reports_ports_to_which_a_send_failed() -> None:
    _, _, sender, receiver, run = overfull()
    sender.set_congestion_monitor(True)
    fails(errno.ENOBUFS, lambda: send(sender, flags=MSG_DONTWAIT))
    assert Poll.IN not in sender.poll()
    received(receiver)
    run()
    assert Poll.IN in sender.poll()
    assert sender.recvmsg(now=0.0).control == (CongestionUpdate(1 << (4000 % 64)),)
    assert Poll.IN not in sender.poll()


def test_without_monitor_any_new_map_wakes_poll_once() -> None:
    _, _, sender, _, _ = overfull()
    assert sender.poll() & (Poll.IN | Poll.WRBAND) == Poll.IN | Poll.WRBAND
    assert not sender.poll() & Poll.IN


def test_congested_loopback_ports_refuse_too() -> None:
    node = make_node(rcvbuf=10)
    socket = bound(node)
    for _ in range(2):
        socket.sendmsg(b"x" * 10, SMALL, 4000, now=0.0)
    fails(errno.ENOBUFS, lambda: socket.sendmsg(b"", SMALL, 4000, now=0.0))
    received(socket)
    assert socket.sendmsg(b"", SMALL, 4000, now=0.0) == 0
