"""Sockets answer as the kernel's do (protocol.md §9)."""

from __future__ import annotations

import errno
from array import array
from collections.abc import Callable
from random import Random

import pytest

from rdstool.protocol import events
from rdstool.protocol.config import Limits
from rdstool.protocol.control import ZerocopyCookie
from rdstool.protocol.errors import SocketError, Wait, WouldBlock
from rdstool.protocol.inbox import MSG_DONTWAIT, MSG_OOB, MSG_PEEK, MSG_TRUNC
from rdstool.protocol.kinds import Transport
from rdstool.protocol.node import Node
from rdstool.protocol.profile import LINUX_6
from rdstool.protocol.reasons import SendStatus
from rdstool.protocol.received import CongestionUpdate, Latency, Notification, Poll, Timestamp, ZerocopyCompletion
from rdstool.protocol.sockets import Socket
from rdstool.protocol.zerocopy import MSG_ZEROCOPY
from tests.unit.protocol.driving import (
    LARGE,
    SMALL,
    bound,
    connection_of,
    greeted,
    header,
    make_node,
    of_kind,
    pair,
    received,
)


def fails(number: int, call: Callable[[], object]) -> SocketError:
    """The call raises the errno."""
    with pytest.raises(SocketError) as caught:
        call()
    assert caught.value.errno == number, caught.value
    assert isinstance(caught.value, OSError)
    return caught.value


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


def send(socket: Socket, data: bytes = b"", address: str | None = LARGE, flags: int = 0) -> int:
    return socket.sendmsg(data, address, 4000, now=0.0, flags=flags)


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
    assert events.SocketWritable(sender, False) in wire.run()
    assert sender.poll() & Poll.OUT


def test_room_in_the_send_buffer_is_told() -> None:
    small, _, wire = pair(sndbuf=100)
    sender = bound(small)
    send(sender, b"x" * 100)
    assert not sender.drained()
    assert events.SocketWritable(sender, True) in wire.run()
    assert sender.poll() & Poll.OUT


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


# ---- Congestion


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
