"""Messages come off a byte stream whole, and a length that cannot be ends the stream."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from dissectors.wire.rds import RDS_HEADER, RdsHeader
from rdstool.protocol.framing import AHEAD_BYTES, CONGESTION_HEADER, Deframer, Frame, pack_extended_header, pack_header
from rdstool.protocol.reasons import DropReason
from tests.kit.buffers import scatter
from tests.unit.protocol.driving import header

EXTENSIONS = bytes.fromhex("050008063fca604d0800") + bytes(6)


def test_the_engines_header_is_the_field_tables() -> None:
    assert pack_header(1, 2, 3, 4, 5) == RDS_HEADER.pack(RdsHeader(sequence=1, length=2, sport=3, dport=4, flags=5))
    assert pack_extended_header(1, 0, 1, 0, 0, EXTENSIONS) == header(1, 0, 1, 0, exthdr=EXTENSIONS)
    assert header(0, 8192, 0, 0, 1) == CONGESTION_HEADER


def test_two_messages_and_part_of_a_third() -> None:
    deframer = Deframer(1000)
    stream = header(1, 5, 10, 20) + b"hello" + header(2, 0, 10, 20, 4) + header(3, 100, 10, 20) + b"begun"
    assert deframer.feed(stream, 1.0) == [
        (1, 5, 10, 20, 0, b"hello", bytes(16)),
        (2, 0, 10, 20, 4, b"", bytes(16)),
    ]
    assert (deframer.held, deframer.remaining) == (53, (0, 95))
    assert deframer.began == 1.0
    assert deframer.feed(b"x" * 95, 2.0) == [(3, 100, 10, 20, 0, b"begun" + b"x" * 95, bytes(16))]
    assert deframer.held == 0


def test_only_a_handshake_has_its_extensions_read() -> None:
    probe, reply = header(1, 0, 1, 0, exthdr=EXTENSIONS), header(2, 0, 0, 1, exthdr=EXTENSIONS)
    data = header(3, 0, 5, 6, exthdr=EXTENSIONS)
    assert [frame[6] for frame in Deframer(0).feed(probe + reply + data, 0.0)] == [EXTENSIONS, EXTENSIONS, bytes(16)]
    slow = Deframer(0)
    frames = [frame for byte in probe for frame in slow.feed(bytes([byte]), 0.0)]
    assert [frame[6] for frame in frames] == [EXTENSIONS]


@pytest.mark.parametrize("at_once", [True, False])
def test_too_long_a_message_ends_the_stream_behind_those_before_it(at_once: bool) -> None:
    deframer = Deframer(1000)
    stream = header(1, 1, 5, 6) + b"a" + header(2, 1001, 5, 6) + b"b" * 2000
    pieces = [stream] if at_once else [stream[at : at + 1] for at in range(len(stream))]
    frames = [frame for piece in pieces for frame in deframer.feed(piece, 0.0)]
    assert [frame[5] for frame in frames] == [b"a"]
    assert deframer.error is not None
    assert deframer.error.reason is DropReason.OVERSIZED_MESSAGE
    assert "1001" in str(deframer.error)
    assert deframer.held == 0


def test_four_gigabytes_are_not_waited_for() -> None:
    deframer = Deframer(1 << 20)
    assert deframer.feed(header(1, 0xFFFFFFFF, 5, 6), 0.0) == []
    assert deframer.error is not None


def test_a_long_payload_is_asked_for_alone() -> None:
    deframer = Deframer(1 << 20)
    payload = bytes(60_000)
    assert deframer.best_read(65_536) == 65_536
    assert deframer.feed(header(1, len(payload), 4000, 4001), 0.0) == []
    assert deframer.best_read(65_536) == len(payload)
    (frame,) = deframer.feed(payload, 0.0)
    assert frame[5] == payload
    # The next one may be as long: its header first.
    assert deframer.best_read(65_536) == 48
    deframer.feed(header(2, 3, 4000, 4001), 0.0)
    assert deframer.best_read(65_536) == 65_536
    (frame,) = deframer.feed(b"abc" + header(3, 0, 4000, 4001)[:10], 0.0)
    assert frame[5] == b"abc"
    assert deframer.best_read(65_536) == 65_536


def place(deframer: Deframer, data: bytes) -> list[Frame]:
    """Put bytes where the deframer has room for them, as the system would."""
    scatter(data, deframer.room(len(data)))
    return deframer.placed(len(data), 0.0)


def test_a_long_payload_has_room_of_its_own_once_the_peer_has_sent_one_as_long() -> None:
    deframer = Deframer(1 << 20)
    first, second = b"\1" * 60_000, b"\2" * 60_000
    deframer.feed(header(1, 60_000, 4000, 4001), 0.0)
    assert not deframer.roomy
    deframer.feed(first, 0.0)
    deframer.feed(header(2, 60_000, 4000, 4001), 0.0)
    assert deframer.worth_waking == 60_000
    assert place(deframer, second[:20_000]) == []
    assert deframer.held == 20_048
    assert deframer.worth_waking == 40_000
    # The header of the third comes with the end of the second, but for a byte.
    third = header(3, 60_001, 4000, 4001)
    assert [frame[:6] for frame in place(deframer, second[20_000:] + third[:47])] == [
        (2, 60_000, 4000, 4001, 0, second)
    ]
    deframer.feed(third[47:], 0.0)
    assert not deframer.roomy, "60,001 bytes have not come before"
    assert deframer.worth_waking == 1


def address(buffer: bytes | bytearray | memoryview) -> int:
    return int(np.frombuffer(buffer, np.uint8).ctypes.data)


def test_a_payload_that_was_read_into_its_room_is_not_copied() -> None:
    deframer = Deframer(1 << 20)
    long = bytes(60_000)
    deframer.feed(header(1, len(long), 4000, 4001), 0.0)
    deframer.feed(long, 0.0)
    deframer.feed(header(2, len(long), 4000, 4001), 0.0)
    # The caller still has the room when it tells what came: it has no reason to drop it before.
    room = deframer.room()
    where = address(room[0])
    room[0][:] = long
    (frame,) = deframer.placed(len(long), 0.0)
    assert address(frame[5]) == where


def test_a_long_payload_gets_its_room_with_its_first_byte() -> None:
    """Headers of many connections, each behind the message before, cost no memory until it is their turn."""
    long = bytes(60_000)
    deframers = [Deframer(1 << 20) for _ in range(8)]
    for deframer in deframers:
        deframer.feed(header(1, len(long), 4000, 4001) + long[:1], 0.0)
        deframer.feed(long[1:], 0.0)
    tracemalloc.start()
    try:
        for deframer in deframers:
            deframer.feed(header(2, len(long), 4000, 4001), 0.0)
            assert deframer.worth_waking == len(long)
        assert tracemalloc.get_traced_memory()[0] < len(long)
        deframers[0].room()
        assert tracemalloc.get_traced_memory()[0] > len(long)
    finally:
        tracemalloc.stop()


def test_bytes_that_were_not_read_into_the_room_go_there_too() -> None:
    deframer = Deframer(1 << 20)
    long = bytes(range(256)) * 100
    deframer.feed(header(1, len(long), 4000, 4001) + long[:1], 0.0)
    deframer.feed(long[1:], 0.0)
    deframer.feed(header(2, len(long), 4000, 4001) + long[:100], 0.0)
    assert place(deframer, long[100:9000]) == []
    (frame,) = deframer.feed(long[9000:] + b"more", 0.0)
    assert frame[5] == long
    assert deframer.held == 4
    assert not deframer.roomy


LONG = [bytes([number]) * 60_000 for number in range(10)]
"""Payloads of one length."""


def message(number: int, payload: bytes, sport: int = 4000, dport: int = 4001) -> bytes:
    return header(number, len(payload), sport, dport) + payload


def in_a_row() -> Deframer:
    """A deframer whose peer has sent a long message, and the header of another, number 5."""
    deframer = Deframer(1 << 20)
    deframer.feed(header(4, len(LONG[4]), 4000, 4001), 0.0)
    deframer.feed(LONG[4] + header(5, len(LONG[5]), 4000, 4001), 0.0)
    return deframer


def test_messages_that_the_system_has_each_have_room_beforehand() -> None:
    deframer = in_a_row()
    stream = LONG[5] + message(6, LONG[6]) + message(7, LONG[7]) + header(8, len(LONG[8]), 4000, 4001)[:20]
    room = deframer.room(len(stream))
    payloads, headers = room[::2], room[1::2]
    assert [len(payload) for payload in payloads] == [60_000] * 3
    assert {len(behind) for behind in headers} == {48}
    where = address(payloads[1])
    scatter(stream, room)
    frames = deframer.placed(len(stream), 0.0)
    assert [(frame[0], frame[5]) for frame in frames] == [(5, LONG[5]), (6, LONG[6]), (7, LONG[7])]
    assert address(frames[1][5]) == where, "and is not copied"
    assert deframer.held == 20


def test_a_message_of_which_the_system_has_a_part_has_room_and_none_that_may_follow() -> None:
    assert len(in_a_row().room()) == 2
    assert len(in_a_row().room(60_048)) == 2
    assert len(in_a_row().room(60_049)) == 4
    assert len(in_a_row().room(2 * 60_048)) == 4


def test_much_that_waits_to_be_read_has_room_by_and_by() -> None:
    room = in_a_row().room(1 << 30)
    assert AHEAD_BYTES < sum(map(len, room[2:])) < AHEAD_BYTES + 60_048


def test_a_message_that_came_in_part_goes_on_where_it_began() -> None:
    deframer = in_a_row()
    frames = place(deframer, LONG[5] + message(6, LONG[6])[:1000])
    assert [frame[5] for frame in frames] == [LONG[5]]
    assert (deframer.held, deframer.remaining) == (1000, (0, 60_048 - 1000))
    (frame,) = place(deframer, message(6, LONG[6])[1000:])
    assert (frame[0], frame[5]) == (6, LONG[6])


@pytest.mark.parametrize(
    "other",
    [b"", b"short", bytes(8192), LONG[9] + b"a byte more", LONG[9][:-1]],
    ids=["empty", "short", "as long as a map", "longer", "shorter"],
)
def test_a_message_of_another_length_than_expected_is_read_as_well(other: bytes) -> None:
    deframer = in_a_row()
    stream = LONG[5] + message(6, other) + message(7, LONG[7])
    frames = place(deframer, stream)
    assert [(frame[0], frame[5]) for frame in frames] == [(5, LONG[5]), (6, other), (7, LONG[7])]
    assert deframer.held == 0


def test_a_handshake_as_long_as_what_was_expected_has_its_extensions_read() -> None:
    deframer = in_a_row()
    frames = place(deframer, LONG[5] + header(6, 60_000, 1, 0, exthdr=EXTENSIONS) + LONG[6])
    assert [(frame[0], frame[6]) for frame in frames] == [(5, bytes(16)), (6, EXTENSIONS)]


def test_too_long_a_message_among_those_expected_ends_the_stream() -> None:
    deframer = in_a_row()
    frames = place(deframer, LONG[5] + header(6, 2 << 20, 4000, 4001) + LONG[6])
    assert [frame[0] for frame in frames] == [5]
    assert deframer.error is not None


def test_room_for_messages_that_do_not_come_is_given_back() -> None:
    deframer = in_a_row()
    tracemalloc.start()
    try:
        assert len(deframer.room(4 * 60_048)) == 8
        assert tracemalloc.get_traced_memory()[0] > 4 * 60_000
        assert deframer.placed(0, 0.0) == []
        assert tracemalloc.get_traced_memory()[0] < 2 * 60_000
    finally:
        tracemalloc.stop()
