"""Sockets answer as the kernel's do (protocol.md §9)."""

from __future__ import annotations

import errno
from array import array
from random import Random

import pytest

from rdstool.protocol import events
from rdstool.protocol.config import Limits
from rdstool.protocol.errors import Wait, WouldBlock
from rdstool.protocol.inbox import MSG_DONTWAIT, MSG_OOB, MSG_PEEK, MSG_TRUNC
from rdstool.protocol.kinds import Transport
from rdstool.protocol.node import Node
from rdstool.protocol.profile import LINUX_6
from rdstool.protocol.reasons import SendStatus
from rdstool.protocol.received import Latency, Notification, Poll, Timestamp
from rdstool.protocol.sockets import Socket
from tests.unit.protocol.driving import (
    LARGE,
    SMALL,
    bound,
    connection_of,
    fails,
    greeted,
    header,
    make_node,
    of_kind,
    pair,
    received,
    send,
)


def test_sendmsg_checks_in_the_kernels_order() -> None:
    node = make_node(sndbuf=1000)
    unbound, socket = node.socket(), bound(node)
    fails(errno.EOPNOTSUPP, lambda: send(unbound, b"x" * 2000, "224.0.0.1", MSG_OOB))
    fails(errno.EINVAL, lambda: send(unbound, b"x" * 2000, "224.0.0.1"))
    fails(errno.ENOTCONN, lambda: send(unbound, b"x" * 2000))
    fails(errno.ENOTCONN, lambda: send(socket, b"x" * 2000, None))
    fails(errno.EOPNOTSUPP, lambda: send(socket, b"x" * 2000, "fd00::1"))
    fails(errno.EMSGSIZE, lambda: send(socket, b"x" * 1001))
    assert send(socket, b"x" * 1000) == 1000
    fails(errno.EAGAIN, lambda: send(socket))


def test_no_message_is_longer_than_a_mebibyte() -> None:
    socket = bound(make_node(sndbuf=1 << 22))
    fails(errno.EMSGSIZE, lambda: send(socket, bytes((1 << 20) + 1)))
    assert send(socket, bytes(1 << 20)) == 1 << 20


def test_the_last_message_may_go_beyond_the_send_buffer() -> None:
    node = make_node(sndbuf=1000)
    socket = bound(node)
    send(socket, b"x" * 999)
    assert Poll.OUT in socket.poll()
    send(socket, b"x" * 1000)
    assert socket.send_bytes == 1999
    assert Poll.OUT not in socket.poll()
    error = fails(errno.EAGAIN, lambda: send(socket))
    assert isinstance(error, WouldBlock)
    assert isinstance(error, BlockingIOError)
    assert error.waiting_for is Wait.SEND_ROOM


def test_very_many_messages_fill_the_send_buffer_though_they_are_empty() -> None:
    small, _, wire = pair(limits=Limits(unacknowledged_messages=100))
    sender = bound(small)
    for _ in range(100):
        assert sender.poll() & Poll.OUT
        send(sender)
    assert not sender.poll() & Poll.OUT
    assert isinstance(error := fails(errno.EAGAIN, lambda: send(sender)), WouldBlock)
    assert error.waiting_for is Wait.SEND_ROOM
    acknowledged_together = events.SocketWritable(sender, drained=True)
    assert of_kind(wire.run(), events.SocketWritable) == [acknowledged_together]
    assert sender.poll() & Poll.OUT


def test_room_in_the_send_buffer_is_told() -> None:
    small, _, wire = pair(sndbuf=100)
    sender = bound(small)
    send(sender, b"x" * 100)
    assert not sender.drained()
    assert events.SocketWritable(sender, True) in wire.run()
    assert sender.poll() & Poll.OUT


