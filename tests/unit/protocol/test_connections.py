"""Who connects, what is sent again, and what a reconnect keeps (protocol.md §4)."""

from __future__ import annotations

import pytest

from rdstool.protocol import events
from rdstool.protocol.errors import LocalProtocolError
from rdstool.protocol.link import Link
from rdstool.protocol.node import Node
from rdstool.protocol.reasons import DropReason, RefuseReason
from tests.unit.protocol.driving import (
    LARGE,
    SMALL,
    Wire,
    bound,
    connection_of,
    greeted,
    header,
    make_node,
    of_kind,
    pair,
    received,
    sent_by,
)


def test_the_first_message_opens_a_connection_that_stays() -> None:
    small, large, wire = pair()
    sender, receiver = bound(small), bound(large)
    sender.sendmsg(b"one", LARGE, 4000, now=0.0)
    wire.run()
    sender.sendmsg(b"two", LARGE, 4000, now=1.0)
    happened = wire.run(1.0)
    assert received(receiver, 1.0) == [b"one", b"two"]
    assert of_kind(happened, events.PathUp) == []


def test_the_larger_address_knocks_and_is_connected_to() -> None:
    small, large, wire = pair()
    sender, receiver = bound(large), bound(small)
    sender.sendmsg(b"hello", SMALL, 4000, now=0.0)
    happened = wire.run()
    assert received(receiver) == [b"hello"]
    refused = [event for event in happened if isinstance(event, events.ConnectionRefused)]
    assert [(event.local, event.reason) for event in refused] == [(SMALL, RefuseReason.LARGER_SIDE)]
    downs = [event for event in happened if isinstance(event, events.PathDown)]
    assert [(event.local, event.reason) for event in downs] == [(LARGE, DropReason.LARGER_SIDE_DIALLED)]


def test_the_larger_address_knocks_again_while_messages_wait() -> None:
    large = make_node(LARGE)
    bound(large).sendmsg(b"hello", SMALL, 4000, now=0.0)
    for attempt in (1, 2, 3):
        (wanted,) = of_kind(large.take_events(), events.ConnectWanted)
        assert isinstance(wanted, events.ConnectWanted)
        assert (wanted.attempt, wanted.path) == (attempt, 0)
        large.connected(wanted.link, large.now)
        large.connection_lost(wanted.link, "reset", large.now)
        due = large.next_timer()
        assert due is not None
        assert due == pytest.approx(large.now + 1.0)
        large.timer_expired(due)


def test_a_larger_address_without_messages_does_not_knock() -> None:
    small, large, wire = pair()
    bound(small).sendmsg(b"", LARGE, 4000, now=0.0)
    wire.run()
    for link in [path.link for path in connection_of(large, SMALL).paths if path.link is not None]:
        large.connection_lost(link, "cut", 0.0)
    assert large.next_timer() is None
    assert of_kind(large.take_events(), events.ConnectWanted) == []


def test_the_knocking_side_takes_a_connection_that_overtakes_its_own() -> None:
    large = make_node(LARGE)
    bound(large).sendmsg(b"", SMALL, 4000, now=0.0)
    (wanted,) = of_kind(large.take_events(), events.ConnectWanted)
    assert isinstance(wanted, events.ConnectWanted)
    link = large.accepted(LARGE, SMALL, 32776, 0.0)
    assert link is not None
    assert of_kind(large.take_events(), events.AbortWanted) == [events.AbortWanted(wanted.link, DropReason.REPLACED)]
    assert [record.new.name for record in large.trace] == ["CONNECTING", "RESETTING", "UP"]
    assert large.counters.tcp_connect_raced == 1
    large.connection_lost(wanted.link, "given up", 0.0)
    assert (link.path, large.up(LARGE, SMALL)) == (0, 1)


def test_what_was_not_acknowledged_is_sent_again_in_order_and_flagged() -> None:
    small, large, wire = pair(paths=1)
    sender, receiver = bound(small), bound(large)
    sender.sendmsg(b"zero", LARGE, 4000, now=0.0)
    wire.run()
    wire.acknowledging = False
    sender.sendmsg(b"one", LARGE, 4000, now=0.0)
    sender.sendmsg(b"two", LARGE, 4000, now=0.0)
    wire.run()
    path = connection_of(small, LARGE).paths[0]
    numbers = [message.sequence for message in path.unacked]
    link = path.link
    assert link is not None
    small.connection_lost(link, "cut", 0.0)
    sender.sendmsg(b"three", LARGE, 4000, now=0.0)
    small.timer_expired(0.0)
    (wanted,) = of_kind(small.take_events(), events.ConnectWanted)
    assert isinstance(wanted, events.ConnectWanted)
    small.connected(wanted.link, 0.0)
    sent = [(item.sequence, item.flags, payload) for item, payload in sent_by(small, wanted.link) if payload]
    assert sent[0][1:] == (1, bytes(8192))
    assert sent[1:] == [(numbers[0], 4, b"one"), (numbers[1], 4, b"two"), (numbers[1] + 2, 0, b"three")]
    assert received(receiver) == [b"zero", b"one", b"two"]


