"""InfiniBand packets to streams: whose queue pairs they are, and what is RDS at all."""

from __future__ import annotations

import ipaddress

import pytest

from dissectors.wire.cm import Attribute, CmRej
from dissectors.wire.infiniband import Opcode
from dissectors.wire.rds import TCP_PORT
from rdstool.capture.columns import IbPackets
from rdstool.capture.events import Closing, CmMessage, StreamClosed, StreamOpened
from rdstool.capture.streams import Endpoint
from tests.captures.ib_reading import Reading
from tests.unit.capture.ib_conversation import SECOND_NS, A, B, Captured, Connection, Sender

PAYLOAD = bytes(range(200))


def read(*batches: IbPackets) -> Reading:
    return Reading(list(batches))


def sequences(reading: Reading, stream: int = 0) -> list[list[int]]:
    """The sequence numbers of each direction of a stream, in order of arrival."""
    rows = reading.rows[reading.rows["stream"] == stream]
    return [rows["header"]["sequence"][rows["direction"] == direction].tolist() for direction in (0, 1)]


def talk(connection: Connection, count: int) -> None:
    """Messages both ways, each answered by the transport."""
    for _ in range(count):
        for sender, other in ((connection.a, connection.b), (connection.b, connection.a)):
            psn = sender.psn
            sender.message(PAYLOAD)
            other.answer(psn)


def test_rdma_cm_ties_two_queue_pairs_to_one_stream() -> None:
    connection = Connection().connect()
    talk(connection, 2)
    reading = read(connection.capture.packets())
    (stream,) = reading.streams.streams
    assert (stream.a, stream.b) == (Endpoint(A, 0x11), Endpoint(B, 0x12))
    assert stream.initiator_known
    assert stream.from_start
    assert sequences(reading) == [[1, 2], [1, 2]]
    assert [event.direction for event in reading.of_type(StreamOpened)] == [0]
    assert not reading.rows["inferred"].any()


def test_a_stream_over_ipv6_bears_the_addresses_of_the_private_data() -> None:
    a, b = (ipaddress.IPv6Address(text).packed for text in ("fd00::1", "fd00::2"))
    connection = Connection(service=TCP_PORT).connect(a, b)
    talk(connection, 1)
    reading = read(connection.capture.packets())
    assert [(stream.a.host, stream.b.host) for stream in reading.streams.streams] == [("fd00::1", "fd00::2")]
    request, reply = reading.of_type(CmMessage)
    assert (request.ip.saddr, request.private.daddr, reply.private.saddr) == (a, b, b)


def test_queue_pairs_of_another_service_are_not_rds_whatever_they_carry() -> None:
    connection = Connection(service=4420).connect()
    talk(connection, 20)
    reading = read(connection.capture.packets())
    assert not len(reading.streams)
    assert not reading.of_type(CmMessage)
    assert reading.stage.counts.foreign == 80


def test_equal_queue_pair_numbers_at_both_ends_are_kept_apart() -> None:
    connection = Connection(qpns=(0x11, 0x11)).connect()
    talk(connection, 3)
    assert sequences(read(connection.capture.packets())) == [[1, 2, 3], [1, 2, 3]]


def test_a_rejected_request_makes_no_stream_but_is_told() -> None:
    connection = Connection().connect()
    refused = Connection(connection.capture, comm_ids=(0xA9, 0xB9))
    refused.manage(B, Attribute.REJ, CmRej(remote_comm_id=0xA1, reason=28, private=b"\1".ljust(148, b"\0")))
    reading = read(connection.capture.packets(skip=(2,)))
    assert not len(reading.streams)
    assert [type(event.body).__name__ for event in reading.of_type(CmMessage)] == ["CmReq", "CmRej"]


@pytest.mark.parametrize(("seconds", "shown"), [(4, 4), (0, 2), (-1_000_000, 2)])
def test_a_repeated_reply_does_not_open_the_stream_again(seconds: int, shown: int) -> None:
    """RDMA-CM repeats after seconds; what comes twice at once, or by another clock, was captured at both ends."""
    connection = Connection().connect()
    connection.capture.now += seconds * SECOND_NS
    connection.connect()
    talk(connection, 2)
    reading = read(connection.capture.packets())
    assert len(reading.streams) == 1
    assert len(reading.of_type(CmMessage)) == shown
    assert sequences(reading) == [[1, 2], [1, 2]]


@pytest.mark.parametrize(("src", "direction"), [(A, 0), (B, 1)])
def test_a_disconnect_request_closes_the_stream_once(src: bytes, direction: int) -> None:
    connection = Connection().connect()
    talk(connection, 1)
    connection.disconnect(src)
    connection.disconnect(src)
    closed = read(connection.capture.packets()).of_type(StreamClosed)
    assert [(event.stream, event.direction, event.how) for event in closed] == [(0, direction, Closing.DREQ)]


def test_queue_pair_numbers_that_are_used_again_make_a_new_stream() -> None:
    first = Connection().connect()
    talk(first, 2)
    second = Connection(first.capture, psns=(900_000, 7), comm_ids=(0xA2, 0xB2)).connect()
    talk(second, 3)
    reading = read(first.capture.packets())
    assert [sequences(reading, stream) for stream in (0, 1)] == [[[1, 2], [1, 2]], [[1, 2, 3], [1, 2, 3]]]


