"""JSON lines, CSV, chosen fields and summaries of messages made by hand."""

from __future__ import annotations

import csv
import json
from typing import Any

import numpy as np
import pytest

from dissectors.wire.congestion import bitmap_of
from dissectors.wire.extensions import EXTENSION_BYTES, CapBits, Version, build_extensions
from dissectors.wire.rds import Flags, RdsHeader
from rdstool.capture.columns import Ints, MessageBatch
from rdstool.capture.events import CmMessage, RdmaOperation
from rdstool.cli.decode_forms import TIME_FORMS
from rdstool.cli.hexdump import header_spans
from rdstool.cli.lines import LineWriter
from rdstool.errors import UsageError
from rdstool.export import csv as csv_lines
from rdstool.export import jsonl
from rdstool.export.parts import flag_names, seconds_texts
from rdstool.export.pieces import PIECE_BITMAPS, PIECE_ROWS, pieces
from rdstool.export.selected import json_lines, select, text_lines
from rdstool.export.summary import cm_words, rdma_words, summaries
from rdstool.export.times import Clock, TimeForm
from rdstool.field_columns import MessageColumns
from tests.unit.filter import sample


def columns(batch: MessageBatch | None = None) -> MessageColumns:
    return MessageColumns(batch if batch is not None else sample.batch(), sample.streams())


def every(made: MessageColumns) -> Ints:
    return np.arange(made.count)


def objects() -> list[dict[str, Any]]:
    made = columns()
    return [json.loads(line) for line in jsonl.message_lines(made, every(made))]


def words_of(header: RdsHeader, payload: bytes | None = None, **more: Any) -> str:
    batch = sample.make_batch([(header, more)], {} if payload is None else {0: payload})
    made = columns(batch)
    return summaries(made, every(made))[0]


def test_a_json_line_has_the_values_of_its_message() -> None:
    reply = objects()[7]
    assert reply == {
        "number": 8,
        "frame": 17,
        "time": 1700000000.0105,
        "transport": "ib",
        "src": "fe80::1",
        "dst": "fe80::2",
        "stream": 1,
        "path": None,
        "kind": "data",
        "sequence": 7,
        "ack": 5,
        "length": 5000,
        "sport": 5001,
        "dport": 5002,
        "flags": ["ACK_REQUIRED", "EXTHDR_EXTENSION"],
        "credit": 0,
        "checksum": 0x7052,
        "checksum_status": "good",
        "extensions": [
            {"type": "RDMA", "rkey": 0x300},
            {"type": "RDMA_BYTES", "length": 16384, "direction": 2},
        ],
        "fragments": 2,
        "complete": True,
    }


def test_keys_that_only_some_messages_have_stand_behind_the_others() -> None:
    made = objects()
    assert made[2]["congested"] == [4000, 4001]
    assert (made[9]["seen"], made[9]["inferred"]) == (1200, True)
    assert all("seen" not in line for line in made[:9])


def test_rows_that_do_not_pass_leave_the_others_as_they_are() -> None:
    made = columns()
    all_lines = jsonl.message_lines(made, every(made))
    for keep in ([2, 7, 9], [9], [], [0, 1]):
        assert jsonl.message_lines(made, np.array(keep, dtype=np.int64)) == [all_lines[row] for row in keep]


def test_extreme_values_survive() -> None:
    header = RdsHeader(2**64 - 1, 2**64 - 1, 2**32 - 1, 65535, 65535, 0xFF, 255, b"\xff" * 4, 65535, b"\xff" * 16)
    made = columns(sample.make_batch([(header, {"stream": 1, "complete": False, "seen": 0})], {}))
    line = json.loads(jsonl.message_lines(made, every(made))[0])
    assert (line["sequence"], line["ack"], line["length"]) == (2**64 - 1, 2**64 - 1, 2**32 - 1)
    assert line["extensions_problem"] == "type 255 at byte 0 is out of range"
    assert len(line["flags"]) == 8


def test_an_unknown_extension_is_told_by_its_number() -> None:
    header = RdsHeader(sequence=1, sport=5, dport=6, exthdr=b"\x0c\x05\x00\x08".ljust(EXTENSION_BYTES, b"\0"))
    made = columns(sample.make_batch([(header, {})], {}))
    line = json.loads(jsonl.message_lines(made, every(made))[0])
    assert line["extensions"] == [{"type": "UNKNOWN", "number": 12}, {"type": "NPATHS", "npaths": 8}]


