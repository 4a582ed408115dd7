"""TCP reassembly as a real receiver would do it, and what a hole in the capture costs."""

from __future__ import annotations

import random

import pytest

from dissectors.wire.rds import MAX_MESSAGE_BYTES
from rdstool.capture.events import Closing, Gap, GapReason, Resynchronised, StreamClosed, StreamOpened
from rdstool.capture.part import PayloadOptions
from rdstool.capture.streams import StreamTable
from rdstool.capture.tcp import resting
from rdstool.capture.tcp.intake import LATE_NS
from rdstool.capture.tcp.resting import FEW
from rdstool.capture.tcp.streams import TcpStreams
from rdstool.protocol.kinds import MessageKind
from tests.unit.capture.tcp_conversation import FIN, RST, Conversation, columns, data, decode, handshake

PAYLOADS = [bytes([n]) * size for n, size in enumerate((0, 1, 47, 48, 4096, 300, 9000, 64, 2000, 10))]
MESSAGES = [data(n + 2, payload) for n, payload in enumerate(PAYLOADS)]
STREAM = handshake() + b"".join(MESSAGES)
SEQUENCES = [0, 1, *range(2, 2 + len(MESSAGES))]
AT = [len(handshake()) + sum(map(len, MESSAGES[:n])) for n in range(len(MESSAGES) + 1)]
"""Stream offset of each message."""


