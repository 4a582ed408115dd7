"""What a peer can do to a node is bounded, and ends only its own TCP connection."""

from __future__ import annotations

import pytest

from rdstool.protocol import events
from rdstool.protocol.config import Limits
from rdstool.protocol.link import Link
from rdstool.protocol.node import Node
from rdstool.protocol.reasons import DropReason, RefuseReason
from tests.unit.protocol.driving import LARGE, SMALL, bound, connection_of, greeted, header, make_node, received

OTHER = "10.0.0.0"


def attacked(**limits: int) -> tuple[Node, Link, Link]:
    """A node with two connections: one of an honest peer, one of the other kind."""
    node = make_node(LARGE, limits=Limits(**limits))
    honest, hostile = greeted(node, LARGE, OTHER, 32776, 0.0), greeted(node, LARGE, SMALL, 32776, 0.0)
    node.take_events()
    return node, honest, hostile


def dropped(node: Node, link: Link) -> DropReason:
    """The link is to be aborted: why."""
    reasons = [event.reason for event in node.take_events() if isinstance(event, events.AbortWanted)]
    assert len(reasons) == 1
    node.bytes_received(link, header(99, 1, 4000, 4000) + b"x", 0.0)
    node.connection_lost(link, "given up", 0.0)
    return reasons[0]


def undisturbed(node: Node, honest: Link) -> bool:
    """The other connection delivers."""
    socket = bound(node, 4999)
    node.bytes_received(honest, header(1, 4, 4000, 4999) + b"fine", node.now)
    return received(socket) == [b"fine"]


@pytest.mark.parametrize("length", [(1 << 20) + 1, 0xFFFFFFFF])
def test_a_length_that_cannot_be(length: int) -> None:
    node, honest, hostile = attacked()
    node.bytes_received(hostile, header(1, length, 4000, 4000), 0.0)
    assert dropped(node, hostile) is DropReason.OVERSIZED_MESSAGE
    assert node.counters.dropped_oversized == 1
    assert undisturbed(node, honest)


def test_a_peer_that_pings_without_end_is_cut_off() -> None:
    node, honest, hostile = attacked(pongs=100)
    for sequence in range(1, 200):
        node.bytes_received(hostile, header(sequence, 0, 4000, 0), 0.0)
        if hostile.deaf:
            break
    assert dropped(node, hostile) is DropReason.TOO_MANY_PINGS
    assert len(connection_of(node, SMALL).paths[0].control) <= 101
    assert undisturbed(node, honest)


def overrun(node: Node, link: Link) -> list[bytes]:
    """Messages to port 4000 until the link is not read any more, and two that were read with the last; gives all."""
    sent: list[bytes] = []
    while link.reading:
        sent.append(len(sent).to_bytes(4, "big") * 250)
        node.bytes_received(link, header(len(sent), 1000, 4000, 4000) + sent[-1], 0.0)
    for flags in (0, 4):
        sent.append(len(sent).to_bytes(4, "big") * 250)
        node.bytes_received(link, header(len(sent), 1000, 4000, 4000, flags) + sent[-1], 0.0)
    return sent


def reads(node: Node) -> list[events.Event]:
    """What the transport is told of reading."""
    return [each for each in node.take_events() if isinstance(each, events.PauseWanted | events.ReadWanted)]


def test_messages_far_beyond_the_receive_buffer_are_left_to_tcp_until_there_is_room() -> None:
    node, honest, hostile = attacked(overrun_bytes=10_000)
    socket = bound(node)
    sent = overrun(node, hostile)
    assert reads(node) == [events.PauseWanted(hostile)]
    assert socket.rcvbuf < socket.receive_bytes <= socket.rcvbuf + 10_000
    assert node.counters.paused_overrun == 1
    assert undisturbed(node, honest)
    taken = []
    while not hostile.reading:
        taken.append(socket.recvmsg(now=0.0).data)
    assert socket.receive_bytes <= socket.rcvbuf + 3000
    assert reads(node) == [events.ReadWanted(hostile)]
    assert [*taken, *received(socket)] == sent


def test_what_was_read_before_a_connection_was_lost_is_delivered_beyond_all_limits() -> None:
    node, _, hostile = attacked(overrun_bytes=10_000)
    socket = bound(node)
    sent = overrun(node, hostile)
    node.connection_lost(hostile, "closed by the peer", 0.0)
    assert received(socket) == sent
    assert reads(node)[0] == events.PauseWanted(hostile)