def test_events_are_json_lines_with_the_same_keys_in_front() -> None:
    request, read = sample.events()
    assert isinstance(request, CmMessage)
    assert isinstance(read, RdmaOperation)
    front = ["number", "frame", "time", "transport", "src", "dst", "stream", "path", "kind"]
    cm = json.loads(jsonl.event_line(request, sample.streams()))
    assert list(cm)[: len(front)] == front
    assert (cm["kind"], cm["message"], cm["src"], cm["stream"]) == ("cm", "REQ", "10.1.0.1", None)
    assert (cm["private"]["saddr"], cm["ip"]["daddr"], cm["fields"]["local_qpn"]) == ("10.1.0.1", "10.1.0.2", 17)
    rdma = json.loads(jsonl.event_line(read, sample.streams()))
    assert list(rdma)[: len(front)] == front
    assert (rdma["kind"], rdma["src"], rdma["rkey"], rdma["length"]) == ("rdma-read", "fe80::2", 0x300, 16384)


def test_csv_rows_have_a_value_for_each_heading() -> None:
    made = columns()
    times = [str(row) for row in range(made.count)]
    text = csv_lines.HEADER + "".join(csv_lines.message_lines(made, every(made), times))
    for event in sample.events():
        assert isinstance(event, CmMessage | RdmaOperation)
        text += csv_lines.event_line(event, sample.streams(), "7")
    rows = list(csv.DictReader(text.splitlines(), strict=True))
    assert all(None not in row and None not in row.values() for row in rows)
    assert json.loads(rows[0]["extensions"])[0] == {"type": "NPATHS", "npaths": 8}
    assert rows[2]["summary"] == "ports 4000, 4001 congested"
    assert (rows[10]["kind"], rows[11]["kind"], rows[11]["length"]) == ("cm", "rdma-read", "16384")


SUMMARIES = [
    "supports 8 paths, generation 0x3fca604d",
    "supports 8 paths, generation 0x3fca604d",
    "ports 4000, 4001 congested",
    "",
    "resent",
    "",
    "",
    "message follows RDMA read of 16384 bytes with key 0x300",
    "acknowledges up to 7, grants 16 credits, header checksum wrong",
    "offers memory with key 0x400, offset 16, incomplete: 1200 of 4096 bytes captured, found by search",
]


def test_summaries_say_in_words_what_is_special() -> None:
    made = columns()
    assert summaries(made, every(made)) == SUMMARIES
    assert summaries(made, np.array([4, 9])) == [SUMMARIES[4], SUMMARIES[9]]


def test_summaries_of_rare_messages() -> None:
    bitmap = RdsHeader(length=8192, flags=Flags.CONG_BITMAP)
    assert words_of(bitmap, bitmap_of([])) == "no port congested"
    assert words_of(bitmap, bitmap_of([7])) == "port 7 congested"
    assert words_of(bitmap, bitmap_of(range(65536))) == "ports 0, 1, 2, 3, 4, 5, 6, 7 and 65528 more congested"
    assert words_of(bitmap) == "bitmap not seen whole"
    assert words_of(RdsHeader(sequence=1, sport=1)) == "single path"
    capable = build_extensions([Version(3), CapBits(1)])
    assert words_of(RdsHeader(sequence=1, sport=5, dport=6, exthdr=capable)) == "version 3, capabilities 0x1"


def test_events_are_told_in_words() -> None:
    request, read = sample.events()
    assert isinstance(request, CmMessage)
    assert isinstance(read, RdmaOperation)
    assert cm_words(request) == "RDS 3.1, queue pair 0x11"
    assert rdma_words(read) == "RDMA read of 16384 bytes at 0x1000 with key 0x300"


def test_lines_are_plain_unless_colour_is_wanted() -> None:
    made = columns()
    times = ["0"] * made.count
    plain = LineWriter(colour=False, unicode=False).messages(made, every(made), times)
    assert all(line.isascii() and "\x1b" not in line and line.endswith("\n") for line in plain)
    words = "5 0 10.0.0.1 -> 10.0.0.2 data 4001 -> 4002 seq 2 len 2000 [RETRANSMITTED] resent"
    assert " ".join(plain[4].split()) == words
    painted = LineWriter(colour=True, unicode=False).messages(made, every(made), times)
    assert "\x1b[" in painted[2]
    assert painted[3] == plain[3]


