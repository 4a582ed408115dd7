"""Acknowledgements and credits over InfiniBand (protocol.md §7.5, §7.6)."""

from __future__ import annotations

import pytest

from dissectors.wire.rds import Flags
from rdstool.protocol.ib.flow import FlowControl
from rdstool.protocol.ib.work import Send
from rdstool.protocol.states import PathState
from tests.unit.protocol.ib.driving import ONE, TWO, Frame, bound, connection_of, pair, received

ACK_REQUIRED = int(Flags.ACK_REQUIRED)


def data_frames(frames: list[Frame]) -> list[Frame]:
    return [frame for frame in frames if frame.header.sport]


def ack_only(frames: list[Frame]) -> list[Frame]:
    return [frame for frame in frames if frame.header.flags == 0 and not frame.header.sport and not frame.header.dport]


def test_the_first_message_and_then_one_in_nine_asks_for_an_acknowledgement() -> None:
    one, two, fabric = pair()
    sender = bound(one)
    bound(two)
    for _ in range(20):
        sender.sendmsg(b"x", TWO, 4000, now=0.0)
    fabric.run()
    asking = [frame.header.sequence for frame in data_frames(fabric.frames(ONE)) if frame.header.flags]
    assert asking == [1, 10, 19]
    assert one.counters.send_ack_required == 3


def test_after_a_reconnect_the_budget_is_full() -> None:
    one, two, fabric = pair()
    sender = bound(one)
    bound(two)
    sender.sendmsg(b"x", TWO, 4000, now=0.0)
    fabric.run()
    fabric.cut(one, TWO)
    fabric.frames(ONE)
    for _ in range(10):
        sender.sendmsg(b"x", TWO, 4000, now=0.0)
    fabric.wait(1.0)
    assert [frame.header.sequence for frame in data_frames(fabric.frames(ONE)) if frame.header.flags] == [10]


def test_a_send_buffer_that_is_half_full_asks() -> None:
    one, two, fabric = pair(sndbuf=1000)
    sender = bound(one)
    bound(two)
    for size in (1, 498, 1, 1):
        sender.sendmsg(bytes(size), TWO, 4000, now=0.0)
    fabric.run()
    assert [frame.header.flags for frame in data_frames(fabric.frames(ONE))] == [2, 0, 2, 2]


def test_an_acknowledgement_goes_alone_where_there_is_nothing_to_send() -> None:
    one, two, fabric = pair()
    sender = bound(one)
    bound(two)
    for _ in range(10):
        sender.sendmsg(b"x", TWO, 4000, now=0.0)
        fabric.run()
    (ack,) = ack_only(fabric.frames(TWO))
    assert (ack.header.ack, ack.data, ack.solicited) == (10, b"", True)
    assert sender.outstanding == 0
    assert (two.counters.ib_ack_sent, one.counters.ib_ack_received) == (1, 1)


def test_an_acknowledgement_rides_on_data_where_there_is_some() -> None:
    one, two, fabric = pair()
    sender, answerer = bound(one), bound(two)
    answerer.sendmsg(b"up", ONE, 4000, now=0.0)
    fabric.run()
    fabric.completing = False
    sender.sendmsg(b"x", TWO, 4000, now=0.0)
    fabric.run()
    fabric.completing = True
    fabric.frames(TWO)
    link = connection_of(two, ONE).lane.link
    assert link is not None
    link.ack_wanted, link.ack = True, 1
    answerer.sendmsg(b"answer", ONE, 4000, now=0.0)
    fabric.run()
    frames = fabric.frames(TWO)
    assert [frame.header.ack for frame in data_frames(frames)] == [1]
    assert ack_only(frames) == []
    assert two.counters.ib_ack_send_piggybacked == 1


def test_only_one_acknowledgement_is_in_flight() -> None:
    one, two, fabric = pair()
    sender = bound(one)
    bound(two)
    sender.sendmsg(b"x", TWO, 4000, now=0.0)
    fabric.run()
    fabric.frames(TWO)
    link = connection_of(two, ONE).lane.link
    assert link is not None
    link.ack_in_flight = True
    fabric.frames(ONE)
    sender.cancel_sent_to(TWO, 4000)
    for _ in range(9):
        sender.sendmsg(b"x", TWO, 4000, now=0.0)
    fabric.run()
    assert ack_only(fabric.frames(TWO)) == []
    assert two.counters.ib_ack_send_delayed > 0
    two.ib.work_completed(link, link.ack_id, 0, 0.0)
    fabric.run()
    assert [frame.header.ack for frame in ack_only(fabric.frames(TWO))] == [10]