def test_messages_that_are_acknowledged_together_leave_the_send_buffer_of_each_socket() -> None:
    small, _, wire = pair()
    sockets = [bound(small, port) for port in (4001, 4002)]
    first, second = sockets
    for sender, token in [(first, None), (first, None), (second, None), (first, 1), (first, None), (second, 2)]:
        sender.sendmsg(b"hello", LARGE, 4000, now=0.0, token=token)
    assert [sender.outstanding for sender in sockets] == [4, 2]
    assert not any(sender.drained() for sender in sockets)
    happened = wire.run()
    assert [(sender.outstanding, sender.send_bytes) for sender in sockets] == [(0, 0), (0, 0)]
    for sender, token in [(first, 1), (second, 2)]:
        assert events.SendFinished(sender, token, SendStatus.ACKNOWLEDGED) in happened
        assert events.SocketWritable(sender, drained=True) in happened


def test_every_kind_of_buffer_is_sent() -> None:
    small, large, wire = pair()
    sender, receiver = bound(small), bound(large)
    changing = bytearray(b"two")
    sender.sendmsg(b"one", LARGE, 4000, now=0.0)
    sender.sendmsg(changing, LARGE, 4000, now=0.0)
    sender.sendmsg(memoryview(b"three"), LARGE, 4000, now=0.0)
    changing[:] = b"???"
    wire.run()
    assert received(receiver) == [b"one", b"two", b"three"]


def with_messages(*payloads: bytes) -> Socket:
    """A socket that has these to read."""
    small, large, wire = pair()
    sender, receiver = bound(small, 5000), bound(large)
    for payload in payloads:
        send(sender, payload)
    wire.run()
    return receiver


def test_recvmsg_gives_the_sender_and_zero_lengths() -> None:
    receiver = with_messages(b"hello", b"")
    assert receiver.recvmsg(now=0.0)[:4] == (b"hello", SMALL, 5000, 5)
    assert receiver.recvmsg(now=0.0)[:4] == (b"", SMALL, 5000, 0)
    error = fails(errno.EAGAIN, lambda: receiver.recvmsg(now=0.0))
    assert isinstance(error, WouldBlock)
    assert error.waiting_for is Wait.MESSAGE


def test_a_peeked_message_stays() -> None:
    receiver = with_messages(b"hello")
    assert receiver.recvmsg(now=0.0, flags=MSG_PEEK).data == b"hello"
    assert receiver.receive_bytes == 5
    assert receiver.recvmsg(now=0.0).data == b"hello"
    assert receiver.receive_bytes == 0


def test_a_cut_message_is_flagged_and_its_rest_is_gone() -> None:
    receiver = with_messages(b"hello", b"world", b"whole")
    cut = receiver.recvmsg(2, now=0.0)
    assert (cut.data, cut.length, cut.flags) == (b"he", 2, MSG_TRUNC)
    full = receiver.recvmsg(2, now=0.0, flags=MSG_TRUNC)
    assert (full.data, full.length, full.flags) == (b"wo", 5, MSG_TRUNC)
    assert receiver.recvmsg(5, now=0.0)[3:5] == (5, 0)


def test_readable_is_told_once_until_all_is_read() -> None:
    small, large, wire = pair()
    sender, receiver = bound(small), bound(large)
    for _ in range(3):
        send(sender)
    assert of_kind(wire.run(), events.SocketReadable) == [events.SocketReadable(receiver)]
    assert receiver.poll() & Poll.IN
    received(receiver)
    send(sender)
    assert of_kind(wire.run(), events.SocketReadable) == [events.SocketReadable(receiver)]


def test_out_of_band_reads_nothing() -> None:
    assert with_messages(b"x").recvmsg(now=0.0, flags=MSG_OOB).length == 0