def test_a_far_jump_of_the_packet_numbers_is_a_new_stream_without_rdma_cm_too() -> None:
    first = Connection()
    talk(first, 20)
    second = Connection(first.capture, psns=(9_000_000, 8_000_000))
    talk(second, 20)
    reading = read(first.capture.packets())
    numbers = list(range(1, 21))
    assert len(reading.streams) == 2
    assert [sequences(reading, stream) for stream in (0, 1)] == [[numbers, numbers]] * 2


def test_a_single_stray_packet_number_starts_nothing() -> None:
    connection = Connection().connect()
    talk(connection, 2)
    stray = Sender(connection.capture, A, B, 0x12, psn=9_000_000)
    stray.message(PAYLOAD)
    talk(connection, 2)
    reading = read(connection.capture.packets())
    assert len(reading.streams) == 1
    assert sequences(reading) == [[1, 2, 3, 4], [1, 2, 3, 4]]


def test_without_rdma_cm_the_answers_tell_which_flows_belong_together() -> None:
    capture = Captured()
    one = Connection(capture, qpns=(0x21, 0x31), psns=(1_000_000, 2_000_000))
    two = Connection(capture, qpns=(0x22, 0x32), psns=(3_000_000, 4_000_000))
    for _ in range(20):
        talk(one, 1)
        talk(two, 1)
    reading = read(capture.packets())
    assert {(stream.a, stream.b) for stream in reading.streams.streams} == {
        (Endpoint(A, 0x21), Endpoint(B, 0x31)),
        (Endpoint(A, 0x22), Endpoint(B, 0x32)),
    }
    assert not any(stream.from_start or stream.initiator_known for stream in reading.streams.streams)


def test_answers_are_not_those_to_a_flow_whose_numbers_go_back_for_a_repetition() -> None:
    capture = Captured()
    before, one = Sender(capture, A, B, 0x31, 5000), Connection(capture, qpns=(0x22, 0x32), psns=(3_000_000, 4_000_000))
    for _ in range(20):
        before.message(PAYLOAD)
    before.psn = 4990
    before.message(PAYLOAD)
    for _ in range(3):
        psn = one.a.psn
        one.a.message(PAYLOAD)
        one.b.answer(psn)
    for _ in range(3):
        one.b.message(PAYLOAD)
    reading = read(capture.packets())
    assert [(stream.a, stream.b) for stream in reading.streams.streams] == [
        (Endpoint(A, 0), Endpoint(B, 0x31)),
        (Endpoint(A, 0x22), Endpoint(B, 0x32)),
    ]


def test_one_direction_alone_is_decoded_with_an_unknown_queue_pair() -> None:
    capture = Captured()
    sender = Sender(capture, B, A, 0x11)
    for _ in range(3):
        sender.message(PAYLOAD)
    reading = read(capture.packets())
    (stream,) = reading.streams.streams
    assert (stream.a, stream.b) == (Endpoint(A, 0x11), Endpoint(B, 0))
    assert sequences(reading) == [[], [1, 2, 3]]


def test_a_direction_of_a_single_frame_is_told_by_its_answers() -> None:
    connection = Connection()
    for _ in range(20):
        psn = connection.a.psn
        connection.a.message(PAYLOAD)
        connection.b.answer(psn)
    connection.b.message(b"")
    reading = read(connection.capture.packets())
    assert len(reading.streams) == 1
    assert sequences(reading) == [list(range(1, 21)), [1]]


def test_a_message_before_a_long_rdma_operation_waits_for_the_one_that_proves_it_to_be_rds() -> None:
    connection = Connection()
    connection.a.message(PAYLOAD)
    connection.a.write(0, 0x100, bytes(1 << 19))
    connection.a.message(PAYLOAD)
    reading = read(connection.capture.packets())
    assert sequences(reading) == [[1, 2], []]


def test_other_protocols_on_the_same_transport_are_counted_and_passed_over() -> None:
    capture = Captured()
    other = Sender(capture, A, B, 0x40)
    for number in range(40):
        other.send(bytes([number]) * 64)
    reading = read(capture.packets())
    assert not len(reading.streams)
    assert reading.stage.counts.foreign == 40


def test_one_header_that_verifies_by_chance_is_not_rds() -> None:
    capture = Captured()
    other = Sender(capture, A, B, 0x40)
    other.message(PAYLOAD)
    for number in range(7):
        other.send(bytes([number]) * 64)
    assert not len(read(capture.packets()).streams)


def test_packet_numbers_wrap_at_24_bits() -> None:
    connection = Connection(psns=(0xFFFFFE, 0xFFFFF0)).connect()
    talk(connection, 40)
    reading = read(connection.capture.packets())
    numbers = list(range(1, 41))
    assert sequences(reading) == [numbers, numbers]
    assert reading.rows["position"].max() > 0xFFFFFF
    assert not any(half.gaps for half in reading.streams[0].coverage)


def test_datagrams_that_are_no_cm_messages_are_counted() -> None:
    capture = Captured()
    capture.packet(A, B, Opcode.UD_SEND_ONLY, 1, 0, b"short")
    capture.packet(A, B, Opcode.UD_SEND_ONLY, 77, 0, bytes(100))
    reading = read(capture.packets())
    assert reading.stage.counts.datagrams == 2
    assert not reading.events