def test_messages_that_are_short_or_empty_are_left_to_tcp_where_there_are_very_many() -> None:
    node, honest, hostile = attacked(unread_messages=100)
    socket = bound(node)
    sent = 0
    while hostile.reading:
        sent += 1
        node.bytes_received(hostile, header(sent, 0, 4000, 4000), 0.0)
    assert (sent, len(socket.received), socket.congested) == (101, 100, False)
    assert reads(node) == [events.PauseWanted(hostile)]
    assert undisturbed(node, honest)
    taken = 0
    while not hostile.reading:
        socket.recvmsg(now=0.0)
        taken += 1
    assert len(socket.received) == 51
    assert taken + len(received(socket)) == sent


def test_a_socket_that_is_closed_holds_nothing_up() -> None:
    node, _, hostile = attacked(overrun_bytes=10_000)
    socket = bound(node)
    overrun(node, hostile)
    socket.close()
    assert node.counters.recv_drop_no_sock
    full = bound(node, 4001)
    node.bytes_received(hostile, header(1000, 4, 4000, 4001) + b"more", 0.0)
    assert received(full) == [b"more"]


def test_a_message_longer_than_all_limits_has_room_in_an_empty_socket() -> None:
    node, _, hostile = attacked(overrun_bytes=0)
    socket = bound(node)
    node.bytes_received(hostile, header(1, 1 << 20, 4000, 4000) + bytes(1 << 20), 0.0)
    assert received(socket) == [bytes(1 << 20)]


def test_connections_without_end_are_refused_once_too_many_wait() -> None:
    node, honest, _ = attacked(parked=8)
    taken = [node.accepted(LARGE, SMALL, 40000 + number, 0.0) for number in range(1000)]
    assert sum(1 for link in taken if link is not None) == 8
    reasons = {event.reason for event in node.take_events() if isinstance(event, events.ConnectionRefused)}
    assert reasons == {RefuseReason.TOO_MANY_WAITING}
    assert undisturbed(node, honest)


def test_peers_without_end_are_refused_once_there_are_too_many() -> None:
    node, honest, _ = attacked(connections=50)
    for number in range(1000):
        meet = greeted if number < 48 else Node.accepted
        meet(node, LARGE, f"9.0.{number >> 8}.{number & 255}", 40000, 0.0)
    assert len(node.connections) == 50
    reasons = {event.reason for event in node.take_events() if isinstance(event, events.ConnectionRefused)}
    assert reasons == {RefuseReason.TOO_MANY_CONNECTIONS}
    assert undisturbed(node, honest)


def test_peers_that_never_speak_make_room_for_others_the_oldest_first() -> None:
    node, honest, _ = attacked(connections=50)
    patience = node.settings.silent_patience_s
    silent = [node.accepted(LARGE, f"9.0.0.{number}", 40000, 0.0) for number in range(48)]
    assert node.accepted(LARGE, "9.0.0.48", 40000, 0.9 * patience) is None, (
        "they may have spoken, and we not read it yet"
    )
    silent += [node.accepted(LARGE, f"9.0.0.{number}", 40000, number * patience) for number in range(48, 100)]
    assert None not in silent
    assert len(node.connections) == 50
    assert node.counters.forgotten_peers == 52
    told = node.take_events()
    assert [each.peer for each in told if isinstance(each, events.PeerForgotten)] == [f"9.0.0.{n}" for n in range(52)]
    aborted = [each for each in told if isinstance(each, events.AbortWanted)]
    assert [each.link for each in aborted] == silent[:52]
    assert {each.reason for each in aborted} == {DropReason.FORGOTTEN}
    for each in aborted:
        assert isinstance(each.link, Link)
        node.bytes_received(each.link, header(1, 4, 4000, 4999) + b"late", node.now)
        node.connection_lost(each.link, "given up", node.now)
    assert undisturbed(node, honest)