def test_cancel_forgets_what_one_destination_has_not_acknowledged() -> None:
    node = make_node()
    socket, other = bound(node, 4000), bound(node, 4001)
    for sender in (socket, other):
        for port in (7000, 7001):
            sender.sendmsg(b"xyz", LARGE, port, now=0.0)
    assert socket.cancel_sent_to(LARGE, 7000) == 1
    assert [(message.sport, message.dport) for message in connection_of(node, LARGE).paths[0].queue] == [
        (4000, 7001),
        (4001, 7000),
        (4001, 7001),
    ]
    assert (socket.send_bytes, other.send_bytes) == (3, 6)
    assert socket.cancel_sent_to("10.9.9.9", 7000) == 0
    fails(errno.ENOTCONN, lambda: node.socket().cancel_sent_to(LARGE, 7000))
    fails(errno.EINVAL, lambda: socket.cancel_sent_to("x", 7000))


def test_closing_cancels_and_frees_the_port() -> None:
    node = make_node()
    socket = bound(node)
    send(socket, b"xyz")
    socket.close()
    socket.close()
    assert not connection_of(node, LARGE).paths[0].queue
    assert bound(node).port == 4000


def test_messages_with_a_token_report_their_end() -> None:
    small, _, wire = pair()
    sender = bound(small)
    sender.sendmsg(b"", LARGE, 4000, now=0.0, token=7)
    assert events.SendFinished(sender, 7, SendStatus.ACKNOWLEDGED) in wire.run()
    assert Poll.IN in sender.poll()
    assert sender.recvmsg(now=0.0).control == (Notification(7, SendStatus.ACKNOWLEDGED),)


def test_with_timestamps_a_message_tells_when_it_was_queued() -> None:
    small, large, wire = pair()
    sender, receiver = bound(small), bound(large)
    receiver.timestamps = True
    sender.sendmsg(b"x", LARGE, 4000, now=0.0)
    wire.run(2.5)
    assert receiver.recvmsg(now=4.0).control == (Timestamp(2.5),)


def test_recverr_reports_what_was_given_up_unasked() -> None:
    node = make_node()
    socket = bound(node)
    send(socket)
    socket.recverr = True
    socket.cancel_sent_to(LARGE, 4000)
    assert socket.recvmsg(now=0.0).control == (Notification(0, SendStatus.CANCELED),)


def test_the_transport_is_set_once_and_before_bind() -> None:
    node = make_node()
    socket = node.socket()
    assert socket.get_transport() == -1
    fails(errno.EINVAL, lambda: socket.set_transport(-1))
    fails(errno.EINVAL, lambda: socket.set_transport(3))
    fails(errno.ENOPROTOOPT, lambda: socket.set_transport(0))
    socket.set_transport(2)
    fails(errno.EOPNOTSUPP, lambda: socket.set_transport(2))
    fails(errno.ENOPROTOOPT, lambda: socket.bind(LARGE, 4000))
    socket.bind(SMALL, 4000)
    assert socket.get_transport() == 2
    fails(errno.EOPNOTSUPP, lambda: bound(node, 4001).set_transport(2))


def test_the_type_of_service_is_set_before_use_and_is_always_zero_over_tcp() -> None:
    node = make_node()
    fails(errno.ENOTTY, lambda: node.socket().set_tos(1))
    socket = bound(node)
    fails(errno.EINVAL, lambda: socket.set_tos(256))
    socket.set_tos(5)
    assert socket.tos == 0
    send(socket)
    fails(errno.EINVAL, lambda: socket.set_tos(5))


def test_the_type_of_service_is_set_once_and_can_be_read() -> None:
    socket = Node(SMALL, random=Random(1), transport=Transport.IB).socket()
    socket.set_transport(0)
    socket.set_tos(0)
    socket.set_tos(3)
    fails(errno.EINVAL, lambda: socket.set_tos(3))
    assert socket.tos == 3


@pytest.mark.parametrize("port", [65536, -1])
def test_a_port_that_is_none_is_refused_of_a_known_destination_too(port: int) -> None:
    sender = bound(make_node())
    send(sender)
    fails(errno.EINVAL, lambda: sender.sendmsg(b"x", LARGE, port, now=0.0))
    with pytest.raises(TypeError, match="'str' object cannot be interpreted as an integer"):
        sender.sendmsg(b"x", LARGE, "4000", now=0.0)  # type: ignore[arg-type]
    assert sender.outstanding == 1