@pytest.fixture(autouse=True, params=[FEW, 0], ids=["few", "many"])
def connections_of_many(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All holds as well among very many connections, which are kept in another way between two chunks."""
    monkeypatch.setattr(resting, "FEW", request.param)


@pytest.mark.parametrize("size", [1, 7, 48, 100, 1448, 65000])
@pytest.mark.parametrize("chunk", [None, 1, 3])
def test_segment_and_chunk_boundaries_do_not_matter(size: int, chunk: int | None) -> None:
    segments = Conversation().syn().stream(STREAM, size).segments
    if len(segments) > 3000 and chunk is not None:
        segments = Conversation().syn().stream(STREAM, size * 50).segments
    result = decode(segments, chunk)
    assert result.sequences == SEQUENCES
    assert result.payloads[2:] == PAYLOADS
    assert all(result.complete)
    assert not any(row["inferred"] for row in result.rows)


def test_the_frame_of_a_message_is_the_one_that_completes_it() -> None:
    talk = Conversation().syn().send(0, handshake())
    talk.send(AT[0], MESSAGES[4][:100]).send(AT[0] + 100, MESSAGES[4][100:])
    message = decode(talk.segments).rows[-1]
    assert message[["first_frame", "frame"]].item() == (4, 5)


def test_reordered_segments_are_put_in_order_and_the_last_to_come_completes() -> None:
    talk = Conversation().syn().send(0, handshake())
    talk.send(AT[0] + 100, MESSAGES[4][100:]).send(AT[0], MESSAGES[4][:100])
    result = decode(talk.segments)
    assert result.payloads[-1] == PAYLOADS[4]
    assert result.rows[-1][["first_frame", "frame"]].item() == (5, 5)
    assert not result.of(Gap)


@pytest.mark.parametrize("chunk", [None, 1, 2, 5])
def test_retransmitted_overlapping_and_repeated_segments_change_nothing(chunk: int | None) -> None:
    rng = random.Random(1)
    talk = Conversation().syn()
    for at in range(0, len(STREAM), 500):
        talk.send(at, STREAM[at : at + 500])
        back = rng.randrange(max(0, at - 2000), at + 1)
        talk.send(back, STREAM[back : back + rng.randrange(1, 2500)])
    result = decode(talk.segments, chunk)
    assert result.sequences == SEQUENCES
    assert result.payloads[2:] == PAYLOADS
    assert result.streams[0].coverage[0].retransmitted > 0
    assert result.streams[0].coverage[0].missing == 0


def test_sequence_numbers_wrap() -> None:
    talk = Conversation(isn=(2**32 - 5000, 2**32 - 1)).syn().stream(STREAM, 700).stream(STREAM, 700, backward=True)
    result = decode(talk.segments, 3)
    assert result.sequences.count(11) == 2
    assert all(result.complete)


def test_keepalives_and_window_probes_bring_nothing_new() -> None:
    talk = Conversation().syn().send(0, STREAM)
    talk.send(len(STREAM) - 1, b"\0").send(len(STREAM) - 1, b"").send(len(STREAM), data(12, b"x")[:1])
    talk.send(len(STREAM), data(12, b"x"))
    result = decode(talk.segments)
    assert result.sequences == [*SEQUENCES, 12]
    assert result.payloads[-1] == b"x"


def test_data_that_the_capture_shows_before_the_syn_belongs_to_the_connection() -> None:
    talk = Conversation().syn().stream(STREAM, 1000)
    syn, answer, *rest = talk.segments
    result = decode([rest[0], syn, answer, *rest[1:]])
    assert result.sequences == SEQUENCES
    assert len(result.streams) == 1


@pytest.mark.parametrize("chunk", [None, 1])
def test_a_connection_whose_answer_to_the_syn_stands_behind_data_was_not_seen_from_its_start(chunk: int | None) -> None:
    answer = Conversation().syn().segments[1]
    data = Conversation().stream(STREAM, 1000, start=5000).segments
    result = decode([*data[:2], answer, *data[2:]], chunk)
    assert [(stream.first_frame, stream.from_start) for stream in result.streams.streams] == [(1, False)]


@pytest.mark.parametrize("chunk", [None, 1])
def test_data_whose_syn_stands_behind_it_was_found_by_a_search(chunk: int | None) -> None:
    syn, answer, *data = Conversation().syn().stream(STREAM, 1000, backward=True).segments
    result = decode([syn, *data[:12], answer, *data[12:]], chunk)
    assert result.sequences == SEQUENCES
    assert [bool(row["inferred"]) for row in result.rows] == [True] + [False] * (len(SEQUENCES) - 1)


def test_a_hole_inside_a_payload_costs_that_message_only() -> None:
    talk = Conversation().syn().send(0, STREAM[: AT[4] + 200])
    talk.send(AT[4] + 700, STREAM[AT[4] + 700 :]).ack(len(STREAM))
    result = decode(talk.segments)
    assert result.sequences == SEQUENCES
    assert [n for n, whole in zip(result.sequences, result.complete, strict=True) if not whole] == [6]
    assert result.rows[6]["seen"] == 4096 - 500
    assert [(gap.position, gap.size, gap.reason) for gap in result.of(Gap)] == [
        (AT[4] + 200, 500, GapReason.NOT_CAPTURED)
    ]
    assert not result.of(Resynchronised)
    assert result.streams[0].coverage[0].missing == 500


@pytest.mark.parametrize("chunk", [None, 1])
def test_after_a_hole_that_takes_a_header_the_next_messages_are_found_again(chunk: int | None) -> None:
    hole = AT[5] - 100
    talk = Conversation().syn().send(0, STREAM[:hole])
    for n in range(7, len(MESSAGES)):
        talk.send(AT[n], MESSAGES[n])
    talk.ack(len(STREAM))
    result = decode(talk.segments, chunk)
    assert result.sequences == [0, 1, *range(2, 7), *range(9, 12)]
    assert [bool(row["inferred"]) for row in result.rows][-3:] == [True, False, False]
    assert [event.position for event in result.of(Resynchronised)] == [AT[7]]


def test_a_hole_waits_for_a_retransmission_that_is_captured_later() -> None:
    talk = Conversation().syn().send(0, STREAM[:9000]).send(9500, STREAM[9500:])
    for _ in range(10):
        talk.ack(9000)
    talk.send(9000, STREAM[9000:9500]).ack(len(STREAM))
    result = decode(talk.segments, 4)
    assert result.sequences == SEQUENCES
    assert all(result.complete)
    assert not result.of(Gap)


@pytest.mark.parametrize("start", [0, 1, 47, 48, 1000, 8192, 8240, 8300])
def test_a_capture_that_starts_in_mid_stream_finds_the_first_boundary(start: int) -> None:
    result = decode(Conversation().stream(STREAM, 1448, start=start).segments)
    assert result.sequences == [n for n, at in zip([0, 1, *range(2, 12)], [0, 8240, *AT], strict=False) if at >= start]
    assert not result.streams[0].from_start
    assert result.streams[0].coverage[0].unassigned == min(at for at in [0, 8240, *AT] if at >= start) - start


@pytest.mark.parametrize("chunk", [None, 1])
def test_two_headers_that_end_with_a_segment_are_believed_whatever_follows(chunk: int | None) -> None:
    odd = data(7, b"", flags=0x20)
    talk, at = Conversation(), 0
    for message in (data(5, b"five"), data(6, b"6666"), odd, data(8, b""), odd):
        talk.send(at, message)
        at += len(message)
    result = decode(talk.segments, chunk)
    assert result.sequences == [5, 6, 7, 8, 7]
    assert [bool(row["inferred"]) for row in result.rows] == [True, False, False, False, False]


def test_one_plausible_header_inside_a_payload_is_not_believed() -> None:
    inner = data(77, b"", sport=9, dport=10)
    payload = b"\x5a" * 500 + inner + b"\x5a" * 500
    stream = data(5, payload) + data(6, b"abc") + data(7, b"def") + data(8, b"")
    result = decode(Conversation().stream(stream, 100, start=200).segments)
    assert result.sequences == [6, 7, 8]


def test_frames_cut_short_cost_only_what_they_cut() -> None:
    talk = Conversation().syn()
    for n, message in enumerate(MESSAGES):
        talk.send(AT[n] - AT[0], message, captured=min(len(message), 200))
    result = decode(talk.segments)
    assert result.sequences == SEQUENCES[2:]
    assert [bool(whole) for whole in result.complete] == [len(message) <= 200 for message in MESSAGES]


def test_frames_cut_short_of_a_header_are_reported_as_gaps_of_their_own_kind() -> None:
    talk = Conversation().syn().send(0, MESSAGES[1], captured=20)
    result = decode(talk.segments)
    assert not result.rows
    assert [gap.reason for gap in result.of(Gap)] == [GapReason.SNAPPED]


@pytest.mark.parametrize("chunk", [None, 1])
def test_a_port_used_again_is_another_stream(chunk: int | None) -> None:
    first = Conversation().syn().send(0, STREAM).end(len(STREAM), FIN).end(0, FIN, backward=True)
    second = Conversation(isn=(77_000, 5)).syn().send(0, STREAM)
    result = decode([*first.segments, *second.segments], chunk)
    assert result.sequences == SEQUENCES * 2
    assert [int(row["stream"]) for row in result.rows] == [0] * len(SEQUENCES) + [1] * len(SEQUENCES)


@pytest.mark.parametrize("chunk", [None, 1, 4])
@pytest.mark.parametrize("flag", [FIN, RST])
def test_a_port_used_again_from_the_same_number_is_another_stream(flag: int, chunk: int | None) -> None:
    talk = Conversation().syn().stream(STREAM, 1000).end(len(STREAM), flag).end(0, FIN, backward=True)
    result = decode(talk.segments * 2, chunk)
    assert result.sequences == SEQUENCES * 2
    assert [int(row["stream"]) for row in result.rows] == [0] * len(SEQUENCES) + [1] * len(SEQUENCES)


@pytest.mark.parametrize("chunk", [None, 1, 4])
def test_streams_are_numbered_by_their_first_frames_on_ports_used_again_too(chunk: int | None) -> None:
    first = Conversation(port=1).syn().end(0, RST)
    others = [Conversation(port=port).syn() for port in (2, 3, 4)]
    again = [Conversation(port=1, isn=(base, base)).syn() for base in (77_000, 99_000)]
    turns = [first, others[0], again[0], others[1], again[1], others[2]]
    result = decode([segment for turn in turns for segment in turn.segments], chunk)
    assert [stream.a.port for stream in result.streams.streams] == [1, 2, 1, 3, 1, 4]
    frames = [stream.first_frame for stream in result.streams.streams]
    assert frames == sorted(frames)


@pytest.mark.parametrize(("flag", "how"), [(FIN, Closing.FIN), (RST, Closing.RST)])
def test_an_end_in_the_middle_of_a_message_is_reported(flag: int, how: Closing) -> None:
    cut = AT[5] - 1000
    result = decode(Conversation().syn().send(0, STREAM[:cut]).end(cut, flag).segments)
    assert result.sequences == [0, 1, 2, 3, 4, 5, 6]
    assert not result.complete[-1]
    closed = result.of(StreamClosed)
    assert [(event.how, event.pending) for event in closed] == [(how, cut - AT[4])]


@pytest.mark.parametrize("chunk", [None, 1, 3, 4])
def test_what_was_on_its_way_when_the_peer_reset_the_connection_completes_its_message(chunk: int | None) -> None:
    cut = AT[5] - 1000
    talk = Conversation().syn().send(0, STREAM[:cut]).end(0, RST, backward=True).send(cut, STREAM[cut:])
    result = decode(talk.segments, chunk)
    assert result.sequences == SEQUENCES
    assert all(result.complete)


@pytest.mark.parametrize("chunk", [None, 1, 3, 4])
def test_a_message_that_a_reset_ended_is_reported_at_the_reset(chunk: int | None) -> None:
    cut = AT[5] - 1000
    talk = Conversation().syn().send(0, STREAM[:cut]).end(0, RST, backward=True)
    others = Conversation(port=2).syn().send(0, STREAM)
    result = decode([*talk.segments, *others.segments], chunk)
    broken = [row for row in result.rows if not row["complete"]]
    assert [(int(row["frame"]), int(row["header"]["sequence"])) for row in broken] == [(4, 6)]


def test_a_reset_is_over_once_nothing_more_can_be_on_its_way() -> None:
    """What others bring meanwhile waits, so that messages are in the order of their frames."""
    cut = AT[5] - 1000
    talk = Conversation().syn().send(0, STREAM[:cut]).end(0, RST, backward=True)
    others = Conversation(port=2).syn().send(0, STREAM)
    streams = TcpStreams(StreamTable(), PayloadOptions())
    assert len(streams.feed(columns(talk.segments, first_frame=1)).rows) == 6
    assert streams.settled_frame() == 4
    later = columns(others.segments, first_frame=5)
    later.time[:] += LATE_NS
    broken = streams.feed(later).rows[-1]
    assert (int(broken["frame"]), bool(broken["complete"])) == (4, False)
    assert streams.settled_frame() is None


def test_the_initiator_is_the_end_that_sent_the_syn() -> None:
    result = decode(Conversation().syn().segments)
    stream = result.streams[0]
    assert (stream.a.host, stream.a.port, stream.b.port) == ("10.0.0.1", 33000, 16385)
    assert stream.initiator_known
    assert stream.from_start
    assert [event.direction for event in result.of(StreamOpened)] == [0]


def test_acknowledgements_advance_only() -> None:
    talk = Conversation().syn().send(0, STREAM[:100]).ack(100).ack(50).ack(100)
    talk.send(100, STREAM[100:300]).ack(300)
    acks = [(int(ack["position"]), int(ack["frame"])) for ack in decode(talk.segments).acks if ack["direction"] == 0]
    assert acks == [(100, 4), (300, 8)]


def test_a_length_that_no_kernel_sends_is_shown_and_the_next_message_found() -> None:
    huge = data(2, b"")[:16] + (4 * 1024**3 - 1).to_bytes(4, "big") + data(2, b"")[20:]
    shifted = [data(n, b"xyz") for n in range(3, 8)]
    stream = handshake() + huge + b"".join(shifted)
    result = decode(Conversation().syn().stream(stream, 500).segments)
    assert result.sequences == [0, 1, 2, 3, 4, 5, 6, 7]
    assert result.rows[2]["header"]["length"] > MAX_MESSAGE_BYTES
    assert not result.complete[2]


def test_another_protocol_on_the_port_is_passed_over() -> None:
    http = b"GET / HTTP/1.1\r\nHost: example\r\n\r\n" * 200
    result = decode(Conversation().syn().stream(http, 1000).segments)
    assert not result.rows
    assert result.streams[0].coverage[0].unassigned > 0


def test_a_peer_that_sends_zeros_for_ever_costs_no_memory_and_ends() -> None:
    talk = Conversation().stream(bytes(2_000_000), 60_000)
    assert not decode(talk.segments, 3).rows


def test_kinds_follow_ports_and_flags() -> None:
    stream = handshake() + data(2, b"", sport=0, dport=1) + data(3, b"", sport=5, dport=0) + data(4, b"", 0, 5)
    kinds = [MessageKind(int(row["kind"])) for row in decode(Conversation().syn().send(0, stream).segments).rows]
    assert kinds == [
        MessageKind.CONGESTION,
        MessageKind.PROBE,
        MessageKind.PROBE_REPLY,
        MessageKind.PING,
        MessageKind.PONG,
    ]


def test_thousands_of_holes_cost_time_in_proportion() -> None:
    talk = Conversation().syn()
    for n in range(5000):
        talk.send(n * 2000, data(n + 2, b"0123456789"))
    talk.ack(5000 * 2000)
    assert decode(talk.segments).sequences == list(range(2, 5002))


def test_a_port_used_again_after_the_end_is_another_stream_even_without_its_syn() -> None:
    first = Conversation().syn().send(0, STREAM).end(len(STREAM), FIN).end(0, FIN, backward=True)
    second = Conversation(isn=(2_000_000_000, 3_000_000_000)).send(0, STREAM)
    result = decode([*first.segments, *second.segments], len(first.segments))
    assert result.sequences == SEQUENCES * 2
    assert result.streams[0].coverage[0].missing == 0


def both_ways(isn: tuple[int, int], *, syn: bool) -> Conversation:
    """A conversation whose both ends speak and acknowledge, and that nobody ends."""
    talk = Conversation(isn=isn)
    if syn:
        talk.syn()
    for at in range(0, len(STREAM), 400):
        talk.send(at, STREAM[at : at + 400]).ack(min(at + 400, len(STREAM)))
        talk.send(at, STREAM[at : at + 400], backward=True)
    return talk.ack(len(STREAM), of_backward=True)


@pytest.mark.parametrize("chunk", [None, 60, 5])
@pytest.mark.parametrize("syn", [True, False])
def test_a_connection_whose_beginning_and_the_end_before_it_were_not_captured_is_another_stream(
    syn: bool, chunk: int | None
) -> None:
    first, second = both_ways((1000, 2_000_000), syn=syn), both_ways((2_000_000_000, 3_000_000_000), syn=False)
    result = decode([*first.segments, *second.segments, *both_ways((77, 88), syn=False).segments], chunk)
    assert len(result.streams) == 3
    if chunk == 5:
        return  # A segment that was alone in its chunk waited in vain behind a hole of the old connection.
    assert [result.sequences.count(sequence) for sequence in SEQUENCES] == [6] * len(SEQUENCES)
    assert sum(side.missing for stream in result.streams.streams for side in stream.coverage) == 0


def test_a_large_hole_in_one_direction_is_no_new_connection() -> None:
    talk = Conversation().syn().send(0, STREAM).ack(len(STREAM))
    again = 100 << 20
    talk.send(again, STREAM).ack(again + len(STREAM)).send(again + len(STREAM), STREAM)
    result = decode(talk.segments)
    assert len(result.streams) == 1
    assert result.streams[0].coverage[0].missing == again - len(STREAM)


def test_a_single_segment_with_odd_numbers_is_no_new_connection() -> None:
    talk = Conversation().syn().send(0, STREAM[:500])
    odd = Conversation(isn=(3_000_000_000, 1_500_000_000)).send(0, b"odd")
    rest = Conversation().send(500, STREAM[500:]).ack(len(STREAM))
    result = decode([*talk.segments, *odd.segments, *rest.segments])
    assert len(result.streams) == 1
    assert result.sequences == SEQUENCES
