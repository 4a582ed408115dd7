"""The multipath handshake, byte for byte (protocol.md §2, §5)."""

from __future__ import annotations

import pytest

from dissectors.wire.extensions import GenNum, NPaths, SportIdx, build_extensions
from rdstool.protocol import events
from rdstool.protocol.handshake import Announcement, agreed_paths, announce, announcement_of
from rdstool.protocol.link import Link
from rdstool.protocol.node import Node
from rdstool.protocol.pathhash import path_of_port
from rdstool.protocol.profile import LINUX_6, LINUX_7, SINGLE_PATH, UEK, Profile
from tests.unit.protocol.driving import (
    LARGE,
    SMALL,
    Wire,
    bound,
    connection_of,
    header,
    make_node,
    of_kind,
    pair,
    sent_by,
)

SEEN_ON_6_1 = bytes.fromhex("050008") + bytes(13)
SEEN_ON_7_3 = bytes.fromhex("050008063fca604d0800") + bytes(6)


@pytest.mark.parametrize(
    ("profile", "exthdr"),
    [
        (LINUX_6, SEEN_ON_6_1),
        (LINUX_7, SEEN_ON_7_3),
        (SINGLE_PATH, bytes(16)),
        (UEK, bytes.fromhex("0500080800") + bytes(11)),
    ],
)
def test_announcements_are_those_of_the_kernels(profile: Profile, exthdr: bytes) -> None:
    assert announce(profile, 8, 0x3FCA604D) == exthdr
    gen_num = 0x3FCA604D if profile.announces_gen_num else 0
    npaths = 8 if profile.announces_npaths else None
    assert announcement_of(exthdr) == Announcement(npaths, gen_num, profile.announces_sport_idx)


@pytest.mark.parametrize(
    ("own", "announced", "before", "agreed"),
    [(8, 8, 1, 8), (8, 4, 1, 4), (2, 8, 1, 2), (8, 0, 1, 1), (8, 65535, 1, 8), (8, None, 1, 1), (8, None, 4, 4)],
)
def test_the_smaller_number_of_paths_counts(own: int, announced: int | None, before: int, agreed: int) -> None:
    assert agreed_paths(own, announced, before) == agreed


def dialled(node: Node, peer: str = LARGE) -> Link:
    """The node's first link, connected."""
    wanted = of_kind(node.take_events(), events.ConnectWanted)
    assert isinstance(wanted[0], events.ConnectWanted)
    node.connected(wanted[0].link, 0.0)
    assert wanted[0].peer == peer
    return wanted[0].link


def test_the_first_contact_is_map_probe_data() -> None:
    node = make_node(SMALL)
    bound(node).sendmsg(b"first", LARGE, 4000, now=0.0)
    link = dialled(node)
    raw = b"".join(node.data_to_send(link, 1 << 20))
    assert raw[:48] == header(0, 8192, 0, 0, 1)
    assert raw[48 : 48 + 8192] == bytes(8192)
    assert raw[8240:8288] == header(1, 0, 1, 0, exthdr=node.announcement)
    assert raw[8288:] == header(2, 5, 4000, 4000) + b"first"


def test_the_accepting_side_probes_too_and_holds_data_until_it_is_answered() -> None:
    node = make_node(LARGE)
    socket = bound(node)
    socket.sendmsg(b"held", SMALL, 4000, now=0.0)
    link = node.accepted(LARGE, SMALL, 32776, 0.0)
    assert link is not None
    assert [(item.sport, item.dport, item.flags) for item, _ in sent_by(node, link)] == [(0, 0, 1), (1, 0, 0)]
    node.bytes_received(link, header(1, 0, 0, 1, exthdr=SEEN_ON_7_3), 0.0)
    assert [payload for _, payload in sent_by(node, link)] == [b"held"]


def test_data_is_not_held_for_ever() -> None:
    node = make_node(LARGE, handshake_patience_s=1.0)
    link = node.accepted(LARGE, SMALL, 32776, 0.0)
    assert link is not None
    bound(node).sendmsg(b"held", SMALL, 4000, now=0.0)
    assert b"held" not in [payload for _, payload in sent_by(node, link)]
    assert node.next_timer() == 1.0
    node.timer_expired(1.0)
    assert node.take_ready() == [link]
    assert [payload for _, payload in sent_by(node, link)] == [b"held"]