def test_the_length_of_a_message_is_that_of_its_bytes() -> None:
    small, large, wire = pair()
    sender, receiver = bound(small), bound(large)
    assert sender.sendmsg(memoryview(array("I", [1, 2, 3])), LARGE, 4000, now=0.0) == 12
    assert sender.send_bytes == 12
    wire.run()
    assert receiver.recvmsg(now=0.0).length == 12
    assert sender.send_bytes == 0
    fails(errno.EMSGSIZE, lambda: sender.sendmsg(memoryview(array("Q", bytes(1 << 21))), LARGE, 4000, now=0.0))


def test_a_closed_socket_sends_nothing() -> None:
    node = make_node()
    socket = bound(node)
    send(socket)
    socket.close()
    fails(errno.EBADF, lambda: send(socket))
    assert not connection_of(node, LARGE).paths[0].queue


def test_nobody_can_ask_for_less_than_nothing() -> None:
    fails(errno.EINVAL, lambda: bound(make_node()).recvmsg(-1, now=0.0))


def test_the_receive_path_is_timed() -> None:
    node = make_node(LARGE)
    socket = bound(node)
    fails(errno.EFAULT, lambda: socket.trace_latency(0, 1, 2, 0))
    fails(errno.EFAULT, lambda: socket.trace_latency(3))
    socket.trace_latency(1, 2)
    link = greeted(node, LARGE, SMALL, 32776, 0.0)
    node.bytes_received(link, header(1, 4, 4000, 4000) + b"da", 1.0)
    node.bytes_received(link, b"ta", 1.5)
    assert socket.recvmsg(now=3.5).control == (Latency((1, 2), (500_000_000, 2_000_000_000)),)
    node.bytes_received(link, header(2, 0, 4000, 4000), 4.0)
    assert socket.recvmsg(now=4.0).control == (Latency((1, 2), (0, 0)),)


def test_a_ping_comes_back_from_port_zero() -> None:
    small, large, wire = pair()
    socket = bound(small)
    socket.sendmsg(b"", LARGE, 0, now=0.0)
    wire.run()
    assert socket.recvmsg(now=0.0)[:4] == (b"", LARGE, 0, 0)
    # The probes of both sides are pings too, and are counted with the pongs when sent.
    assert large.counters.recv_ping + small.counters.recv_ping > 2
    assert large.counters.send_pong == large.counters.recv_ping + small.counters.recv_ping


def test_messages_between_own_addresses_do_not_leave_the_node() -> None:
    node = make_node()
    node.add_address("10.0.0.5")
    socket, other = bound(node), node.socket()
    other.bind("10.0.0.5", 4000)
    socket.sendmsg(b"near", "10.0.0.5", 4000, now=0.0)
    assert other.recvmsg(now=0.0)[:3] == (b"near", SMALL, 4000)
    assert socket.drained()
    socket.sendmsg(b"", SMALL, 0, now=0.0)
    assert socket.recvmsg(now=0.0)[:3] == (b"", SMALL, 0)
    assert of_kind(node.take_events(), events.ConnectWanted) == []


def test_a_kernel_6_sender_waits_for_the_number_of_paths() -> None:
    node = make_node(profile=LINUX_6)
    socket = bound(node, 4001)
    error = fails(errno.EAGAIN, lambda: socket.sendmsg(b"", LARGE, 4000, now=0.0))
    assert isinstance(error, WouldBlock)
    assert error.waiting_for is Wait.HANDSHAKE
    assert connection_of(node, LARGE).paths[0].control
    assert socket.sendmsg(b"", LARGE, 4000, now=0.0, flags=MSG_DONTWAIT) == 0
