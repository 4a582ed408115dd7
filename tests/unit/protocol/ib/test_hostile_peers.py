"""Messages over InfiniBand that are begun and never ended take bounded room, and end only their own connections."""

from __future__ import annotations

from dissectors.wire.rds import FRAGMENT_BYTES
from rdstool.protocol import events
from rdstool.protocol.config import Limits
from rdstool.protocol.ib.header import pack_frame_header
from rdstool.protocol.ib.link import IbLink
from rdstool.protocol.ib.private import Greeting
from rdstool.protocol.node import Node
from rdstool.protocol.reasons import DropReason
from tests.unit.protocol.ib.driving import ONE, bound, make_node, received

LENGTH = 10 * FRAGMENT_BYTES
DATA = bytes(FRAGMENT_BYTES)


def joined(node: Node, number: int) -> IbLink:
    """The connection of one more peer."""
    peer = f"10.0.1.{number}"
    link = node.ib.requested(ONE, peer, Greeting(peer, ONE).pack().ljust(56, b"\0"), node.now)
    assert link is not None
    node.ib.receives_to_post(link)
    node.ib.established(link, b"", node.now)
    return link


def fragments(node: Node, link: IbLink, count: int) -> None:
    """So many of the peer's first message."""
    frame = pack_frame_header(1, 0, LENGTH, 4000, 4000, 0) + DATA
    node.ib.frames_received(link, [frame] * count, node.now)


def ended(node: Node) -> list[tuple[object, DropReason]]:
    """Links that are to be ended; they are."""
    aborts = [event for event in node.take_events() if isinstance(event, events.AbortWanted)]
    for event in aborts:
        node.connection_lost(event.link, "given up", node.now)
    return [(event.link, event.reason) for event in aborts]


def test_the_connection_that_waits_longest_makes_room() -> None:
    node = make_node(ONE, limits=Limits(unfinished_bytes=6 * FRAGMENT_BYTES))
    socket = bound(node)
    first, second, third = (joined(node, number) for number in (1, 2, 3))
    fragments(node, first, 2)
    fragments(node, second, 3)
    fragments(node, first, 1)
    assert ended(node) == []
    fragments(node, third, 1)
    assert ended(node) == [(second, DropReason.UNFINISHED_MESSAGE)]
    assert node.counters.dropped_unfinished == 1
    assert node.unfinished.held == 4 * FRAGMENT_BYTES
    fragments(node, second, 7)
    assert node.unfinished.held == 4 * FRAGMENT_BYTES
    assert received(socket) == []


def test_what_ends_leaves_nothing_behind() -> None:
    node = make_node(ONE, limits=Limits(unfinished_bytes=12 * FRAGMENT_BYTES))
    socket = bound(node)
    whole, cut = joined(node, 1), joined(node, 2)
    fragments(node, whole, 9)
    fragments(node, cut, 3)
    fragments(node, whole, 1)
    assert received(socket) == [DATA * 10]
    assert node.unfinished.held == 3 * FRAGMENT_BYTES
    node.connection_lost(cut, "gone", node.now)
    assert node.unfinished.held == 0
    assert ended(node) == []