def test_what_only_the_system_of_a_silent_peer_acknowledged_is_sent_again() -> None:
    """Kernels before 7.0 that dial at the same time drop our connection unread, and TCP has acknowledged it all."""
    small = make_node(SMALL)
    sender = bound(small)
    sender.sendmsg(b"hello", LARGE, 4000, now=0.0)
    sent = []
    for _ in range(2):
        (wanted,) = of_kind(small.take_events(), events.ConnectWanted)
        assert isinstance(wanted, events.ConnectWanted)
        link = wanted.link
        small.connected(link, small.now)
        sent.append([(item.sequence, item.flags) for item, payload in sent_by(small, link) if payload == b"hello"])
        small.bytes_acked(link, link.sent, small.now)
        assert sender.outstanding == 1
        if len(sent) == 1:
            small.connection_lost(link, "closed by the peer", small.now)
            small.timer_expired(small.now)
    assert sent == [[(2, 0)], [(2, 4)]]
    small.bytes_received(link, header(0, 8192, 0, 0, 1) + bytes(8192), small.now)
    assert sender.outstanding == 0


def dialled(node: Node) -> Link:
    """The TCP connection that the node asks for, established."""
    (wanted,) = of_kind(node.take_events(), events.ConnectWanted)
    assert isinstance(wanted, events.ConnectWanted)
    node.connected(wanted.link, node.now)
    return wanted.link


def test_after_a_loss_path_0_shows_first_that_the_peer_is_there_and_then_the_others_follow() -> None:
    """One that is full, and has forgotten us, would close the others unread: only on path 0 does it speak at once."""
    small, _, wire = pair(paths=4)
    bound(small).sendmsg(b"hello", LARGE, 4000, now=0.0)
    wire.run()
    paths = connection_of(small, LARGE).paths[:4]
    for path in paths:
        assert path.link is not None
        small.connection_lost(path.link, "cut", wire.now)
    small.timer_expired(10.0)
    link = dialled(small)
    assert link is paths[0].link
    small.bytes_received(link, header(0, 8192, 0, 0, 1) + bytes(8192), 10.0)
    assert [wanted.path for wanted in small.take_events() if isinstance(wanted, events.ConnectWanted)] == [1, 2, 3]


def test_a_connection_on_which_the_peer_never_answers_is_made_anew() -> None:
    """Linux 7.3 forgot connections whose SYN its own had crossed: they stay open, and nobody reads them."""
    small = make_node(SMALL, answer_patience_s=10.0, close_grace_s=5.0)
    sender = bound(small)
    sender.sendmsg(b"hello", LARGE, 4000, now=0.0)
    link = dialled(small)
    first = [(item.sequence, item.flags) for item, payload in sent_by(small, link) if payload == b"hello"]
    small.bytes_acked(link, link.sent, 0.0)
    small.timer_expired(9.9)
    assert of_kind(small.take_events(), events.CloseWanted) == []
    small.timer_expired(10.0)
    assert of_kind(small.take_events(), events.CloseWanted) == [events.CloseWanted(link)]
    # What the peer does send by then is still taken; it never closes its side.
    small.timer_expired(15.0)
    (abort,) = of_kind(small.take_events(), events.AbortWanted)
    assert abort == events.AbortWanted(link, DropReason.UNANSWERED)
    small.connection_lost(link, "given up", 15.0)
    small.timer_expired(15.0)
    again = dialled(small)
    second = [(item.sequence, item.flags) for item, payload in sent_by(small, again) if payload == b"hello"]
    assert (first, second) == ([(2, 0)], [(2, 4)])
    small.bytes_received(again, header(0, 8192, 0, 0, 1) + bytes(8192), 15.0)
    small.bytes_acked(again, again.sent, 15.0)
    assert sender.outstanding == 0
    small.timer_expired(100.0)
    assert of_kind(small.take_events(), events.CloseWanted) == []
    assert small.counters.dropped_unanswered == 1


