"""What is lost between two devices is made good, as soon as can be and once."""

from __future__ import annotations

import pytest

from rdstool.protocol.ib.memory import Access
from rdstool.transport.ib.provider import Completed, Segment, Status
from rdstool.transport.ib.roce.states import QueuePairState
from tests.unit.transport.ib.driving import (
    ALL,
    PASSIVE,
    QUICK,
    TEXT,
    Pair,
    lose,
    messages,
    of_kind,
    opcodes,
    receives,
    statuses,
)


@pytest.mark.parametrize(
    "lost",
    [
        ("SEND_FIRST", 1),
        ("SEND_MIDDLE", 2),
        ("SEND_LAST", 1),
        ("ACKNOWLEDGE", 1),
        ("WRITE_FIRST", 1),
        ("WRITE_LAST", 1),
        ("READ_REQUEST", 1),
        ("READ_RESPONSE_FIRST", 1),
        ("READ_RESPONSE_MIDDLE", 3),
        ("READ_RESPONSE_LAST", 1),
        ("FETCH_ADD", 1),
        ("ATOMIC_ACKNOWLEDGE", 1),
    ],
)
def test_whatever_is_lost_is_made_good(pair: Pair, lost: tuple[str, int]) -> None:
    active, passive = pair.connect()
    receives(passive, 2)
    memory, landing = bytearray(10_016), bytearray(10_000)
    remote, local = pair.passive.register(memory, ALL), pair.active.register(landing, Access.LOCAL_WRITE)
    pair.filter = lose(lost)
    active.post_send(1, TEXT)
    active.post_write(2, TEXT, 16, remote.rkey)
    active.post_read(3, Segment(0, 10_000, local.lkey), 16, remote.rkey, fence=True)
    active.post_fetch_add(4, 8, remote.rkey, 1)
    active.post_send(5, b"end")
    pair.wait(1.0)
    assert statuses(pair.active) == [(number, Status.SUCCESS) for number in range(1, 6)]
    assert messages(pair.passive) == [TEXT, b"end"]
    assert memory == bytes(8) + b"\x01" + bytes(7) + TEXT
    assert landing == TEXT


def test_a_gap_is_told_once(pair: Pair) -> None:
    active, passive = pair.connect()
    receives(passive, 9)
    pair.filter = lose(("SEND_ONLY", 1))
    for number in range(9):
        active.post_send(number, b"x")
    pair.settle()
    assert pair.passive.counters.sequence_naks_sent == 1
    assert pair.passive.counters.ahead == 7
    assert pair.active.counters.timeouts == 0
    assert len(statuses(pair.active)) == 9


def test_an_atomic_whose_answer_was_lost_is_answered_from_memory(pair: Pair) -> None:
    active, _ = pair.connect()
    memory = bytearray(8)
    region = pair.passive.register(memory, ALL)
    pair.filter = lose(("ATOMIC_ACKNOWLEDGE", 1), ("ATOMIC_ACKNOWLEDGE", 2))
    active.post_fetch_add(1, 0, region.rkey, 1)
    pair.wait(1.0)
    assert memory[0] == 1
    (done,) = of_kind(pair.active.take_events(), Completed)
    assert (done.status, done.original) == (Status.SUCCESS, 0)
    assert opcodes(pair, pair.active.address) == ["FETCH_ADD"] * 3


def test_a_read_is_continued_where_it_was_cut(pair: Pair) -> None:
    active, _ = pair.connect()
    memory, landing = bytearray(TEXT), bytearray(10_000)
    remote, local = pair.passive.register(memory, ALL), pair.active.register(landing, Access.LOCAL_WRITE)
    pair.filter = lose(("READ_RESPONSE_MIDDLE", 5))
    active.post_read(1, Segment(0, 10_000, local.lkey), 0, remote.rkey)
    pair.settle()
    asked = [psn for _, name, psn in pair.wire if name == "READ_REQUEST"]
    assert len(asked) == 2
    assert asked[1] == asked[0] + 5
    assert landing == TEXT


@pytest.mark.parametrize("lost", ["SEND_ONLY", "ACKNOWLEDGE"])
def test_the_loss_of_the_last_packet_is_found_before_the_timeout(pair: Pair, lost: str) -> None:
    active, passive = pair.connect()
    receives(passive)
    pair.filter = lose((lost, 1))
    active.post_send(1, b"x")
    pair.wait(0.005)
    assert statuses(pair.active) == [(1, Status.SUCCESS)]
    assert messages(pair.passive) == [b"x"]
    assert (pair.active.counters.probes, pair.active.counters.timeouts) == (1, 0)


def test_the_end_of_a_read_is_asked_for_again_before_the_timeout(pair: Pair) -> None:
    active, _ = pair.connect()
    memory, landing = bytearray(TEXT * 3), bytearray(30_000)
    remote, local = pair.passive.register(memory, ALL), pair.active.register(landing, Access.LOCAL_WRITE)
    pair.filter = lose(("READ_RESPONSE_LAST", 2))
    active.post_read(1, Segment(0, 30_000, local.lkey), 0, remote.rkey)
    pair.wait(0.01)
    asked = [psn for _, name, psn in pair.wire if name == "READ_REQUEST"]
    assert [psn - asked[0] for psn in asked] == [0, 16, 29]
    assert landing == memory
    assert pair.active.counters.timeouts == 0


def test_a_peer_that_is_gone_is_given_up_after_the_retries(pair: Pair) -> None:
    active, passive = pair.connect()
    receives(active)
    pair.filter = lambda *_: []
    active.post_send(1, b"x")
    active.post_send(2, b"y")
    pair.wait(0.4)
    assert statuses(pair.active) == []
    pair.wait(0.2)
    assert opcodes(pair, pair.active.address) == ["SEND_ONLY"] * (8 * 2 + 8)  # and a probe each time
    assert statuses(pair.active) == [(1, Status.RETRIES_EXCEEDED), (2, Status.FLUSHED), (0, Status.FLUSHED)]
    assert passive.state is QueuePairState.RTS


def test_doubled_packets_are_executed_once(pair: Pair) -> None:
    active, passive = pair.connect()
    receives(passive, 5)
    memory = bytearray(8)
    region = pair.passive.register(memory, ALL)
    pair.filter = lambda _, __, datagram: [datagram, datagram]
    active.post_send(1, b"one")
    active.post_fetch_add(2, 0, region.rkey, 1)
    active.post_send(3, TEXT)
    pair.settle()
    assert messages(pair.passive) == [b"one", TEXT]
    assert memory[0] == 1
    assert statuses(pair.active) == [(1, Status.SUCCESS), (2, Status.SUCCESS), (3, Status.SUCCESS)]


def test_packets_stay_in_order_when_their_numbers_wrap(pair: Pair) -> None:
    pair.active._random.seed(0)
    active = pair.active.queue_pair(PASSIVE, QUICK)
    passive = pair.passive.queue_pair(pair.active.address, QUICK)
    receives(passive, 9)
    pair.active.join(active, passive.number, 0xFFFFFD, 0)
    pair.passive.join(passive, active.number, 0, 0xFFFFFD)
    pair.filter = lose(("SEND_ONLY", 2), ("SEND_ONLY", 6))
    for number in range(9):
        active.post_send(number, bytes([number + 1]))
    pair.wait(0.5)
    assert messages(pair.passive) == [bytes([number + 1]) for number in range(9)]
    assert {psn for _, name, psn in pair.wire if name == "SEND_ONLY"} == {0xFFFFFD, 0xFFFFFE, 0xFFFFFF, *range(6)}