def test_flags_without_a_name_are_shown_as_numbers() -> None:
    assert flag_names(0) == []
    assert flag_names(0x06) == ["ACK_REQUIRED", "RETRANSMITTED"]
    assert flag_names(0xC1) == ["CONG_BITMAP", "0x40", "0x80"]


@pytest.mark.parametrize(
    ("times", "texts"),
    [
        ([0], ["0.000000"]),
        ([1_000], ["0.000001"]),
        ([1_700_000_000_123_456_000], ["1700000000.123456"]),
        ([1_700_000_000_123_456_789, 0], ["1700000000.123456789", "0.000000000"]),
        ([-1_500_000_000], ["-1.500000"]),
        ([-1], ["-0.000000001"]),
    ],
)
def test_times_keep_all_their_digits(times: list[int], texts: list[str]) -> None:
    assert seconds_texts(np.array(times)) == texts


def test_a_clock_remembers_what_it_counts_from() -> None:
    relative = Clock(TimeForm.RELATIVE)
    relative.started(1_000_000_000)
    relative.started(5_000_000_000)
    assert relative.texts(np.array([3_000_000_000, 500_000_000])) == ["2.000000", "-0.500000"]
    delta = Clock(TimeForm.DELTA)
    assert delta.texts(np.array([10_000, 12_000])) == ["0.000000", "0.000002"]
    assert delta.texts(np.array([15_000])) == ["0.000003"]
    assert Clock(TimeForm.UTC).texts(np.array([1_700_000_000_000_001_000])) == ["2023-11-14T22:13:20.000001Z"]


def test_chosen_fields_may_be_absent_or_occur_often() -> None:
    made = columns()
    fields = select("rds.number,rds.path,rds.congested,rds.exthdr.gen_num,rds.flags.retransmitted,rds.src")
    keep = np.array([0, 2, 8])
    assert text_lines(made, keep, fields, "\t") == [
        "1\t0\t\t0x3fca604d\t0\t10.0.0.1\n",
        "3\t0\t4000,4001\t\t0\t10.0.0.1\n",
        "9\t\t\t\t0\tfe80::2\n",
    ]
    assert text_lines(made, keep[1:2], fields, ",") == ['3,0,"4000,4001",,0,10.0.0.1\n']
    assert json.loads(json_lines(made, keep, fields)[1]) == {
        "rds.number": 3,
        "rds.path": 0,
        "rds.congested": [4000, 4001],
        "rds.exthdr.gen_num": None,
        "rds.flags.retransmitted": False,
        "rds.src": "10.0.0.1",
    }


def test_a_field_that_does_not_exist_is_named_with_the_nearest_one() -> None:
    with pytest.raises(UsageError, match=r"did you mean rds\.sequence"):
        select("rds.number,rds.sequnce")


def test_pieces_are_bounded_and_lose_nothing() -> None:
    rows = np.repeat(sample.batch().rows, 3 * PIECE_ROWS // 10 + 7)
    rows["number"] = np.arange(len(rows))
    batch = MessageBatch(rows, dict.fromkeys(range(0, len(rows), 7), b"x"), {5: "a"}, {len(rows) - 1: ()})
    made = list(pieces(batch))
    assert [number for piece in made for number in piece.rows["number"].tolist()] == list(range(len(rows)))
    assert all(len(piece) <= PIECE_ROWS for piece in made)
    assert all((piece.rows["kind"] == 1).sum() <= PIECE_BITMAPS for piece in made)
    starts = np.cumsum([0, *(len(piece) for piece in made)]).tolist()
    again = {
        start + row: value for start, piece in zip(starts, made, strict=False) for row, value in piece.payloads.items()
    }
    assert again == batch.payloads
    assert made[0].digests == {5: "a"}
    assert made[-1].rdma == {len(made[-1]) - 1: ()}
    assert list(pieces(MessageBatch(rows[:0]))) == []


def test_the_fields_of_a_header_cover_its_48_bytes() -> None:
    for row in range(10):
        header = sample.batch().rows["header"][row].tobytes()
        spans = header_spans(header)
        assert [span.start for span in spans] == [0, *(span.end for span in spans[:-1])]
        assert spans[-1].end == 48


def test_the_command_line_offers_every_form_of_time() -> None:
    assert set(TIME_FORMS) == {form.value for form in TimeForm}