@pytest.mark.parametrize(("exthdr", "npaths"), [(SEEN_ON_7_3, 8), (SEEN_ON_6_1, 8), (bytes(16), 1)])
def test_a_probe_is_answered_on_its_connection_and_paths_are_agreed(exthdr: bytes, npaths: int) -> None:
    node = make_node(LARGE)
    link = node.accepted(LARGE, SMALL, 32776, 0.0)
    assert link is not None
    sent_by(node, link)
    node.bytes_received(link, header(1, 0, 1, 0, exthdr=exthdr), 0.0)
    ((pong, _),) = sent_by(node, link)
    assert (pong.sequence, pong.sport, pong.dport, pong.flags, pong.exthdr) == (2, 0, 1, 0, node.announcement)
    connection = connection_of(node, SMALL)
    assert (connection.npaths, connection.agreed, connection.peer_sport_idx) == (npaths, True, exthdr == SEEN_ON_7_3)


def test_no_answer_where_pings_are_off() -> None:
    node = make_node(LARGE, ping_enable=False)
    link = node.accepted(LARGE, SMALL, 32776, 0.0)
    assert link is not None
    sent_by(node, link)
    node.bytes_received(link, header(1, 0, 1, 0, exthdr=SEEN_ON_7_3), 0.0)
    assert sent_by(node, link) == []
    assert not connection_of(node, SMALL).agreed


def test_the_smaller_side_opens_all_paths_with_ports_that_tell_them() -> None:
    small, large, wire = pair()
    bound(small).sendmsg(b"", LARGE, 4000, now=0.0)
    happened = wire.run()
    up = [event for event in happened if isinstance(event, events.PathUp)]
    assert sorted((event.local, event.path) for event in up) == sorted(
        (address, path) for address in (SMALL, LARGE) for path in range(8)
    )
    agreed = [event for event in happened if isinstance(event, events.PathsAgreed)]
    assert {event.npaths for event in agreed} == {8}
    assert {(event.local, event.gen_num) for event in agreed} == {(SMALL, large.generation), (LARGE, small.generation)}


def test_a_peer_without_source_port_rule_gets_one_path_after_the_other() -> None:
    small, large = make_node(SMALL), make_node(LARGE, seed=2, profile=LINUX_6)
    wire = Wire(small, large)
    bound(small).sendmsg(b"", LARGE, 4000, now=0.0)
    dialled_paths = []
    obey = wire._obey

    def watch(node: Node, event: events.Event) -> None:
        if isinstance(event, events.ConnectWanted):
            dialled_paths.append(event.path)
            states = [path.state.name for path in connection_of(small, LARGE).paths[: event.path]]
            assert set(states) <= {"UP"}
        obey(node, event)

    wire._obey = watch  # type: ignore[method-assign]
    wire.run()
    assert dialled_paths == list(range(8))


def test_two_paths_with_a_peer_that_has_two() -> None:
    small, large = make_node(SMALL), make_node(LARGE, seed=2, paths=2)
    wire = Wire(small, large)
    bound(small).sendmsg(b"", LARGE, 4000, now=0.0)
    wire.run()
    assert small.up(SMALL, LARGE) == large.up(LARGE, SMALL) == 2


def test_other_paths_wait_for_what_was_sent_before_them() -> None:
    node = make_node(SMALL)
    socket = bound(node, 4001)
    socket.sendmsg(b"early", LARGE, 4001, now=0.0)
    link = dialled(node)
    sent_by(node, link)
    node.bytes_received(link, header(1, 0, 0, 1, exthdr=SEEN_ON_7_3), 0.0)
    for event in node.take_events():
        if isinstance(event, events.ConnectWanted):
            node.connected(event.link, 0.0)
    other = connection_of(node, LARGE).paths[2].link
    assert other is not None
    socket.sendmsg(b"late", LARGE, 4001, now=0.0)
    assert node.data_to_send(other, 1 << 20) == []
    assert node.counters.mprds_catchup_tx0_retries == 1
    node.bytes_acked(link, link.sent, 0.0)
    assert node.data_to_send(other, 1 << 20) == []
    ((ping, _),) = sent_by(node, link)
    assert (ping.length, ping.dport, ping.exthdr) == (0, 0, bytes(16))
    node.bytes_received(link, header(2, 0, 0, ping.sport), 0.0)
    assert [payload for _, payload in sent_by(node, other)][-1] == b"late"


