"""RDMA and atomics between two devices: what is moved, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rdstool.errors import TransportError
from rdstool.protocol.ib.memory import Access
from rdstool.transport.ib.provider import Broken, Completed, Operation, Segment, Status
from tests.unit.transport.ib.driving import (
    ALL,
    QUICK,
    TEXT,
    Pair,
    messages,
    of_kind,
    opcodes,
    receives,
    sent,
    statuses,
)


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 10_000])
def test_write_and_read_move_memory_exactly(pair: Pair, size: int) -> None:
    active, _ = pair.connect()
    memory, landing = bytearray(b"." * 12_000), bytearray(b"-" * 12_000)
    remote, local = pair.passive.register(memory, ALL), pair.active.register(landing, Access.LOCAL_WRITE)
    active.post_write(1, TEXT[:size], 1000, remote.rkey)
    active.post_read(2, Segment(5, size, local.lkey), 1000, remote.rkey)
    pair.settle()
    assert statuses(pair.active) == [(1, Status.SUCCESS), (2, Status.SUCCESS)]
    assert memory == b"." * 1000 + TEXT[:size] + b"." * (11_000 - size)
    assert landing == b"-" * 5 + TEXT[:size] + b"-" * (11_995 - size)


def test_a_long_read_is_asked_for_in_pieces(pair: Pair) -> None:
    active, _ = pair.connect()
    memory, landing = bytearray(TEXT * 10), bytearray(100_000)
    remote, local = pair.passive.register(memory, ALL), pair.active.register(landing, Access.LOCAL_WRITE)
    active.post_read(1, Segment(0, 100_000, local.lkey), 0, remote.rkey)
    pair.settle()
    assert landing == memory
    assert opcodes(pair, pair.active.address).count("READ_REQUEST") == 7


def test_atomics_tell_the_value_before(pair: Pair) -> None:
    active, _ = pair.connect()
    memory = bytearray(32)
    region = pair.passive.register(memory, ALL)
    active.post_fetch_add(1, 8, region.rkey, 5)
    active.post_fetch_add(2, 8, region.rkey, -1)
    active.post_compare_swap(3, 8, region.rkey, 4, 1 << 63)
    active.post_compare_swap(4, 8, region.rkey, 4, 9)
    active.post_fetch_add(5, 8, region.rkey, 1 << 63)
    pair.settle()
    done = of_kind(pair.active.take_events(), Completed)
    assert [one.original for one in done] == [0, 5, 4, 1 << 63, 1 << 63]
    assert memory == bytes(32)


def test_no_more_reads_are_in_flight_than_both_ends_agreed(pair: Pair) -> None:
    active, _ = pair.connect(replace(QUICK, initiator_depth=2))
    region = pair.passive.register(bytearray(64), ALL)
    for number in range(8):
        active.post_fetch_add(number, 0, region.rkey, 1)
    assert len(sent(pair.active, pair.now)) == 2


def test_a_peer_that_answers_no_reads_is_not_asked(pair: Pair) -> None:
    active, _ = pair.connect(replace(QUICK, initiator_depth=0))
    active.post_fetch_add(1, 0, 1, 1)
    pair.settle()
    assert statuses(pair.active) == [(1, Status.LOCAL_OPERATION_ERROR)]


def test_a_fence_waits_for_reads(pair: Pair) -> None:
    active, passive = pair.connect()
    receives(passive)
    region = pair.passive.register(bytearray(64), ALL)
    active.post_fetch_add(1, 0, region.rkey, 1)
    active.post_send(2, b"after", fence=True)
    first = sent(pair.active, pair.now)
    assert len(first) == 1
    pair.deliver(pair.active, pair.passive, first)
    pair.settle()
    assert messages(pair.passive) == [b"after"]


@pytest.mark.parametrize(
    ("address", "length", "access", "key"),
    [
        (0, 65, ALL, 0),
        (1, 64, ALL, 0),
        (64, 1, ALL, 0),
        ((1 << 64) - 1, 1, ALL, 0),
        (0, 8, ALL, 1),
        (0, 8, Access.LOCAL_WRITE, 0),
        (0, 8, Access.LOCAL_WRITE | Access.REMOTE_ATOMIC, 0),
    ],
)
@pytest.mark.parametrize("operation", [Operation.WRITE, Operation.READ])
def test_memory_that_is_not_offered_is_refused(
    pair: Pair, address: int, length: int, access: Access, key: int, operation: Operation
) -> None:
    active, _ = pair.connect()
    memory = bytearray(b"secret.." * 8)
    region = pair.passive.register(memory, access)
    landing = bytearray(100)
    local = pair.active.register(landing, Access.LOCAL_WRITE)
    if operation is Operation.WRITE:
        active.post_write(1, bytes(length), address, region.rkey ^ key)
    else:
        active.post_read(1, Segment(0, length, local.lkey), address, region.rkey ^ key)
    pair.settle()
    assert statuses(pair.active) == [(1, Status.REMOTE_ACCESS_ERROR)]
    assert of_kind(pair.passive.take_events(), Broken)
    assert memory == b"secret.." * 8
    assert landing == bytes(100)


def test_an_atomic_needs_the_right_and_an_aligned_address(pair: Pair) -> None:
    active, _ = pair.connect()
    region = pair.passive.register(bytearray(16), Access.LOCAL_WRITE | Access.REMOTE_WRITE | Access.REMOTE_READ)
    with pytest.raises(TransportError, match="divides"):
        active.post_fetch_add(1, 4, region.rkey, 1)
    active.post_fetch_add(1, 8, region.rkey, 1)
    pair.settle()
    assert statuses(pair.active) == [(1, Status.REMOTE_ACCESS_ERROR)]


def test_a_region_that_was_taken_away_is_refused(pair: Pair) -> None:
    active, _ = pair.connect()
    region = pair.passive.register(bytearray(64), ALL)
    pair.passive.deregister(region)
    active.post_write(1, b"x", 0, region.rkey)
    pair.settle()
    assert statuses(pair.active) == [(1, Status.REMOTE_ACCESS_ERROR)]


def test_a_region_that_goes_while_it_is_written_is_written_no_further(pair: Pair) -> None:
    active, _ = pair.connect()
    memory = bytearray(10_000)
    region = pair.passive.register(memory, ALL)
    active.post_write(1, TEXT, 0, region.rkey)
    batch = sent(pair.active, pair.now)
    pair.deliver(pair.active, pair.passive, batch[:2])
    pair.passive.deregister(region)
    pair.deliver(pair.active, pair.passive, batch[2:])
    pair.settle()
    assert memory == TEXT[:2048] + bytes(10_000 - 2048)
    assert statuses(pair.active) == [(1, Status.REMOTE_ACCESS_ERROR)]


def test_a_region_that_goes_while_it_is_read_is_an_error_of_the_peer(pair: Pair) -> None:
    active, _ = pair.connect()
    region = pair.passive.register(bytearray(16_384), ALL)
    local = pair.active.register(bytearray(16_384), Access.LOCAL_WRITE)
    active.post_read(1, Segment(0, 16_384, local.lkey), 0, region.rkey)
    pair.deliver(pair.active, pair.passive, sent(pair.active, pair.now))
    pair.passive.deregister(region)
    pair.settle()
    assert statuses(pair.active) == [(1, Status.REMOTE_OPERATION_ERROR)]


def test_a_read_lands_in_registered_memory_only(pair: Pair) -> None:
    active, _ = pair.connect()
    region = pair.active.register(bytearray(10), Access.LOCAL_WRITE)
    for bad in (Segment(0, 11, region.lkey), Segment(5, 6, region.lkey), Segment(0, 5, region.lkey ^ 1)):
        with pytest.raises(TransportError, match="local key"):
            active.post_read(1, bad, 0, 1)
