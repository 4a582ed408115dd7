"""Connections over InfiniBand: how they are made, raced, lost and made again (protocol.md §7.1 to §7.3, §7.8)."""

from __future__ import annotations

import errno

import pytest

from dissectors.wire.rds import Flags
from rdstool.protocol import events, info
from rdstool.protocol.ib.link import IbLink
from rdstool.protocol.ib.private import Greeting, agree_on_version, read_greeting, service_id, why_refused
from rdstool.protocol.reasons import DropReason, RefuseReason, SendStatus
from rdstool.protocol.states import PathState
from tests.unit.protocol.ib.driving import ONE, TWO, Fabric, bound, connection_of, make_node, pair, received

AGAIN = int(Flags.ACK_REQUIRED | Flags.RETRANSMITTED)


def test_private_data_is_what_kernels_were_seen_to_send() -> None:
    assert Greeting("10.1.0.1", "10.1.0.2").pack().hex() == "0a0100010a0100020301000300000000" + "00" * 16
    assert len(Greeting("fd00::1", "fd00::2").pack()) == 56
    said = Greeting("fd00::1", "fd00::2", (4, 1), tos=3, ack_seq=9, credit=77)
    assert read_greeting(said.pack().ljust(196, b"\0"), "fd00::2") == said
    assert read_greeting(bytes(56), "10.0.0.1") is None


def test_the_service_is_18634_for_ipv4_and_16385_for_ipv6() -> None:
    assert service_id("10.0.0.1") == 0x0000_0000_0106_48CA
    assert service_id("fd00::1") == 0x0000_0000_0106_4001


@pytest.mark.parametrize(
    ("version", "mask", "answer"),
    [
        ((3, 1), 3, (3, 1)),
        ((4, 1), 3, (4, 1)),
        ((4, 1), 1, (4, 0)),
        ((4, 1), 4, None),
        ((0, 0), 0, (4, 0)),
        ((3, 0), 3, None),
        ((2, 1), 3, None),
        ((5, 0), 3, None),
    ],
)
def test_a_request_is_answered_with_the_highest_version_that_both_speak(
    version: tuple[int, int], mask: int, answer: tuple[int, int] | None
) -> None:
    assert agree_on_version(Greeting(ONE, TWO, version, mask)) == answer


def test_a_rejection_says_why_in_either_byte_order() -> None:
    assert "crossed" in why_refused(bytes.fromhex("01000000"))
    assert "crossed" in why_refused(bytes.fromhex("00000001"))
    assert "0x4010020" in why_refused(bytes.fromhex("20000104"))
    assert why_refused(b"") == "the peer refused"


def requested(node_address: str, private_data: bytes, peer: str = ONE) -> IbLink | RefuseReason:
    node = make_node(node_address)
    link = node.ib.requested(node_address, peer, private_data, 0.0)
    if link is not None:
        return link
    (refused,) = [event for event in node.take_events() if isinstance(event, events.ConnectionRefused)]
    return refused.reason


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (bytes(56), RefuseReason.VERSION),
        (Greeting(ONE, TWO, (3, 0)).pack(), RefuseReason.VERSION),
        (Greeting(ONE, "10.0.0.9").pack(), RefuseReason.NOT_OURS),
        (Greeting("10.0.0.9", TWO).pack(), RefuseReason.FALSE_ADDRESS),
    ],
)
def test_requests_that_are_refused(data: bytes, reason: RefuseReason) -> None:
    assert requested(TWO, data) is reason


@pytest.mark.parametrize("size", [0, 1, 12, 20, 32, 56, 92])
def test_private_data_of_any_length_is_read_or_refused(size: int) -> None:
    whole = Greeting(ONE, TWO).pack().ljust(92, b"\0")
    assert isinstance(requested(TWO, whole[:size]), IbLink | RefuseReason)


