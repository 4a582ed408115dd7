"""A node that is full forgets peers that are away and owe nothing; what they need to go on is remembered."""

from __future__ import annotations

import pytest

from rdstool.protocol import events
from rdstool.protocol.config import Limits
from rdstool.protocol.errors import SocketError
from rdstool.protocol.link import Link
from rdstool.protocol.node import Node
from tests.unit.protocol.driving import (
    LARGE,
    SMALL,
    bound,
    connection_of,
    greeted,
    header,
    make_node,
    of_kind,
    received,
    sent_by,
)

PEERS = [f"9.0.0.{number}" for number in range(1, 6)]


def full(connections: int = 3, remembered: int = 100) -> Node:
    """A node with so much place for peers."""
    return make_node(LARGE, limits=Limits(connections=connections, remembered=remembered))


def visit(node: Node, peer: str, sequence: int = 1) -> Link:
    """The peer connects and sends a message to port 4000; gives the TCP connection."""
    link = greeted(node, LARGE, peer, 40000, node.now)
    node.bytes_received(link, header(sequence, 2, 4000, 4000) + b"hi", node.now)
    return link


def leave(node: Node, link: Link) -> None:
    """The TCP connection ends, with all acknowledged."""
    node.bytes_acked(link, link.sent, node.now)
    node.connection_lost(link, "closed by the peer", node.now)


def peers(node: Node) -> list[str]:
    return [peer for _, peer, _ in node.connections]


def test_a_node_meets_more_peers_than_it_has_place_for() -> None:
    node = full(connections=50)
    bound(node)
    for number in range(2000):
        leave(node, visit(node, f"9.0.{number >> 8}.{number & 255}"))
    assert node.counters.forgotten_peers == 1950
    assert node.counters.refused_connections == 0
    assert len(node.connections) == 50
    assert len(node.timers) < 200


def test_the_one_that_has_been_away_longest_is_forgotten_first() -> None:
    node = full()
    links = [visit(node, peer) for peer in PEERS[:3]]
    for index in (1, 0, 2):
        leave(node, links[index])
    leave(node, visit(node, PEERS[1], 2))
    node.take_events()
    visit(node, PEERS[3])
    (told,) = of_kind(node.take_events(), events.PeerForgotten)
    assert told == events.PeerForgotten(LARGE, PEERS[0], remembered=True)
    assert peers(node) == [PEERS[1], PEERS[2], PEERS[3]]


def test_who_is_connected_or_is_owed_something_is_kept() -> None:
    node = full(connections=4)
    sender = bound(node)
    visit(node, PEERS[0])
    leave(node, visit(node, PEERS[1]))
    sender.sendmsg(b"queued", PEERS[1], 4000, now=0.0)
    unacknowledged = visit(node, PEERS[2])
    sender.sendmsg(b"sent", PEERS[2], 4000, now=0.0)
    sent_by(node, unacknowledged)
    node.connection_lost(unacknowledged, "cut", 0.0)
    leave(node, visit(node, PEERS[3]))
    bound(node, 4001).connect(PEERS[3], 4000)
    assert node.accepted(LARGE, PEERS[4], 40000, 0.0) is None
    with pytest.raises(SocketError, match="takes no more"):
        sender.sendmsg(b"x", PEERS[4], 4000, now=0.0)
    assert node.counters.forgotten_peers == 0


def test_a_socket_that_sends_makes_room_too_and_finds_a_forgotten_peer_anew() -> None:
    node = full(connections=1)
    sender = bound(node)
    link = visit(node, SMALL)
    sender.sendmsg(b"one", SMALL, 4000, now=0.0)
    sent_by(node, link)
    leave(node, link)
    sender.sendmsg(b"else", PEERS[0], 4000, now=0.0)
    assert peers(node) == [PEERS[0]]
    sender.cancel_sent_to(PEERS[0], 4000)
    for waiting in of_kind(node.take_events(), events.ConnectWanted):
        assert isinstance(waiting, events.ConnectWanted)
        node.connect_failed(waiting.link, "refused", 0.0)
    link = greeted(node, LARGE, SMALL, 40000, 0.0)
    sender.sendmsg(b"two", SMALL, 4000, now=0.0)
    assert [payload for _, payload in sent_by(node, link) if payload] == [b"two"]
    assert peers(node) == [SMALL]


def test_a_peer_that_comes_back_is_numbered_on_and_nothing_of_it_comes_twice() -> None:
    node = full(connections=1)
    sock = bound(node)
    link = visit(node, SMALL, 7)
    sock.sendmsg(b"one", SMALL, 4000, now=0.0)
    (last, _) = sent_by(node, link)[-1]
    leave(node, link)
    leave(node, visit(node, PEERS[0]))
    assert peers(node) == [PEERS[0]]
    assert received(sock) == [b"hi", b"hi"]
    # Its system had not heard that we have the message; it sends it again, and then one that we have not.
    back = node.accepted(LARGE, SMALL, 40000, 0.0)
    assert back is not None
    node.bytes_received(back, header(7, 2, 4000, 4000, 4) + b"hi", 0.0)
    node.bytes_received(back, header(8, 3, 4000, 4000, 4) + b"new", 0.0)
    assert received(sock) == [b"new"]
    sock.sendmsg(b"two", SMALL, 4000, now=0.0)
    assert [item.sequence > last.sequence for item, payload in sent_by(node, back) if payload == b"two"] == [True]


def test_beyond_what_is_remembered_numbers_are_still_above_all_earlier_ones() -> None:
    node = full(connections=1, remembered=1)
    sock = bound(node)
    link = visit(node, SMALL)
    for _ in range(10):
        sock.sendmsg(b"one", SMALL, 4000, now=0.0)
    highest = sent_by(node, link)[-1][0].sequence
    leave(node, link)
    for peer in PEERS[:3]:
        leave(node, visit(node, peer))
    assert len(node.remembered) == 1
    back = node.accepted(LARGE, SMALL, 40000, 0.0)
    assert back is not None
    assert min(item.sequence for item, _ in sent_by(node, back) if item.sequence) > highest


def test_a_peer_that_was_remembered_is_not_taken_for_a_new_one_that_is_silent() -> None:
    node = full(connections=1)
    leave(node, visit(node, SMALL, 7))
    leave(node, visit(node, PEERS[0]))
    assert node.accepted(LARGE, SMALL, 40000, node.now) is not None
    late = node.now + 2 * node.settings.silent_patience_s
    assert node.accepted(LARGE, PEERS[0], 40000, late) is None
    assert peers(node) == [SMALL]


def test_a_peer_that_was_restarted_meanwhile_is_seen_to_be_another() -> None:
    node = full(connections=1)
    sock = bound(node)
    here = node.accepted(LARGE, SMALL, 40000, 0.0)
    assert here is not None
    generations = [bytes.fromhex(f"05000806{each:08x}") + bytes(8) for each in (1, 2)]
    node.bytes_received(here, header(1, 0, 1, 0, exthdr=generations[0]), 0.0)
    node.bytes_received(here, header(900, 2, 4000, 4000) + b"hi", 0.0)
    sent_by(node, here)
    leave(node, here)
    leave(node, visit(node, PEERS[0]))
    back = node.accepted(LARGE, SMALL, 40008, 0.0)
    assert back is not None
    node.bytes_received(back, header(1, 0, 1, 0, exthdr=generations[1]), 0.0)
    node.bytes_received(back, header(2, 3, 4000, 4000, 4) + b"new", 0.0)
    assert received(sock) == [b"hi", b"hi", b"new"]
    assert node.counters.peer_restarts == 1
    assert connection_of(node, SMALL).peer_gen