def test_peers_that_have_spoken_or_that_sockets_send_to_are_kept() -> None:
    node, honest, _ = attacked(connections=4)
    assert node.accepted(LARGE, "9.0.0.1", 40000, 0.0) is not None
    bound(node).sendmsg(b"for you", "9.0.0.1", 4000, now=0.0)
    greeted(node, LARGE, "9.0.0.2", 40000, 0.0)
    assert node.accepted(LARGE, "9.0.0.3", 40000, 0.0) is None
    assert node.counters.forgotten_peers == 0
    assert undisturbed(node, honest)


def test_where_all_have_spoken_a_forgotten_peer_does_not_come_back() -> None:
    node, *_ = attacked(connections=3)
    first = node.accepted(LARGE, "9.0.0.1", 40000, 0.0)
    assert first is not None
    later = node.settings.silent_patience_s
    greeted(node, LARGE, "9.0.0.2", 40000, later)
    node.connection_lost(first, "given up", later)
    assert node.accepted(LARGE, "9.0.0.1", 40001, 2 * later) is None, "all others have spoken"
    assert node.counters.forgotten_peers == 1


def test_a_larger_peer_that_knocks_and_never_listens_is_not_dialled_for_ever() -> None:
    node = make_node(SMALL, limits=Limits(connections=1))
    assert node.accepted(SMALL, "10.0.0.8", 40000, 0.0) is None
    assert node.accepted(SMALL, "10.0.0.9", 40000, node.settings.silent_patience_s) is None
    dialled = [each for each in node.take_events() if isinstance(each, events.ConnectWanted)]
    assert [each.peer for each in dialled] == ["10.0.0.8", "10.0.0.9"]
    node.connect_failed(dialled[0].link, "refused", node.now)
    node.timer_expired(1000.0)
    assert not [each for each in node.take_events() if isinstance(each, events.ConnectWanted)]


def test_messages_without_handshake_are_kept_up_to_a_limit() -> None:
    node = make_node(LARGE, limits=Limits(unjudged_bytes=10_000))
    socket = bound(node)
    link = node.accepted(LARGE, SMALL, 32776, 0.0)
    assert link is not None
    for sequence in range(1, 10):
        node.bytes_received(link, header(sequence, 1000, 4000, 4000) + bytes(1000), 0.0)
    assert not socket.received
    for sequence in range(10, 20):
        node.bytes_received(link, header(sequence, 1000, 4000, 4000) + bytes(1000), 0.0)
    assert len(received(socket)) == 19
    assert connection_of(node, SMALL).unjudged_bytes == 0


def test_maps_without_end_take_the_room_of_one() -> None:
    node, honest, hostile = attacked()
    for number in range(500):
        node.bytes_received(hostile, header(0, 8192, 0, 0, 1) + bytes([number & 255]) * 8192, 0.0)
    assert connection_of(node, SMALL).peer_map.bits is not None
    assert hostile.deframer.held == 0
    assert undisturbed(node, honest)


@pytest.mark.parametrize("length", [0, 100, 8191, 8193])
def test_a_map_of_another_length_is_ignored(length: int) -> None:
    node, _, hostile = attacked()
    node.bytes_received(hostile, header(0, length, 0, 0, 1) + b"\xff" * length, 0.0)
    assert connection_of(node, SMALL).peer_map.bits is None
    assert not hostile.deaf


def test_a_map_with_another_flag_is_a_message_to_port_zero() -> None:
    node, _, hostile = attacked()
    node.bytes_received(hostile, header(1, 8192, 0, 0, 3) + b"\xff" * 8192, 0.0)
    assert connection_of(node, SMALL).peer_map.bits is None


def test_a_peer_that_never_reads_holds_what_the_send_buffers_allow() -> None:
    node, _, hostile = attacked()
    socket = bound(node)
    while socket.send_bytes < socket.sndbuf:
        socket.sendmsg(bytes(1000), SMALL, 4000, now=0.0)
    with pytest.raises(BlockingIOError):
        socket.sendmsg(bytes(1000), SMALL, 4000, now=0.0)
    assert socket.send_bytes < socket.sndbuf + 1000
    assert hostile.path is not None


def test_a_message_that_never_ends_is_held_once() -> None:
    node, honest, hostile = attacked()
    node.bytes_received(hostile, header(1, 1 << 20, 4000, 4000), 0.0)
    for _ in range(100):
        node.bytes_received(hostile, bytes(1000), 0.0)
    assert hostile.deframer.held == 48 + 100_000
    assert undisturbed(node, honest)