def test_a_request_while_our_own_is_under_way_is_refused_and_both_try_again() -> None:
    one, two = make_node(ONE, seed=1), make_node(TWO, seed=2)
    bound(one).sendmsg(b"x", TWO, 4000, now=0.0)
    assert one.ib.requested(ONE, TWO, Greeting(TWO, ONE).pack(), 0.0) is None
    assert one.counters.ib_connect_raced == 1
    link = connection_of(one, TWO).lane.link
    assert link is not None
    one.ib.refused(link, (1).to_bytes(4, "little"), 0.0)
    assert one.next_timer() == 0.0
    one.timer_expired(0.0)
    second = connection_of(one, TWO).lane.link
    assert second is not None
    one.ib.refused(second, (1).to_bytes(4, "little"), 0.0)
    due = one.next_timer()
    assert due is not None
    assert 0.0 <= due <= 0.001
    bound(two)
    Fabric(one, two).wait(1.0)
    assert connection_of(one, TWO).lane.state is PathState.UP


def test_a_request_while_up_ends_the_connection_and_the_next_one_is_taken() -> None:
    one, two, fabric = pair()
    bound(two)
    bound(one).sendmsg(b"x", TWO, 4000, now=0.0)
    fabric.run()
    asked = Greeting(ONE, TWO).pack()
    assert two.ib.requested(TWO, ONE, asked, 0.0) is None
    assert two.counters.ib_listen_closed_stale == 1
    fabric.run()
    assert any(isinstance(event, events.PathDown) and event.reason is DropReason.ASKED_ANEW for event in fabric.events)
    assert connection_of(two, ONE).lane.state is PathState.DOWN
    assert two.ib.requested(TWO, ONE, asked, 0.0) is not None


def test_a_request_of_an_unknown_version_leaves_nothing_behind() -> None:
    node = make_node(TWO)
    bound(node)
    assert node.ib.requested(TWO, ONE, Greeting(ONE, TWO, (255, 255)).pack(), 0.0) is None
    assert not node.connections


def test_the_answer_of_an_older_version_is_not_taken() -> None:
    one = make_node(ONE)
    bound(one).sendmsg(b"x", TWO, 4000, now=0.0)
    link = connection_of(one, TWO).lane.link
    assert link is not None
    one.ib.established(link, Greeting(TWO, ONE, (3, 0)).pack(), 0.0)
    assert connection_of(one, TWO).lane.state is PathState.DISCONNECTING


def test_each_type_of_service_has_its_own_connection_and_numbers() -> None:
    one, two, fabric = pair()
    plain, swift = bound(one, 4000), bound(one, 4001, tos=5)
    target = bound(two)
    plain.sendmsg(b"plain", TWO, 4000, now=0.0)
    swift.sendmsg(b"swift", TWO, 4000, now=0.0)
    fabric.run()
    assert sorted(received(target)) == [b"plain", b"swift"]
    assert {tos for _, _, tos in two.connections} == {0, 5}
    assert [connection_of(one, TWO, tos).lane.next_tx for tos in (0, 5)] == [2, 2]
    assert [(each.tos, each.sl, each.version) for each in info.ib_connections(one)] == [(0, 0, "3.1"), (5, 5, "3.1")]


def test_what_is_not_acknowledged_is_sent_again_flagged_and_taken_once() -> None:
    one, two, fabric = pair()
    sender, target = bound(one), bound(two)
    sender.sendmsg(b"first", TWO, 4000, now=0.0)
    fabric.run()
    fabric.deaf.add(ONE)
    sender.sendmsg(b"second", TWO, 4000, now=0.0)
    fabric.run()
    fabric.frames(ONE)
    fabric.cut(one, TWO)
    fabric.deaf.clear()
    sender.sendmsg(b"third", TWO, 4000, now=0.0)
    fabric.wait(1.0)
    data = [frame.header for frame in fabric.frames(ONE) if frame.header.sport]
    assert [(header.sequence, header.flags) for header in data] == [(2, AGAIN), (3, 0)]
    assert received(target) == [b"first", b"second", b"third"]
    assert two.counters.recv_drop_old_seq == 1


