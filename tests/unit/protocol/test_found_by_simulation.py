"""What the simulation found once: each case by hand, so that it stays found."""

from __future__ import annotations

import pytest

from dissectors.wire.extensions import GenNum, NPaths, SportIdx, build_extensions
from rdstool.protocol import events
from rdstool.protocol.errors import LocalProtocolError
from rdstool.protocol.link import Link
from rdstool.protocol.node import Node
from rdstool.protocol.pathhash import path_of_port
from tests.unit.protocol.driving import (
    LARGE,
    SMALL,
    bound,
    connection_of,
    header,
    make_node,
    of_kind,
    received,
    sent_by,
)

ANNOUNCED = build_extensions([NPaths(8), GenNum(7), SportIdx(0)])
RESTARTED = build_extensions([NPaths(8), GenNum(8), SportIdx(0)])


def dial(node: Node) -> Link:
    """Let the node's next attempt succeed."""
    due = node.next_timer()
    if due is not None and due <= node.now:
        node.timer_expired(node.now)
    wanted = of_kind(node.take_events(), events.ConnectWanted)
    assert isinstance(wanted[0], events.ConnectWanted)
    node.connected(wanted[0].link, node.now)
    return wanted[0].link


def test_an_old_congestion_map_does_not_block_for_ever() -> None:
    """The larger address dials only when it has something to send, and a full map lets it have nothing."""
    node = make_node(LARGE)
    socket = bound(node)
    link = node.accepted(LARGE, SMALL, 32776, 0.0)
    assert link is not None
    node.bytes_received(link, header(0, 8192, 0, 0, 1) + b"\xff" * 8192, 0.0)
    node.connection_lost(link, "gone", 0.0)
    node.take_events()
    with pytest.raises(BlockingIOError):
        socket.sendmsg(b"", SMALL, 4000, now=0.0)
    (wanted,) = of_kind(node.take_events(), events.ConnectWanted)
    assert isinstance(wanted, events.ConnectWanted)
    node.connect_failed(wanted.link, "refused", 0.0)
    assert node.next_timer() is not None


def test_a_probe_stays_in_front_of_what_is_sent_again() -> None:
    """Else a peer that knew our earlier life takes the low numbers behind it for duplicates."""
    node = make_node(SMALL)
    bound(node).sendmsg(b"first", LARGE, 4000, now=0.0)
    link = dial(node)
    sent_by(node, link)
    node.connection_lost(link, "cut", 0.0)
    again = sent_by(node, dial(node))
    assert [(item.sequence, item.sport, item.flags) for item, _ in again] == [
        (0, 0, 1),
        (1, 1, 4),
        (2, 4000, 4),
        (3, 1, 0),
    ]


def test_reconnects_do_not_gather_probes() -> None:
    node = make_node(SMALL)
    bound(node).sendmsg(b"first", LARGE, 4000, now=0.0)
    for _ in range(20):
        link = dial(node)
        sent_by(node, link)
        node.connection_lost(link, "cut", node.now)
        due = node.next_timer()
        assert due is not None
        node.timer_expired(due)
        wanted = of_kind(node.take_events(), events.ConnectWanted)
        assert isinstance(wanted[-1], events.ConnectWanted)
        node.connect_failed(wanted[-1].link, "refused", node.now)
        due = node.next_timer()
        assert due is not None
        node.timer_expired(due)
    path = connection_of(node, LARGE).paths[0]
    assert len(path.retry) + len(path.control) == 3


def test_messages_that_tcp_took_before_the_fan_out_are_waited_for_too() -> None:
    """They are acknowledged, but the peer may have left that TCP connection unread."""
    node = make_node(SMALL)
    port = next(port for port in range(4000, 5000) if path_of_port(port, 8) == 3)
    socket = bound(node, port)
    socket.sendmsg(b"early", LARGE, 4000, now=0.0)
    link = dial(node)
    sent_by(node, link)
    node.bytes_acked(link, link.sent, 0.0)
    node.bytes_received(link, header(1, 0, 1, 0, exthdr=ANNOUNCED), 0.0)
    for event in node.take_events():
        if isinstance(event, events.ConnectWanted):
            node.connected(event.link, 0.0)
    socket.sendmsg(b"late", LARGE, 4000, now=0.0)
    other = connection_of(node, LARGE).paths[3].link
    assert other is not None
    assert sent_by(node, other) == []
    ping = sent_by(node, link)[-1][0]
    node.bytes_received(link, header(2, 0, 0, ping.sport), 0.0)
    assert [payload for _, payload in sent_by(node, other)] == [b"late"]


