"""A node shows its state as rds-info shows a kernel's."""

from __future__ import annotations

from rdstool.protocol import info
from tests.unit.protocol.driving import LARGE, SMALL, bound, connection_of, header, make_node, pair


def test_connections_show_each_path() -> None:
    small, _, wire = pair(paths=2)
    bound(small).sendmsg(b"x", LARGE, 4000, now=0.0)
    (before,) = info.connections(small)
    assert (before.state, before.flags, before.next_tx) == (
        "connecting",
        info.ConnectionFlag.CONNECTING | info.ConnectionFlag.SENDING,
        1,
    )
    wire.run()
    zero, one = info.connections(small)
    assert (zero.path, zero.state, zero.npaths, zero.flags) == (0, "up", 2, info.ConnectionFlag.CONNECTED)
    assert (one.path, one.state, one.next_tx) == (1, "up", 1)


def test_loopback_connections_are_shown_as_such() -> None:
    node = make_node()
    bound(node).sendmsg(b"", SMALL, 4000, now=0.0)
    (shown,) = info.connections(node)
    assert (shown.transport, shown.state, shown.next_tx) == ("loopback", "up", 2)


def test_sockets_show_their_buffers() -> None:
    node = make_node(sndbuf=1000, rcvbuf=2000)
    socket = bound(node)
    socket.connect(LARGE, 5000)
    socket.sendmsg(b"xyz", now=0.0)
    assert list(info.sockets(node)) == [info.SocketInfo(SMALL, 4000, LARGE, 5000, 1000, 2000, False, 3, 0)]


def test_messages_are_listed_where_they_wait() -> None:
    small, large, wire = pair(paths=1)
    sender, _ = bound(small, 5000), bound(large)
    sender.sendmsg(b"xyz", LARGE, 4000, now=0.0)
    waiting = info.MessageInfo(SMALL, 5000, LARGE, 4000, 0, 3, 0)
    assert waiting in list(info.send_messages(small))
    wire.acknowledging = False
    wire.run()
    assert list(info.send_messages(small)) == []
    assert info.MessageInfo(SMALL, 5000, LARGE, 4000, 2, 3, 0) in list(info.retransmit_messages(small))
    assert list(info.receive_messages(large)) == [info.MessageInfo(LARGE, 4000, SMALL, 5000, 0, 3, 0)]


def test_tcp_connections_show_what_is_under_way() -> None:
    node = make_node(LARGE)
    link = node.accepted(LARGE, SMALL, 32776, 0.0)
    assert link is not None
    (shown,) = info.tcp_connections(node)
    assert (shown.local_port, shown.peer_port, shown.header_remaining, shown.data_remaining) == (16385, 32776, 48, 0)
    node.data_to_send(link, 1)
    node.bytes_received(link, header(1, 10, 4000, 4000) + b"abc", 0.0)
    (shown,) = info.tcp_connections(node)
    assert (shown.header_remaining, shown.data_remaining, shown.sent, shown.acked) == (0, 7, 8240, 0)
    node.bytes_acked(link, 100, 0.0)
    assert next(info.tcp_connections(node)).acked == 100


def test_counters_agree_with_what_was_done() -> None:
    small, large, wire = pair()
    sender, receiver = bound(small), bound(large)
    for _ in range(5):
        sender.sendmsg(b"abc", LARGE, 4000, now=0.0)
    wire.run()
    receiver.recvmsg(now=0.0)
    sent, came = info.counters(small), info.counters(large)
    assert sent["send_queued"] == 5 + sent["send_pong"]
    assert (came["recv_queued"], came["recv_delivered"]) == (5, 1)
    assert (came["recv_bytes_added_to_sock"], came["recv_bytes_freed_fromsock"]) == (15, 3)
    assert sent["send_ack_required"] >= 1
    assert connection_of(large, SMALL).peer_map.bits is None