def restart_announcement(gen_num: int, npaths: int = 8) -> bytes:
    return build_extensions([NPaths(npaths), GenNum(gen_num), SportIdx(0)])


def test_a_new_generation_is_a_restart() -> None:
    node = make_node(LARGE)
    port = next(port for port in range(4000, 5000) if path_of_port(port, 8) == 0)
    socket = bound(node, port)
    link = node.accepted(LARGE, SMALL, 32776, 0.0)
    assert link is not None
    node.bytes_received(link, header(1, 0, 1, 0, exthdr=restart_announcement(7)), 0.0)
    node.bytes_received(link, header(50, 2, 4000, port) + b"ok", 0.0)
    socket.sendmsg(b"to the old one", SMALL, 4000, now=0.0, token=5)
    sent_by(node, link)
    node.connection_lost(link, "gone", 1.0)
    again = node.accepted(LARGE, SMALL, 32784, 2.0)
    assert again is not None
    node.take_events()
    # The probe of a fresh kernel has number 1, and may even be flagged: it was cut off once already.
    node.bytes_received(again, header(1, 0, 1, 0, 4, restart_announcement(8)), 2.0)
    node.bytes_received(again, header(2, 5, 4000, port, 4) + b"fresh", 2.0)
    happened = node.take_events()
    assert [
        (event.old_gen_num, event.new_gen_num) for event in happened if isinstance(event, events.PeerRestarted)
    ] == [(7, 8)]
    assert [event.count for event in happened if isinstance(event, events.MessagesDropped)] == [1]
    assert [(event.token, event.status.name) for event in happened if isinstance(event, events.SendFinished)] == [
        (5, "DROPPED")
    ]
    assert socket.recvmsg(now=2.0).control
    assert [socket.recvmsg(now=2.0).data for _ in range(2)] == [b"ok", b"fresh"]


def test_the_same_generation_is_no_restart() -> None:
    node = make_node(LARGE)
    link = node.accepted(LARGE, SMALL, 32776, 0.0)
    assert link is not None
    for sequence in (1, 2):
        node.bytes_received(link, header(sequence, 0, 1, 0, exthdr=restart_announcement(7)), 0.0)
    assert node.counters.peer_restarts == 0


def test_fewer_paths_than_agreed_are_a_restart() -> None:
    node = make_node(LARGE)
    link = node.accepted(LARGE, SMALL, 32776, 0.0)
    assert link is not None
    node.bytes_received(link, header(1, 0, 1, 0, exthdr=SEEN_ON_6_1), 0.0)
    node.bytes_received(link, header(2, 0, 1, 0, exthdr=build_extensions([NPaths(2)])), 0.0)
    assert (node.counters.peer_restarts, connection_of(node, SMALL).npaths) == (1, 2)


def test_the_first_connection_moves_to_the_path_of_its_source_port() -> None:
    """A peer that survived reconnects path 3 first; we are new and took it for path 0."""
    node = make_node(LARGE)
    link = node.accepted(LARGE, SMALL, 32771, 0.0)
    assert link is not None
    zero = node.accepted(LARGE, SMALL, 32776, 0.0)
    assert zero is not None
    assert (zero.path, zero.reading) == (None, False)
    node.take_events()
    node.bytes_received(link, header(9, 2, 4000, 4000) + b"ok", 0.0)
    node.bytes_received(link, header(10, 0, 0, 1, exthdr=SEEN_ON_7_3), 0.0)
    paths = connection_of(node, SMALL).paths
    assert (link.path, zero.path, zero.reading) == (3, 0, True)
    assert (paths[3].next_rx, paths[0].next_rx) == (11, 0)
    assert of_kind(node.take_events(), events.ReadWanted) == [events.ReadWanted(zero)]


def test_a_side_that_was_knocked_for_probes_before_its_first_message() -> None:
    node = make_node(SMALL)
    assert node.accepted(SMALL, LARGE, 40000, 0.0) is None
    node_link = dialled(node)
    bound(node).sendmsg(b"later", LARGE, 4000, now=0.0)
    assert [(item.sport, payload) for item, payload in sent_by(node, node_link)][1:] == [(1, b""), (4000, b"later")]
