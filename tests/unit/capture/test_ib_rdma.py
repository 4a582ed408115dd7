"""RDMA operations: what was asked, what was answered, and which message announces it."""

from __future__ import annotations

import pytest

from dissectors.wire.extensions import Rdma, build_extensions
from dissectors.wire.infiniband import ATOMIC_ETH, AtomicEth, Opcode
from rdstool.capture.events import Gap, Nak, RdmaKind, RdmaOperation
from tests.captures.ib_reading import Reading
from tests.unit.capture.ib_conversation import MTU, Connection

KEY = build_extensions([Rdma(rkey=0x300)])


def read(connection: Connection, *skip: int) -> Reading:
    return Reading([connection.capture.packets(skip=skip)])


@pytest.mark.parametrize("size", [0, 8, MTU, 5000])
def test_a_write_is_tied_to_the_message_behind_it(size: int) -> None:
    connection = Connection().connect()
    connection.a.message(b"before")
    connection.a.write(0x1000, 0x300, bytes(size))
    connection.a.message(b"done", exthdr=KEY)
    connection.b.answer(connection.a.psn - 1)
    reading = read(connection)
    (operation,) = reading.of_type(RdmaOperation)
    assert reading.rdma == {1: (operation,)}
    assert (operation.kind, operation.va, operation.rkey) == (RdmaKind.WRITE, 0x1000, 0x300)
    assert (operation.length, operation.seen, operation.status) == (size, size, "ok")
    assert (operation.first_frame, operation.psn, operation.direction) == (4, 101, 0)


@pytest.mark.parametrize("size", [0, 8, MTU, 5000])
def test_a_read_is_complete_with_its_responses(size: int) -> None:
    connection = Connection().connect()
    first = connection.a.read(0x40, 0x300, size)
    connection.a.message(b"done", exthdr=KEY)
    pieces = [bytes(size)[at : at + MTU] for at in range(0, size, MTU)] or [b""]
    for index, piece in enumerate(pieces):
        last = index == len(pieces) - 1
        opcode = Opcode.READ_RESPONSE_LAST if last else Opcode.READ_RESPONSE_MIDDLE
        if index == 0:
            opcode = Opcode.READ_RESPONSE_ONLY if last else Opcode.READ_RESPONSE_FIRST
        connection.b.answer(first + index, opcode, payload=piece)
    reading = read(connection)
    ((operation,),) = reading.rdma.values()
    assert (operation.kind, operation.length, operation.seen, operation.status) == (RdmaKind.READ, size, size, "ok")
    assert operation.frame == len(connection.capture.rows)
    assert not reading.of_type(Gap)


@pytest.mark.parametrize("mtu", [256, 512, 1024, 2048, 4096])
def test_a_read_takes_as_many_numbers_as_its_response_has_packets_whatever_the_mtu(mtu: int) -> None:
    connection = Connection()
    for _ in range(20):
        connection.a.message(b"")
    for _ in range(3):
        connection.a.read(0, 0x300, 9000, mtu)
        connection.a.message(b"", exthdr=KEY)
    reading = read(connection)
    assert not reading.of_type(Gap)
    assert len(reading.rows) == 23
    assert len(reading.rdma) == 3


def test_several_operations_are_announced_by_one_message() -> None:
    connection = Connection().connect()
    for part in range(3):
        connection.a.write(part * 4096, 0x300, bytes(4096))
    connection.a.message(b"done", exthdr=KEY)
    ((first, second, third),) = read(connection).rdma.values()
    assert [first.va, second.va, third.va] == [0, 4096, 8192]


def test_a_message_with_another_key_announces_nothing() -> None:
    connection = Connection().connect()
    connection.a.write(0, 0x999, bytes(8))
    connection.a.message(b"done", exthdr=KEY)
    reading = read(connection)
    assert not reading.rdma
    assert len(reading.of_type(RdmaOperation)) == 1


def test_an_operation_before_a_gap_is_not_tied_to_the_message_behind_it() -> None:
    connection = Connection().connect()
    connection.a.write(0, 0x300, bytes(8))
    connection.a.message(b"lost", exthdr=KEY)
    connection.a.message(b"done", exthdr=KEY)
    assert not read(connection, 4).rdma


def test_a_refused_write_bears_the_name_of_the_refusal() -> None:
    connection = Connection().connect()
    connection.a.write(0, 0x300, bytes(8))
    connection.b.answer(100, syndrome=0x62)
    reading = read(connection)
    assert [(event.reason, event.psn, event.direction) for event in reading.of_type(Nak)] == [
        ("remote access error", 100, 0)
    ]
    assert [operation.status for operation in reading.of_type(RdmaOperation)] == ["remote access error"]


@pytest.mark.parametrize(("syndrome", "name"), [(0x60, "PSN sequence error"), (0x21, "receiver not ready")])
def test_a_refusal_to_be_retried_decides_nothing(syndrome: int, name: str) -> None:
    connection = Connection().connect()
    connection.a.write(0, 0x300, bytes(8))
    connection.b.answer(100, syndrome=syndrome)
    connection.b.answer(100)
    reading = read(connection)
    assert [event.reason for event in reading.of_type(Nak)] == [name]
    assert [operation.status for operation in reading.of_type(RdmaOperation)] == ["ok"]


def test_an_operation_without_an_answer_is_told_as_unknown() -> None:
    connection = Connection().connect()
    connection.a.write(0, 0x300, bytes(8))
    connection.a.message(b"done", exthdr=KEY)
    ((operation,),) = read(connection).rdma.values()
    assert operation.status == "unknown"


def test_a_read_whose_responses_were_not_all_captured_says_how_much_was_seen() -> None:
    connection = Connection().connect()
    first = connection.a.read(0, 0x300, 2 * MTU)
    connection.b.answer(first, Opcode.READ_RESPONSE_FIRST, payload=bytes(MTU))
    connection.b.answer(first + 1, Opcode.READ_RESPONSE_LAST, payload=bytes(MTU))
    (operation,) = read(connection, 4).of_type(RdmaOperation)
    assert (operation.length, operation.seen, operation.status) == (2 * MTU, MTU, "ok")


def test_atomics_bear_their_operands_and_the_value_that_was_there() -> None:
    connection = Connection().connect()
    connection.a.packet(Opcode.COMPARE_SWAP, ATOMIC_ETH.pack(AtomicEth(va=8, rkey=0x300, swap=5, compare=3)))
    connection.a.packet(Opcode.FETCH_ADD, ATOMIC_ETH.pack(AtomicEth(va=16, rkey=0x300, swap=7)))
    connection.a.message(b"done")
    for psn, value in ((100, 3), (101, 40)):
        connection.b.answer(psn, Opcode.ATOMIC_ACKNOWLEDGE, payload=value.to_bytes(8, "big"))
    ((swap, add),) = read(connection).rdma.values()
    assert (swap.kind, swap.va, swap.operands, swap.status) == (RdmaKind.COMPARE_SWAP, 8, (3, 5, 3), "ok")
    assert (add.kind, add.va, add.operands, add.status) == (RdmaKind.FETCH_ADD, 16, (7, 40), "ok")