def test_who_waits_for_the_last_acknowledgement_gets_it_by_a_ping() -> None:
    one, two, fabric = pair()
    sender = bound(one)
    bound(two)
    for _ in range(3):
        sender.sendmsg(b"x", TWO, 4000, now=0.0)
        fabric.run()
    assert sender.outstanding == 2
    assert not sender.drained()
    fabric.run()
    assert sender.outstanding == 0
    assert received(sender) == []
    assert one.counters.recv_drop_no_sock == 0


def test_a_node_that_is_closed_tells_first_what_it_has_received() -> None:
    one, two, fabric = pair()
    sender = bound(one)
    bound(two)
    for _ in range(3):
        sender.sendmsg(b"x", TWO, 4000, now=0.0)
        fabric.run()
    fabric.frames(TWO)
    two.close(0.0)
    fabric.run()
    assert [frame.header.ack for frame in fabric.frames(TWO)] == [3]
    assert sender.outstanding == 0
    assert connection_of(two, ONE).lane.state is PathState.DOWN
    assert connection_of(one, TWO).lane.state is PathState.DOWN


def test_a_closed_node_does_not_wait_for_ever_to_say_so() -> None:
    one, two, fabric = pair()
    sender = bound(one)
    bound(two)
    for _ in range(3):
        sender.sendmsg(b"x", TWO, 4000, now=0.0)
        fabric.run()
    fabric.completing = False
    two.close(0.0)
    fabric.wait(1.0)
    assert connection_of(two, ONE).lane.state is PathState.DOWN


# ---- Credits


def test_flow_control_is_on_where_both_sides_want_it() -> None:
    for wanted in (False, True):
        one, two, fabric = pair(ib_flow_control=wanted, ib_max_recv_wr=64)
        sender = bound(one)
        bound(two)
        sender.sendmsg(b"x", TWO, 4000, now=0.0)
        fabric.run()
        link = connection_of(one, TWO).lane.link
        assert link is not None
        assert (link.flow is not None) is wanted


def test_no_more_frames_are_sent_than_receives_were_posted() -> None:
    one, two, fabric = pair(ib_flow_control=True, ib_max_recv_wr=8)
    sender = bound(one)
    target = bound(two)
    sender.sendmsg(bytes(40_000), TWO, 4000, now=0.0)
    fabric.run()
    assert received(target) == [bytes(40_000)]
    fabric.frames(ONE)
    fabric.deaf.add(TWO)
    sender.sendmsg(bytes(80_000), TWO, 4000, now=0.0)
    fabric.run()
    assert len(fabric.frames(ONE)) <= 8
    assert one.counters.ib_tx_throttle > 0


def test_the_last_credit_is_kept_for_a_frame_that_grants_some() -> None:
    flow = FlowControl(3, ring=64)
    assert flow.grab(10) == (2, 0)
    assert flow.grab(10) == (0, 0)
    flow.posted(5)
    assert flow.grab(10) == (1, 5)


def test_a_frame_grants_255_credits_at_most() -> None:
    flow = FlowControl(10, ring=1024)
    flow.posted(300)
    assert flow.grab(1) == (1, 255)
    assert flow.grab(1) == (1, 45)


def test_a_peer_is_told_of_16_receives_or_half_of_a_small_ring() -> None:
    flow = FlowControl(10, ring=1024)
    assert [flow.posted(15), flow.posted(1)] == [False, True]
    assert FlowControl(10, ring=8).posted(4)


def test_credits_beyond_what_a_kernel_can_count_are_not_taken() -> None:
    flow = FlowControl(0xFFFF_FFFF, ring=64)
    for _ in range(100):
        flow.granted(255)
    assert not flow.send.overflown


@pytest.mark.parametrize(("ring", "signaled"), [(256, [17, 34]), (5, [5]), (1, [1])])
def test_one_frame_in_seventeen_tells_of_its_end_and_the_last_that_fits(ring: int, signaled: list[int]) -> None:
    one, two, fabric = pair(ib_max_send_wr=ring)
    bound(two)
    sender = bound(one)
    sender.sendmsg(b"first", TWO, 4000, now=0.0)
    fabric.run()
    link = connection_of(one, TWO).lane.link
    assert link is not None
    fabric.completing = False
    link.posted.clear()
    link.next_id = 0
    for number in range(40):
        sender.sendmsg(bytes([number]), TWO, 4000, now=0.0)
    work = one.ib.work_to_post(link)
    assert [each.id for each in work if isinstance(each, Send) and each.signaled] == signaled
    assert len(work) == min(ring, 40)
    one.ib.work_completed(link, signaled[-1], 0, 0.0)
    assert len(link.posted) == len(work) - signaled[-1]