def test_a_silent_connection_is_kept_while_nothing_waits() -> None:
    small = make_node(SMALL, answer_patience_s=10.0)
    sender = bound(small)
    sender.sendmsg(b"hello", LARGE, 4000, now=0.0)
    link = dialled(small)
    sent_by(small, link)
    sender.cancel_sent_to(LARGE, 4000)
    small.timer_expired(10.0)
    assert of_kind(small.take_events(), events.CloseWanted) == []
    sender.sendmsg(b"more", LARGE, 4000, now=19.0)
    small.timer_expired(20.0)
    assert of_kind(small.take_events(), events.CloseWanted) == [events.CloseWanted(link)]


def test_a_cut_loses_and_doubles_nothing() -> None:
    small, large, wire = pair(paths=1)
    sender, receiver = bound(small), bound(large)
    wire.acknowledging = False
    for number in range(20):
        sender.sendmsg(b"%d" % number, LARGE, 4000, now=wire.now)
        wire.run()
        wire.cut(small, LARGE)
        wire.wait(2.0)
    assert received(receiver, wire.now) == [b"%d" % number for number in range(20)]
    assert large.counters.recv_drop_old_seq > 0


@pytest.mark.parametrize(
    ("sequence", "flags", "delivered"),
    [(9, 0, True), (9, 4, True), (8, 4, False), (8, 0, True), (1, 4, False), (100, 4, True)],
)
def test_only_old_and_flagged_is_a_duplicate(sequence: int, flags: int, delivered: bool) -> None:
    node = make_node(LARGE)
    socket = bound(node)
    link = greeted(node, LARGE, SMALL, 32776, 0.0)
    node.bytes_received(link, header(8, 1, 4000, 4000) + b"a", 0.0)
    node.bytes_received(link, header(sequence, 1, 4000, 4000, flags) + b"b", 0.0)
    assert received(socket) == ([b"a", b"b"] if delivered else [b"a"])
    assert node.counters.recv_drop_old_seq == (not delivered)


def test_acknowledged_up_to_the_byte_that_ends_a_message() -> None:
    small, _, wire = pair(paths=1)
    sender = bound(small)
    sender.sendmsg(b"", LARGE, 4000, now=0.0)
    wire.run()
    wire.acknowledging = False
    sender.sendmsg(b"x" * 100, LARGE, 4000, now=0.0)
    wire.run()
    link = connection_of(small, LARGE).paths[0].link
    assert link is not None
    end = connection_of(small, LARGE).paths[0].unacked[-1].end
    small.bytes_acked(link, end - 1, 0.0)
    assert sender.send_bytes == 100
    small.bytes_acked(link, end, 0.0)
    assert (sender.send_bytes, sender.drained()) == (0, True)


def test_reconnecting_is_at_once_and_then_at_random_below_a_doubling_ceiling() -> None:
    node = make_node(SMALL, reconnect_min_delay_ms=10, reconnect_max_delay_ms=50)
    bound(node).sendmsg(b"", LARGE, 4000, now=0.0)
    delays = []
    for _ in range(8):
        (wanted,) = of_kind(node.take_events(), events.ConnectWanted)
        assert isinstance(wanted, events.ConnectWanted)
        node.connect_failed(wanted.link, "refused", node.now)
        due = node.next_timer()
        assert due is not None
        delays.append(due - node.now)
        node.timer_expired(due)
    assert delays[0] == 0.0
    for delay, ceiling in zip(delays[1:], (10, 20, 40, 50, 50, 50, 50), strict=True):
        assert 0 < delay < ceiling / 1000
    assert [event.attempt for event in node.take_events() if isinstance(event, events.ConnectWanted)] == [9]


def test_a_new_connection_waits_until_the_old_one_is_emptied() -> None:
    node = make_node(LARGE)
    socket = bound(node)
    old = greeted(node, LARGE, SMALL, 32776, 0.0)
    node.bytes_received(old, header(1, 1, 4000, 4000) + b"a", 0.0)
    new = node.accepted(LARGE, SMALL, 32784, 0.0)
    assert new is not None
    assert (new.reading, new.path) == (False, None)
    node.bytes_received(old, header(2, 1, 4000, 4000) + b"b", 0.0)
    node.connection_lost(old, "closed", 0.0)
    assert events.ReadWanted(new) in node.take_events()
    node.bytes_received(new, header(2, 1, 4000, 4000, 4) + b"b" + header(3, 1, 4000, 4000) + b"c", 0.0)
    assert received(socket) == [b"a", b"b", b"c"]