def test_pings_are_answered_on_paths_that_wait() -> None:
    """Two sides that wait for each other's pong would else wait for ever."""
    node = make_node(SMALL)
    bound(node).sendmsg(b"early", LARGE, 4000, now=0.0)
    link = dial(node)
    sent_by(node, link)
    node.bytes_received(link, header(1, 0, 1, 0, exthdr=ANNOUNCED), 0.0)
    for event in node.take_events():
        if isinstance(event, events.ConnectWanted):
            node.connected(event.link, 0.0)
    other = connection_of(node, LARGE).paths[5].link
    assert other is not None
    node.bytes_received(other, header(1, 0, 1, 0, exthdr=ANNOUNCED), 0.0)
    assert [(item.sport, item.dport) for item, _ in sent_by(node, other)] == [(0, 1)]


def test_what_an_old_life_sent_does_not_count_after_a_restart() -> None:
    """A link of the peer's earlier life may have bytes to give when the new life is known already."""
    node = make_node(LARGE)
    port = next(port for port in range(4000, 5000) if path_of_port(port, 8) == 3)
    socket = bound(node, port)
    zero = node.accepted(LARGE, SMALL, 32776, 0.0)
    assert zero is not None
    node.bytes_received(zero, header(1, 0, 1, 0, exthdr=ANNOUNCED), 0.0)
    three = node.accepted(LARGE, SMALL, 32771, 0.0)
    assert three is not None
    node.connection_lost(zero, "gone", 1.0)
    fresh = node.accepted(LARGE, SMALL, 32784, 1.0)
    assert fresh is not None
    node.bytes_received(fresh, header(1, 0, 1, 0, exthdr=RESTARTED), 1.0)
    node.bytes_received(three, header(900, 3, 4000, port) + b"old", 1.0)
    node.connection_lost(three, "given up", 1.0)
    new_three = node.accepted(LARGE, SMALL, 32779, 1.0)
    assert new_three is not None
    node.bytes_received(new_three, header(1, 3, 4000, port, 4) + b"new", 1.0)
    assert received(socket) == [b"new"]


def test_messages_are_judged_by_the_path_that_they_turn_out_to_be_of() -> None:
    """A fresh acceptor got path 3 first, lost it before it knew, and got path 3 again when it did know."""
    node = make_node(LARGE)
    socket = bound(node)
    first = node.accepted(LARGE, SMALL, 32771, 0.0)
    assert first is not None
    node.bytes_received(first, header(50, 1, 4000, 4000, 4) + b"a" + header(51, 1, 4000, 4000, 4) + b"b", 0.0)
    assert received(socket) == []
    node.connection_lost(first, "cut", 0.0)
    zero = node.accepted(LARGE, SMALL, 32776, 0.0)
    assert zero is not None
    node.bytes_received(zero, header(10, 0, 1, 0, exthdr=ANNOUNCED), 0.0)
    assert received(socket) == [b"a", b"b"]
    again = node.accepted(LARGE, SMALL, 32779, 0.0)
    assert again is not None
    node.bytes_received(again, header(51, 1, 4000, 4000, 4) + b"b" + header(52, 1, 4000, 4000) + b"c", 0.0)
    assert received(socket) == [b"c"]


def test_messages_do_not_wait_for_ever_for_the_handshake() -> None:
    node = make_node(LARGE)
    socket = bound(node)
    link = node.accepted(LARGE, SMALL, 32771, 0.0)
    assert link is not None
    node.bytes_received(link, header(1, 1, 4000, 4000) + b"a", 0.0)
    due = node.next_timer()
    assert due == 40.0
    node.timer_expired(due)
    assert received(socket, due) == [b"a"]


def test_more_acknowledged_than_sent_is_the_transports_error() -> None:
    node = make_node(LARGE)
    link = node.accepted(LARGE, SMALL, 32776, 0.0)
    assert link is not None
    sent_by(node, link)
    with pytest.raises(LocalProtocolError, match="acknowledged"):
        node.bytes_acked(link, link.sent + 1, 0.0)


def test_numbers_that_another_path_may_have_seen_are_not_used_again() -> None:
    """Our first connection was the peer's path 3, where it saw our probe as number 1 and expects more than that."""
    node = make_node(LARGE)
    first = node.accepted(LARGE, SMALL, 32771, 0.0)
    assert first is not None
    ((_, _), (probe, _)) = sent_by(node, first)
    assert probe.sequence == 1
    node.connection_lost(first, "cut", 0.0)
    zero = node.accepted(LARGE, SMALL, 32776, 0.0)
    assert zero is not None
    sent_by(node, zero)
    node.bytes_received(zero, header(1, 0, 1, 0, exthdr=ANNOUNCED), 0.0)
    assert all(path.next_tx > 1 for path in connection_of(node, SMALL).paths)
