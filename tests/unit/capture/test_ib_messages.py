"""Frames to messages: fragments, gaps, and what no kernel would send."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dissectors.wire.checksum import with_checksum
from dissectors.wire.extensions import Rdma, build_extensions
from dissectors.wire.infiniband import Opcode
from dissectors.wire.rds import RDS_HEADER, Flags, RdsHeader
from rdstool.capture.columns import ChecksumStatus, HeaderMatch
from rdstool.capture.events import Gap, GapReason, Resynchronised
from rdstool.capture.ib.order import MAX_WAITING_NS, MAX_WAITING_PACKETS
from rdstool.capture.ib.streams import IbStreams
from rdstool.capture.part import PayloadOptions
from rdstool.capture.streams import StreamTable
from rdstool.protocol.kinds import MessageKind
from tests.captures.ib_reading import Reading, in_pieces
from tests.unit.capture.ib_conversation import MTU, Captured, Connection

SETUP = 2
"""Frames of the RDMA-CM exchange."""


def octets(size: int) -> bytes:
    return bytes(number * 7 & 0xFF for number in range(size))


def read(capture: Captured, *skip: int, payloads: bool = True) -> Reading:
    return Reading([capture.packets(skip=skip)], PayloadOptions(keep_payloads=payloads, digests=True))


def summary(reading: Reading) -> list[tuple[int, int, int, int, bool, bool]]:
    """Sequence, length, fragments, bytes seen, complete, inferred."""
    return [
        (
            int(row["header"]["sequence"]),
            int(row["header"]["length"]),
            int(row["fragments"]),
            int(row["seen"]),
            bool(row["complete"]),
            bool(row["inferred"]),
        )
        for row in reading.rows
    ]


@pytest.mark.parametrize("size", [0, 1, 976, 977, 4096, 4097, 12288, 100_001])
@pytest.mark.parametrize("batch", [1, 5, 1000])
def test_a_message_is_joined_from_its_fragments(size: int, batch: int) -> None:
    connection = Connection().connect()
    for _ in range(3):
        connection.a.message(octets(size))
    reading = Reading(in_pieces(connection.capture.packets(), batch), PayloadOptions(keep_payloads=True))
    fragments = max(1, -(-size // 4096))
    assert summary(reading) == [(number, size, fragments, size, True, False) for number in (1, 2, 3)]
    assert list(reading.payloads.values()) == [octets(size)] * 3
    assert reading.fragments["index"].tolist() == list(range(fragments)) * 3


def test_first_and_last_frame_and_position_are_those_of_the_packets() -> None:
    connection = Connection().connect()
    connection.a.message(b"x")
    connection.a.message(octets(5000))
    rows = read(connection.capture).rows
    assert rows["first_frame"].tolist() == [3, 4]
    assert rows["frame"].tolist() == [3, len(connection.capture.rows)]
    assert rows["position"].tolist() == [100, 101]
    assert rows["end"].tolist() == [1, 2]


def test_an_ack_only_frame_is_a_message_of_no_length_and_advances_the_acknowledgement() -> None:
    connection = Connection().connect()
    connection.a.message(b"x")
    connection.b.frame(RdsHeader(ack=1), b"")
    reading = read(connection.capture)
    assert reading.rows["kind"].tolist() == [MessageKind.DATA, MessageKind.ACK]
    assert reading.acks[["direction", "position", "frame"]].tolist() == [(0, 1, 4)]


def test_a_gap_costs_only_the_message_that_it_is_in() -> None:
    connection = Connection().connect()
    for size in (10, 9000, 10, 10):
        connection.a.message(octets(size))
    reading = read(connection.capture, SETUP + 1 + 3)  # The third packet of the first fragment's five.
    assert summary(reading) == [
        (1, 10, 1, 10, True, False),
        (2, 9000, 2, 9000 - 4096, False, True),
        (3, 10, 1, 10, True, False),
        (4, 10, 1, 10, True, False),
    ]
    (gap,) = reading.of_type(Gap)
    assert (gap.position, gap.size, gap.direction, gap.reason) == (103, 1, 0, GapReason.END)
    assert len(reading.of_type(Resynchronised)) == 1
    half = reading.streams[0].coverage[0]
    assert (half.missing, half.gaps) == (1, 1)


def test_a_message_goes_on_behind_a_gap_within_it() -> None:
    connection = Connection().connect()
    connection.a.message(octets(20_000))
    connection.a.message(b"next")
    reading = read(connection.capture, SETUP + 8)
    assert summary(reading) == [(1, 20_000, 4, 20_000 - 4096, False, False), (2, 4, 1, 4, True, False)]
    assert not {0} & set(reading.digests)
    assert 1 in reading.digests


def test_a_gap_over_several_messages_ends_the_one_and_finds_the_next() -> None:
    connection = Connection().connect()
    connection.a.message(octets(20_000))
    lost_from = len(connection.capture.rows) - 3
    connection.a.message(octets(20_000))
    lost_to = len(connection.capture.rows) - 12
    for _ in range(3):
        connection.a.message(b"next")
    reading = read(connection.capture, *range(lost_from, lost_to))
    assert [item[0] for item in summary(reading)] == [1, 2, 3, 4, 5]
    assert [item[4] for item in summary(reading)] == [False, False, True, True, True]


def test_a_hole_that_a_retransmission_fills_is_no_gap() -> None:
    connection = Connection().connect()
    for number in range(6):
        connection.a.message(bytes([number]))
    psn = connection.a.psn
    connection.a.psn, connection.a.sequence = 102, 3
    for number in range(2, 6):
        connection.a.message(bytes([number]))
    assert connection.a.psn == psn
    reading = read(connection.capture, SETUP + 3)
    assert [item[0] for item in summary(reading)] == [1, 2, 3, 4, 5, 6]
    assert not reading.of_type(Gap)
    assert reading.streams[0].coverage[0].retransmitted == 3
    # The hole was filled by the ninth frame, and only then were the messages behind it complete.
    assert reading.rows["frame"].tolist() == [3, 4, 9, 9, 9, 9]


def test_a_hole_is_given_up_when_too_much_waits_behind_it() -> None:
    connection = Connection().connect()
    for number in range(MAX_WAITING_PACKETS + 10):
        connection.a.message(bytes([number & 0xFF]))
    reading = read(connection.capture, SETUP + 1, payloads=False)
    (gap,) = reading.of_type(Gap)
    assert gap.reason is GapReason.NOT_CAPTURED
    assert gap.frame == SETUP + 2 + MAX_WAITING_PACKETS
    assert len(reading.rows) == MAX_WAITING_PACKETS + 9


def test_a_hole_is_given_up_when_it_has_been_open_for_too_long() -> None:
    connection = Connection().connect()
    for _ in range(3):
        connection.a.message(b"x")
    connection.capture.now += MAX_WAITING_NS
    connection.a.message(b"x")
    reading = Reading([connection.capture.packets(skip=(SETUP + 2,))])
    (gap,) = reading.of_type(Gap)
    assert (gap.frame, gap.reason) == (SETUP + 4, GapReason.NOT_CAPTURED)


def test_a_foreign_header_in_a_message_is_told_and_the_message_goes_on() -> None:
    connection = Connection().connect()
    header = connection.a.header(9000)
    data = octets(9000)
    connection.a.frame(header, data[:4096], last=False)
    connection.a.frame(replace(header, sequence=77), data[4096:8192], last=False)
    connection.a.frame(header, data[8192:])
    connection.a.message(b"next")
    reading = read(connection.capture)
    assert summary(reading) == [(1, 9000, 3, 9000, True, False), (2, 4, 1, 4, True, False)]
    assert reading.fragments["header_match"].tolist()[:3] == [HeaderMatch.SAME, HeaderMatch.FOREIGN, HeaderMatch.SAME]


@pytest.mark.parametrize(
    ("change", "match"),
    [({"credit": 9}, HeaderMatch.CREDIT), ({"flags": 2}, HeaderMatch.OTHER), ({"ack": 5}, HeaderMatch.OTHER)],
)
@pytest.mark.parametrize("others", [0, 60])
def test_what_differs_between_the_headers_of_a_message_is_told(change: dict[str, Any], match: int, others: int) -> None:
    connection = Connection().connect()
    header = connection.a.header(4097)
    connection.a.frame(header, octets(4096), last=False)
    connection.a.frame(replace(header, **change), b"x")
    for _ in range(others):
        connection.a.message(b"y")
    reading = read(connection.capture)
    assert reading.fragments[:2][["header_match", "credit", "ack"]].tolist() == [
        (HeaderMatch.SAME, 0, 0),
        (match, change.get("credit", 0), change.get("ack", 0)),
    ]
    assert reading.rows["fragments"].tolist() == [2] + [1] * others


@pytest.mark.parametrize("batch", [1, 5, 1000])
def test_a_message_goes_on_behind_an_ack_only_frame(batch: int) -> None:
    """A kernel sends those apart from messages, and takes them before it looks at the message under way."""
    connection = Connection().connect()
    connection.a.message(b"first")
    header = connection.a.header(9000, ack=3)
    connection.a.frame(header, octets(4096), last=False)
    connection.a.frame(RdsHeader(ack=4), b"")
    connection.a.frame(header, octets(4096), last=False)
    connection.a.frame(header, octets(808))
    connection.a.message(b"next", ack=4)
    reading = Reading(in_pieces(connection.capture.packets(), batch), PayloadOptions(keep_payloads=True))
    whole = [(1, 5, 1, 5, True, False), (0, 0, 1, 0, True, False), (2, 9000, 3, 9000, True, False)]
    assert summary(reading) == [*whole, (3, 4, 1, 4, True, False)]
    assert reading.payloads[2] == octets(4096) * 2 + octets(808)
    assert reading.fragments["header_match"].max() == HeaderMatch.SAME
    assert reading.acks["position"].tolist() == [3, 4]


def test_a_message_whose_length_is_a_lie_ends_at_its_solicited_event() -> None:
    connection = Connection().connect()
    connection.a.frame(replace(connection.a.header(5), length=500_000), b"12345")
    connection.a.message(b"next")
    assert summary(read(connection.capture)) == [(1, 500_000, 1, 5, False, False), (2, 4, 1, 4, True, False)]


def test_short_fragments_are_told_with_their_bytes() -> None:
    connection = Connection().connect()
    header = connection.a.header(5000)
    for piece, last in ((octets(3000), False), (octets(1500), False), (octets(500), True)):
        connection.a.frame(header, piece, last=last)
    reading = read(connection.capture)
    assert reading.fragments["data"].tolist() == [3000, 1500, 500]
    assert summary(reading) == [(1, 5000, 3, 5000, True, False)]


def test_a_frame_shorter_than_a_header_belongs_to_no_message() -> None:
    connection = Connection().connect()
    connection.a.send(bytes(20))
    connection.a.message(b"next")
    reading = read(connection.capture)
    assert len(reading.rows) == 1
    (short,) = reading.fragments[reading.fragments["message"] < 0]
    assert (int(short["data"]), int(short["frame"])) == (-28, 3)
    assert reading.streams[0].coverage[0].unassigned == 1


def test_solicited_event_and_opcode_are_those_of_the_last_packet() -> None:
    connection = Connection().connect()
    connection.a.packet(Opcode.SEND_ONLY_IMMEDIATE, bytes(4) + with_checksum(connection.a.header(0)))
    connection.a.message(octets(2000))
    fragments = read(connection.capture).fragments
    assert fragments["opcode"].tolist() == [Opcode.SEND_ONLY_IMMEDIATE, Opcode.SEND_LAST]
    assert fragments["solicited"].tolist() == [False, True]


@pytest.mark.parametrize("others", [0, 60])
def test_the_checksum_of_a_message_is_that_of_its_worst_fragment(others: int) -> None:
    connection = Connection().connect()
    header = connection.a.header(4097)
    connection.a.frame(header, octets(4096), last=False)
    connection.a.send(RDS_HEADER.pack(replace(header, checksum=0xBAD)) + b"x")
    connection.a.send(RDS_HEADER.pack(connection.a.header(0)))
    for _ in range(others):
        connection.a.message(b"y")
    reading = read(connection.capture)
    assert reading.rows["checksum_status"][:2].tolist() == [ChecksumStatus.BAD, ChecksumStatus.ABSENT]
    assert reading.fragments["checksum_status"][:2].tolist() == [ChecksumStatus.GOOD, ChecksumStatus.BAD]


def test_the_acknowledgement_of_a_bad_header_does_not_count() -> None:
    connection = Connection().connect()
    connection.a.send(RDS_HEADER.pack(replace(connection.a.header(0, ack=9), checksum=0xBAD)))
    assert not len(read(connection.capture).acks)


@pytest.mark.parametrize("size", [8192, 16384])
def test_larger_fragments_of_oracles_kernel_are_joined(size: int) -> None:
    connection = Connection().connect()
    connection.a.fragment = size
    for _ in range(4):
        connection.a.message(octets(50_000))
    assert summary(read(connection.capture)) == [
        (number, 50_000, -(-50_000 // size), 50_000, True, False) for number in (1, 2, 3, 4)
    ]


def test_a_snapped_capture_keeps_the_boundaries() -> None:
    connection = Connection().connect()
    for _ in range(30):
        connection.a.message(octets(3000))
    packets = connection.capture.packets()
    packets.captured = np.where(packets.frame > SETUP, np.minimum(packets.captured, 60), packets.captured)
    reading = Reading([packets])
    assert len(reading.rows) == 30
    assert not reading.rows["complete"].any()
    assert (reading.rows["seen"] == 12 + 60 * 2).all()
    assert not reading.of_type(Gap)


def test_congestion_bitmaps_are_kept_across_fragments_and_batches() -> None:
    connection = Connection().connect()
    bitmap = octets(8192)
    header = RdsHeader(length=8192, flags=Flags.CONG_BITMAP)
    connection.a.frame(header, bitmap[:4096], last=False)
    connection.a.frame(header, bitmap[4096:])
    connection.a.message(b"data")
    for size in (1, 100):
        reading = Reading(in_pieces(connection.capture.packets(), size), PayloadOptions())
        assert reading.rows["kind"].tolist() == [MessageKind.CONGESTION, MessageKind.DATA]
        assert reading.payloads == {0: bitmap}


def test_a_capture_that_begins_in_a_message_finds_the_next() -> None:
    connection = Connection()
    for size in (20_000, 0, 300, 9000, 5):
        connection.a.message(octets(size))
    for _ in range(20):
        connection.a.message(octets(MTU))
    reading = read(connection.capture, *range(1, 8))
    found = summary(reading)
    assert [item[0] for item in found] == list(range(1, 26))
    assert [item[4] for item in found] == [False] + [True] * 24
    assert found[0][5]


def test_a_length_of_4_gib_takes_no_memory() -> None:
    connection = Connection().connect()
    for _ in range(50):
        connection.a.frame(replace(connection.a.header(0), length=0xFFFF_FFFF), b"12345", last=False)
    reading = read(connection.capture)
    assert reading.rows["seen"].max() <= 50 * 5
    assert not reading.rows["complete"].any()


def test_while_a_hole_is_open_later_frames_are_asked_to_wait() -> None:
    connection = Connection().connect()
    for _ in range(4):
        connection.a.message(b"x")
    stage = IbStreams(StreamTable(), PayloadOptions())
    stage.feed(connection.capture.packets(skip=(SETUP + 2,)))
    assert stage.settled_frame() == SETUP + 3
    stage.finish()
    assert stage.settled_frame() is None


def test_a_message_waits_for_the_answer_to_the_rdma_that_it_announces() -> None:
    connection = Connection().connect()
    connection.a.write(0, 0x300, bytes(8))
    connection.a.message(b"done", exthdr=build_extensions([Rdma(rkey=0x300)]))
    stage = IbStreams(StreamTable(), PayloadOptions())
    assert not len(stage.feed(connection.capture.packets()).rows)
    assert stage.settled_frame() == SETUP + 2
    connection.b.answer(connection.a.psn - 1)
    answer = connection.capture.packets(skip=tuple(range(1, SETUP + 3)))
    part = stage.feed(answer)
    assert [operation.status for operation in part.rdma[0]] == ["ok"]
    assert stage.settled_frame() is None