def test_numbers_outlive_connections_and_acknowledgements_do_not() -> None:
    one, two, fabric = pair()
    sender, other = bound(one), bound(two)
    sender.sendmsg(b"x", TWO, 4000, now=0.0)
    other.sendmsg(b"x", ONE, 4000, now=0.0)
    fabric.run()
    fabric.cut(one, TWO)
    fabric.frames(TWO)
    other.sendmsg(b"x", ONE, 4000, now=0.0)
    fabric.wait(1.0)
    bitmap, _, data = fabric.frames(TWO)[:3]
    assert bitmap.header.flags == Flags.CONG_BITMAP
    assert (data.header.sequence, data.header.ack) == (2, 0)


def test_a_peer_that_tells_its_last_sequence_gets_nothing_twice() -> None:
    one, two, fabric = pair(ib_tell_ack_seq=True)
    sender = bound(one)
    bound(two)
    sender.sendmsg(b"x", TWO, 4000, now=0.0)
    fabric.run()
    fabric.deaf.add(ONE)
    sender.sendmsg(b"y", TWO, 4000, now=0.0)
    fabric.run()
    fabric.cut(one, TWO)
    fabric.deaf.clear()
    fabric.frames(ONE)
    sender.sendmsg(b"z", TWO, 4000, now=0.0)
    fabric.wait(1.0)
    assert [frame.header.sequence for frame in fabric.frames(ONE) if frame.header.sport] == [3]


def test_a_peer_cannot_acknowledge_what_was_never_sent() -> None:
    one, two, fabric = pair()
    sender = bound(one)
    fabric.deaf.add(ONE)
    sender.sendmsg(b"x", TWO, 4000, now=0.0, token=7)
    fabric.run()
    bound(two)
    fabric.cut(one, TWO)
    link = one.ib.requested(ONE, TWO, Greeting(TWO, ONE, ack_seq=99).pack(), 0.0)
    assert link is not None
    one.ib.established(link, b"", 0.0)
    assert sender.outstanding == 1


def test_nobody_connects_again_for_nothing() -> None:
    one, two, fabric = pair()
    bound(two)
    sender = bound(one)
    sender.sendmsg(b"x", TWO, 4000, now=0.0)
    fabric.run()
    assert sender.outstanding == 0
    fabric.cut(one, TWO)
    fabric.wait(100.0)
    assert connection_of(one, TWO).lane.state is PathState.DOWN
    assert one.next_timer() is None


def test_a_ping_is_answered_and_a_flood_of_them_cut_off() -> None:
    one, two, fabric = pair()
    sender = bound(one)
    sender.sendmsg(b"", TWO, 0, now=0.0)
    fabric.run()
    assert received(sender) == [b""]
    assert two.counters.recv_ping == 1


def test_closing_a_socket_gives_up_its_messages() -> None:
    one, _, fabric = pair()
    sender = bound(one)
    sender.sendmsg(b"x", "10.0.0.9", 4000, now=0.0, token=1)
    fabric.run()
    assert sender.cancel_sent_to("10.0.0.9", 4000) == 1
    assert [event.status for event in fabric.events + one.take_events() if isinstance(event, events.SendFinished)] == [
        SendStatus.CANCELED
    ]
    fabric.wait(100.0)
    assert one.next_timer() is None


def test_the_transport_option_knows_what_the_node_has() -> None:
    socket = make_node().socket()
    with pytest.raises(OSError, match="ENOPROTOOPT") as caught:
        socket.set_transport(2)
    assert caught.value.errno == errno.ENOPROTOOPT
    socket.set_transport(0)
    socket.bind(ONE, 4000)
    assert socket.get_transport() == 0


def test_a_connection_of_ipv6_addresses_is_shown_with_their_gids() -> None:
    node = make_node("fd00::1")
    node.connection("fd00::1", "fd00::2", 3)
    (shown,) = info.ib_connections(node)
    assert (shown.local, shown.peer, shown.tos, shown.sl) == ("fd00::1", "fd00::2", 3, 3)
    assert (shown.local_gid, shown.peer_gid, shown.state) == ("fd00::1", "fd00::2", "down")
