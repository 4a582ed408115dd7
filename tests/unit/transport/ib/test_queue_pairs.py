"""Messages between two queue pairs, and the states of one: what goes over the wire, what both ends are told."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import pytest

from dissectors.wire.infiniband import BTH
from rdstool.errors import TransportError
from rdstool.protocol.errors import LocalProtocolError
from rdstool.transport.ib.provider import Completed, ConnectRequested, Operation, Segment, Status
from rdstool.transport.ib.roce.states import TRANSITIONS, QueuePairInput, QueuePairState, step
from rdstool.transport.ib.roce.work import MAX_WORK_REQUESTS
from tests.unit.transport.ib.driving import (
    ALL,
    PASSIVE,
    QUICK,
    TEXT,
    Pair,
    messages,
    of_kind,
    one,
    opcodes,
    receives,
    sent,
    statuses,
)


def test_success_of_a_send_that_is_not_signaled_is_told_by_the_next(pair: Pair) -> None:
    active, passive = pair.connect()
    receives(passive, 3)
    for number in (1, 2, 3):
        active.post_send(number, TEXT[: 2000 * number - 1900], signaled=number == 2)
    pair.settle()
    assert statuses(pair.active) == [(2, Status.SUCCESS)]
    assert [len(data) for data in messages(pair.passive)] == [100, 2100, 4100]


def test_failure_is_told_of_each_send(pair: Pair) -> None:
    active, passive = pair.connect()
    receives(passive, 2, size=10)
    for number in (1, 2, 3):
        active.post_send(number, TEXT[: 8 * number], signaled=False)
    pair.settle()
    failed = [(2, Status.REMOTE_INVALID_REQUEST), (3, Status.FLUSHED)]
    assert [(one.wr_id, one.status) for one in of_kind(pair.active.take_events(), Completed)] == failed


def test_receives_are_posted_many_at_a_time(pair: Pair) -> None:
    active, passive = pair.connect()
    passive.post_receive(7, 100, 3)
    for number in range(3):
        active.post_send(number, bytes([number]))
    pair.settle()
    done = of_kind(pair.passive.take_events(), Completed)
    assert [(one.wr_id, one.data) for one in done] == [(7, b"\0"), (7, b"\1"), (7, b"\2")]


@pytest.mark.parametrize(
    ("size", "packets"),
    [
        (0, ["SEND_ONLY"]),
        (1, ["SEND_ONLY"]),
        (1024, ["SEND_ONLY"]),
        (1025, ["SEND_FIRST", "SEND_LAST"]),
        (4144, ["SEND_FIRST", "SEND_MIDDLE", "SEND_MIDDLE", "SEND_MIDDLE", "SEND_LAST"]),
    ],
)
def test_a_send_takes_as_many_packets_as_its_bytes_need(pair: Pair, size: int, packets: list[str]) -> None:
    active, passive = pair.connect()
    receives(passive)
    active.post_send(7, TEXT[:size])
    pair.settle()
    assert opcodes(pair, pair.active.address) == packets
    (got,) = of_kind(pair.passive.take_events(), Completed)
    assert (got.operation, got.status, got.data) == (Operation.RECEIVE, Status.SUCCESS, TEXT[:size])
    assert statuses(pair.active) == [(7, Status.SUCCESS)]


@pytest.mark.parametrize("mtu", [256, 512, 1024, 2048, 4096])
def test_a_message_is_cut_at_every_path_mtu(pair: Pair, mtu: int) -> None:
    active, passive = pair.connect(replace(QUICK, path_mtu=mtu))
    receives(passive)
    active.post_send(1, TEXT)
    pair.settle()
    assert messages(pair.passive) == [TEXT]
    assert len(opcodes(pair, pair.active.address)) == -(-len(TEXT) // mtu)


def test_solicited_events_are_told(pair: Pair) -> None:
    active, passive = pair.connect()
    receives(passive, 2)
    active.post_send(1, TEXT, solicited=True)
    active.post_send(2, TEXT)
    pair.settle()
    assert [done.solicited for done in of_kind(pair.passive.take_events(), Completed)] == [True, False]


def test_one_acknowledgement_stands_for_a_burst(pair: Pair) -> None:
    active, passive = pair.connect()
    receives(passive, 10)
    for number in range(10):
        active.post_send(number, b"x")
    pair.settle()
    assert opcodes(pair, PASSIVE) == ["ACKNOWLEDGE"]
    assert statuses(pair.active) == [(number, Status.SUCCESS) for number in range(10)]


@pytest.mark.parametrize("size", [64, 1024, 2500])
def test_a_peer_slower_than_the_window_is_asked_for_few_acknowledgements(pair: Pair, size: int) -> None:
    active, passive = pair.connect()
    count = 1000
    receives(passive, count)
    for number in range(count):
        active.post_send(number, bytes(size))
    on_the_way = deque(sent(pair.active, 0.0))
    asked = 0
    while on_the_way:
        one_more = on_the_way.popleft()
        asked += BTH.unpack_from(one_more.data).ackreq
        pair.deliver(pair.active, pair.passive, [one_more])
        pair.deliver(pair.passive, pair.active, sent(pair.passive, 0.0))
        on_the_way += sent(pair.active, 0.0)
    assert statuses(pair.active) == [(number, Status.SUCCESS) for number in range(count)]
    packets = opcodes(pair, pair.active.address)
    assert asked == opcodes(pair, PASSIVE).count("ACKNOWLEDGE") < len(packets) / 12


@pytest.mark.parametrize("behind", [1, 5, 15, 16, 100])
def test_a_read_behind_sends_goes_out_without_a_timer(pair: Pair, behind: int) -> None:
    active, passive = pair.connect()
    receives(passive, 200)
    memory, into = bytearray(40_000), bytearray(40_000)
    there, here = pair.passive.register(memory, ALL), pair.active.register(into, ALL)
    for number in range(behind):
        active.post_send(number, b"x")
    active.post_read(1000, Segment(0, len(into), here.lkey), 0, there.rkey)
    pair.settle()
    assert statuses(pair.active)[-1] == (1000, Status.SUCCESS)


def test_both_sides_can_send_at_once(pair: Pair) -> None:
    active, passive = pair.connect()
    receives(active)
    receives(passive)
    active.post_send(1, b"there")
    passive.post_send(1, b"back")
    pair.settle()
    assert (messages(pair.active), messages(pair.passive)) == ([b"back"], [b"there"])


def test_what_is_posted_before_the_connection_is_there_goes_out_then(pair: Pair) -> None:
    active = pair.active.connect(PASSIVE, 0x0106_1C06, options=QUICK)
    active.post_send(1, b"early")
    pair.settle()
    passive = one(pair.passive, ConnectRequested).connection
    passive.post_receive(0, 100)
    passive.accept()
    pair.settle()
    assert messages(pair.passive) == [b"early"]


def test_without_a_receive_the_peer_is_told_to_wait(pair: Pair) -> None:
    active, passive = pair.connect()
    active.post_send(1, TEXT)
    active.post_send(2, b"second")
    pair.settle()
    assert pair.passive.counters.rnr_naks_sent == 1
    assert statuses(pair.active) == []
    receives(passive, 2)
    pair.wait(0.001)
    assert messages(pair.passive) == [TEXT, b"second"]
    assert statuses(pair.active) == [(1, Status.SUCCESS), (2, Status.SUCCESS)]


def test_a_receiver_that_is_never_ready_ends_the_connection(pair: Pair) -> None:
    active, _ = pair.connect(replace(QUICK, rnr_retry=2))
    active.post_send(1, b"x")
    pair.wait(0.1)
    assert pair.passive.counters.rnr_naks_sent == 3
    assert statuses(pair.active) == [(1, Status.RECEIVER_NOT_READY)]


def test_a_message_that_is_too_long_ends_the_connection_at_both_ends(pair: Pair) -> None:
    active, passive = pair.connect()
    receives(passive, 2, 2000)
    active.post_send(1, TEXT)
    active.post_send(2, b"never")
    pair.settle()
    assert statuses(pair.active) == [(1, Status.REMOTE_INVALID_REQUEST), (2, Status.FLUSHED)]
    assert statuses(pair.passive) == [(0, Status.LOCAL_LENGTH_ERROR), (1, Status.FLUSHED)]
    assert (active.state, passive.state) == (QueuePairState.ERROR, QueuePairState.ERROR)


# ---- States


@pytest.mark.parametrize("state", list(QueuePairState))
@pytest.mark.parametrize("given", list(QueuePairInput))
def test_a_state_takes_the_inputs_of_its_row_and_refuses_all_others(
    state: QueuePairState, given: QueuePairInput
) -> None:
    after = TRANSITIONS.get((state, given))
    if after is None:
        with pytest.raises(LocalProtocolError, match=f"{state.name} cannot take {given.name}"):
            step(state, given)
    else:
        assert step(state, given) is after
        assert (after is QueuePairState.ERROR) == (given is QueuePairInput.FAIL)


def test_what_is_posted_after_the_end_is_flushed(pair: Pair) -> None:
    active, _ = pair.connect()
    active.disconnect()
    active.post_send(1, b"")
    active.post_receive(2, 1)
    assert statuses(pair.active) == [(1, Status.FLUSHED), (2, Status.FLUSHED)]


def test_queues_are_bounded(pair: Pair) -> None:
    active, _ = pair.connect()
    for _ in range(MAX_WORK_REQUESTS):
        active.post_send(1, b"")
        active.post_receive(1, 1)
    with pytest.raises(TransportError, match="wait until"):
        active.post_send(1, b"")
    with pytest.raises(TransportError, match="wait until"):
        active.post_receive(1, 1)


def test_a_clock_that_goes_back_is_an_error(pair: Pair) -> None:
    pair.active.advance(5.0)
    with pytest.raises(LocalProtocolError, match="went back"):
        pair.active.advance(4.0)