def test_a_dropped_connection_still_delivers_for_five_seconds() -> None:
    small, large, wire = pair(paths=1)
    bound(small).sendmsg(b"", LARGE, 4000, now=0.0)
    wire.run()
    path = connection_of(large, SMALL).paths[0]
    link = path.link
    assert link is not None
    path.drop(DropReason.LOST, "", 0.0)
    assert path.state.name == "DISCONNECTING"
    assert events.CloseWanted(link) in large.take_events()
    large.bytes_received(link, header(9, 0, 4000, 4000), 0.0)
    assert large.counters.recv_drop_no_sock == 2
    assert large.next_timer() == 5.0
    large.timer_expired(5.0)
    assert events.AbortWanted(link, DropReason.LOST) in large.take_events()
    large.connection_lost(link, "given up", 5.0)
    assert path.state.name == "DOWN"


@pytest.mark.parametrize(
    ("local", "peer", "reason"),
    [
        ("10.0.0.9", SMALL, RefuseReason.NOT_OURS),
        (LARGE, LARGE, RefuseReason.OWN_ADDRESS),
        (LARGE, "10.0.0.3", RefuseReason.LARGER_SIDE),
    ],
)
def test_connections_that_are_refused(local: str, peer: str, reason: RefuseReason) -> None:
    node = make_node(LARGE)
    assert node.accepted(local, peer, 40000, 0.0) is None
    assert [event.reason for event in node.take_events() if isinstance(event, events.ConnectionRefused)] == [reason]
    assert node.counters.refused_connections == 1


def test_a_knock_is_answered_by_dialling() -> None:
    node = make_node(SMALL)
    assert node.accepted(SMALL, LARGE, 40000, 0.0) is None
    (wanted,) = of_kind(node.take_events(), events.ConnectWanted)
    assert isinstance(wanted, events.ConnectWanted)
    assert (wanted.local, wanted.peer, wanted.path) == (SMALL, LARGE, 0)


def test_ipv4_and_ipv6_are_compared_as_numbers() -> None:
    small, large = make_node("fd00::1"), make_node("fd00::2", seed=2)
    wire = Wire(small, large)
    receiver = bound(small)
    bound(large).sendmsg(b"six", "FD00:0::1", 4000, now=0.0)
    wire.run()
    message = receiver.recvmsg(now=0.0)
    assert (message.data, message.address, message.port) == (b"six", "fd00::2", 4000)


def test_all_messages_of_a_socket_take_one_path() -> None:
    small, large, wire = pair()
    bound(large)
    senders = [bound(small, port) for port in (4001, 4002)]
    senders[0].sendmsg(b"", LARGE, 4000, now=0.0)
    wire.run()
    for sender in senders:
        for _ in range(5):
            sender.sendmsg(b"", LARGE, 4000, now=0.0)
    wire.run()
    next_tx = [path.next_tx for path in connection_of(small, LARGE).paths]
    assert (next_tx[2], next_tx[6]) == (6, 6)
    assert [number for index, number in enumerate(next_tx) if index not in {0, 2, 6}] == [1] * 5


def test_closing_a_node_ends_its_connections() -> None:
    small, _, wire = pair()
    bound(small).sendmsg(b"", LARGE, 4000, now=0.0)
    wire.run()
    small.close(0.0)
    wire.run()
    assert small.up(SMALL, LARGE) == 0
    assert small.next_timer() is None
    assert small.accepted(SMALL, LARGE, 1, 0.0) is None


def test_the_clock_does_not_go_back() -> None:
    node = make_node(LARGE)
    node.timer_expired(5.0)
    with pytest.raises(LocalProtocolError, match="clock"):
        node.accepted(LARGE, SMALL, 1, 4.0)


def test_the_trace_tells_each_change_of_state() -> None:
    small, _, wire = pair(paths=1)
    bound(small).sendmsg(b"", LARGE, 4000, now=0.0)
    wire.run()
    assert [record.as_dict() for record in small.trace] == [
        {"time": 0.0, "local": SMALL, "peer": LARGE, "path": 0, "old": "down", "input": "dial", "new": "connecting"},
        {
            "time": 0.0,
            "local": SMALL,
            "peer": LARGE,
            "path": 0,
            "old": "connecting",
            "input": "established",
            "new": "up",
        },
    ]
