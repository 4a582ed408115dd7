"""``rdstool decode`` on captures of real kernels."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import re
import subprocess
from datetime import datetime
from decimal import Decimal
from importlib import import_module
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.damage import split
from tests.unit.cli.running import COMMAND, CONGESTION, PCAPS, RDMA, ROOT, TCP, lines, rdstool_here

KEYS: dict[str, tuple[type, ...]] = {
    "number": (int,),
    "frame": (int,),
    "time": (float,),
    "transport": (str,),
    "src": (str,),
    "dst": (str,),
    "stream": (int,),
    "path": (int, type(None)),
    "kind": (str,),
    "sequence": (int,),
    "ack": (int,),
    "length": (int,),
    "sport": (int,),
    "dport": (int,),
    "flags": (list,),
    "credit": (int,),
    "checksum": (int,),
    "checksum_status": (str,),
    "extensions": (list,),
    "fragments": (int,),
    "complete": (bool,),
}
"""The keys that are promised, in their order."""


def objects(*arguments: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines("decode", "--json", *arguments)]


@pytest.mark.parametrize("capture", sorted(PCAPS.glob("*/a.pcap.gz")), ids=lambda path: path.parent.name)
def test_json_lines_keep_the_contract(capture: Path) -> None:
    number = 0
    frame = 0
    for line in objects("--hash", capture):
        assert line["frame"] >= frame
        frame = line["frame"]
        if line["kind"] == "cm":
            assert line["number"] is None
            assert line["transport"] == "ib"
            continue
        number += 1
        assert line["number"] == number
        assert list(line)[: len(KEYS)] == list(KEYS)
        for key, kinds in KEYS.items():
            assert type(line[key]) in kinds, key
        assert line["checksum_status"] in {"absent", "good", "bad"}
        assert re.fullmatch("[0-9a-f]{64}", line["sha256"]) if line["complete"] else "sha256" not in line
    assert number > 0


def test_every_message_that_an_application_sent_is_there_with_its_hash() -> None:
    truth = json.loads((TCP.parent / "truth.json").read_text())
    sent = sorted(
        (message["sha256"], message["len"], message["dport"])
        for socket in truth["sockets"]
        for message in socket["sent"]
        if message["dport"]
    )
    shown = sorted(
        (line["sha256"], line["length"], line["dport"]) for line in objects("--hash", TCP) if line["kind"] == "data"
    )
    assert shown == sent


def test_extensions_of_a_probe_are_objects_with_type_and_values() -> None:
    probe = objects("-Y", "rds.kind == probe", "--count", "1", TCP)[0]
    assert probe["extensions"][0] == {"type": "NPATHS", "npaths": 8}
    assert [item["type"] for item in probe["extensions"]] == ["NPATHS", "GEN_NUM", "SPORT_IDX"]


def test_messages_of_rdma_cm_are_lines_of_their_own_with_their_private_data() -> None:
    request = objects(RDMA)[0]
    assert (request["kind"], request["message"]) == ("cm", "REQ")
    assert (request["private"]["major"], request["private"]["minor"]) == (3, 1)
    assert request["private"]["saddr"] == request["src"]


@pytest.mark.parametrize("command", ["decode", "validate", "stats"])
@pytest.mark.parametrize(("capture", "size"), [(TCP, 96), (RDMA, 96), (TCP, 50)])
def test_a_capture_whose_frames_are_too_short_for_rds_says_so(
    command: str, capture: str | Path, size: int, tmp_path: Path
) -> None:
    header, frames = split(gzip.decompress(Path(capture).read_bytes()))
    cut = [frame[:8] + min(size, len(frame) - 16).to_bytes(4, "little") + frame[12 : 16 + size] for frame in frames]
    path = tmp_path / "short.pcap"
    path.write_bytes(header + b"".join(cut))
    done = rdstool_here(command, str(path))
    assert done.returncode == 0
    assert "cut short by the capture; 192 bytes of each hold all headers" in done.stderr
    assert "--tcp-port" not in done.stderr


def test_congested_ports_are_named() -> None:
    bitmaps = objects("-Y", "rds.congested", CONGESTION)
    assert bitmaps
    assert all(line["congested"] for line in bitmaps)
    words = lines("decode", "-Y", "rds.congested", CONGESTION)
    assert f"port {bitmaps[0]['congested'][0]} congested" in words[0]


def test_a_line_holds_what_tshark_would_show() -> None:
    text = lines("decode", "-Y", "rds.kind == probe", "--count", "1", TCP)[0]
    line = objects("-Y", "rds.kind == probe", "--count", "1", TCP)[0]
    generation = line["extensions"][1]["gen_num"]
    pattern = (
        rf" *{line['number']} +\d+\.\d{{6}} +{line['src']} → {line['dst']} +probe +1 → 0 +seq {line['sequence']} +len 0"
        rf"  supports 8 paths, generation {generation:#x}"
    )
    assert re.fullmatch(pattern, text)


def test_a_message_behind_rdma_says_what_was_moved() -> None:
    text = "\n".join(lines("decode", "-Y", "rds.exthdr.rdma", RDMA))
    assert "message follows RDMA write of 512 bytes with key 0x300" in text
    assert "message follows RDMA read of 8192 bytes with key 0x800" in text


def test_rdma_operations_are_lines_where_asked_for() -> None:
    assert not [line for line in objects(RDMA) if line["kind"].startswith("rdma-")]
    found = objects("--rdma", "-Y", "rds.rdma.kind", RDMA)
    assert {line["kind"] for line in found} == {"rdma-read", "rdma-write"}
    truth = json.loads((RDMA.parent / "truth.json").read_text())
    # An operation of an application can be several on the wire.
    for kind, operation in (("rdma-read", "read"), ("rdma-write", "write")):
        moved = sum(line["length"] for line in found if line["kind"] == kind)
        assert moved == sum(asked["bytes"] for asked in truth["rdma"] if asked["op"] == operation)


def test_the_tree_names_every_header_field_with_its_meaning() -> None:
    text = "\n".join(lines("decode", "-V", "-Y", "rds.exthdr.npaths", "--count", "1", TCP))
    for name in ("rds.sequence", "rds.flags.retransmitted", "rds.exthdr.npaths", "rds.exthdr.gen_num", "rds.path"):
        assert re.search(rf"^ +{name} +\S+ +\S", text, re.MULTILINE), name
    assert re.search(r"rds.path +0 .*confidence", text)


def test_the_hex_dump_shows_the_bytes_of_the_wire() -> None:
    text = lines("decode", "-x", "-Y", "rds.sequence == 1 and rds.length == 5", RDMA)
    assert text[1].startswith("000000  00 00 00 00 00 00 00 01")
    assert text[-2].startswith("000030  68 65 6c 6c 6f ")
    assert text[-2].endswith("hello")
    assert "20-21 rds.sport" in text[4]


def test_csv_has_the_columns_of_the_json_lines() -> None:
    rows = list(csv.DictReader(lines("decode", "--csv", "--hash", RDMA)))
    expected = objects("--hash", RDMA)
    assert len(rows) == len(expected)
    for row, line in zip(rows, expected, strict=True):
        if line["kind"] == "cm":
            assert (row["kind"], row["number"]) == ("cm", "")
            continue
        assert row["number"] == str(line["number"])
        assert row["flags"] == "|".join(line["flags"])
        assert json.loads(row["extensions"]) == line["extensions"]
        assert row["sha256"] == line["sha256"]
        assert float(row["time"]) == line["time"]


def test_parquet_holds_what_json_holds(tmp_path: Path) -> None:
    parquet = import_module("pyarrow.parquet")
    out = tmp_path / "out.parquet"
    done = rdstool_here("decode", "--parquet", out, "--hash", TCP)
    assert (done.returncode, done.stdout) == (0, "")
    rows = parquet.read_table(out).to_pylist()
    expected = objects("--hash", TCP)
    assert len(rows) == len(expected)
    for row, line in zip(rows, expected, strict=True):
        same = ("number", "frame", "transport", "src", "dst", "stream", "path", "kind", "sequence", "length", "sha256")
        assert {key: row[key] for key in same} == {key: line[key] for key in same}
        assert json.loads(row["extensions"]) == line["extensions"]


def test_chosen_fields_come_tab_separated_as_tshark_writes_them() -> None:
    text = lines("decode", "-e", "frame.number,rds.port,rds.exthdr.gen_num,rds.flags", "-Y", "rds.kind == probe", TCP)
    line = objects("-Y", "rds.kind == probe", TCP)[0]
    assert text[0] == f"{line['frame']}\t1,0\t{line['extensions'][1]['gen_num']:#010x}\t0x00"


def test_chosen_fields_are_the_only_keys_and_may_leave_out_the_prefix() -> None:
    fields = objects("--fields", "sequence,rds.exthdr.npaths,rds.port", "-Y", "rds.kind == probe", "-c", "1", TCP)
    assert fields == [{"sequence": 1, "rds.exthdr.npaths": 8, "rds.port": [1, 0]}]
    rows = lines("decode", "--csv", "--fields", "sequence,rds.port", "-Y", "rds.kind == probe", "-c", "1", TCP)
    assert rows == ["sequence,rds.port", '1,"1,0"']


def test_payload_fields_bring_the_payload() -> None:
    line = objects("--hash", "-Y", "rds.kind == data and rds.length == 48", "-c", "1", TCP)[0]
    text = lines("decode", "-e", "rds.payload", "-Y", f"rds.number == {line['number']}", TCP)[0]
    assert hashlib.sha256(bytes.fromhex(text)).hexdigest() == line["sha256"]


def test_hashes_stand_in_lines_and_can_be_chosen_and_filtered_on() -> None:
    line = objects("--hash", "-Y", "rds.kind == data and rds.length == 48", "-c", "1", TCP)[0]
    assert lines("decode", "--hash", "-Y", f"rds.number == {line['number']}", TCP)[0].endswith(line["sha256"])
    found = lines("decode", "-e", "rds.number,rds.sha256", "-Y", f'rds.sha256 == "{line["sha256"]}"', TCP)
    assert f"{line['number']}\t{line['sha256']}" in found


@pytest.mark.parametrize("form", [(), ("--json",), ("--fields", "rds.ack")])
def test_a_filter_that_nothing_passes_is_told_on_stderr(form: tuple[str, ...]) -> None:
    done = rdstool_here("decode", *form, "-Y", "rds.length == 1234567", TCP)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"0 of {len(objects(TCP))} messages passed the filter\n"


def test_a_filter_that_only_a_message_of_rdma_cm_passes_is_not_called_empty() -> None:
    assert len(lines("decode", "-Y", 'rds.cm.message == "REQ"', RDMA)) > 0


@pytest.mark.parametrize("text", ["rds_rdma", "rds.rdma.length > 0", "rds.kind == rdma-read or rds.kind == rdma-write"])
def test_a_filter_that_only_rdma_operations_pass_tells_how_to_see_them(text: str) -> None:
    done = rdstool_here("decode", "-Y", text, RDMA)
    assert done.stderr == "0 of 45 messages passed the filter; 28 RDMA operations did, which --rdma shows\n"
    assert len(lines("decode", "--rdma", "-Y", text, RDMA)) == 28


def test_count_ends_after_so_many_lines() -> None:
    assert len(lines("decode", "--count", "7", TCP)) == 7
    assert len(lines("decode", "-c", "2", "-Y", "rds.length > 4096", TCP)) == 2
    assert len(lines("decode", "-c", "2", RDMA)) == 2


def times(form: str, *arguments: str | Path) -> list[str]:
    return [line.split()[1] for line in lines("decode", "--time", form, *arguments, TCP)]


def test_times_come_in_five_forms() -> None:
    stamps = times("epoch")
    assert [float(stamp) for stamp in stamps] == [line["time"] for line in objects(TCP)]
    moments = [Decimal(stamp) for stamp in stamps]
    relative = [Decimal(text) for text in times("relative")]
    assert {moment - shown for moment, shown in zip(moments, relative, strict=True)} == {moments[0] - relative[0]}
    assert [Decimal(text) for text in times("delta")] == [0, *(later - sooner for sooner, later in pairwise(moments))]
    for form in ("utc", "local"):
        dates = [datetime.fromisoformat(text) for text in times(form)]
        assert [f"{date.timestamp():.6f}" for date in dates] == stamps


def test_relative_times_count_from_the_first_frame_of_the_capture_as_in_wireshark() -> None:
    """That frame is of ICMPv6 in this capture, two seconds before the first of RDS."""
    assert times("relative")[0] == "2.109376"
    assert times("relative", "-Y", "rds.number == 20") == [times("relative")[19]]
    shown = lines("decode", "-e", "frame.time_relative", TCP)
    assert [float(text) for text in shown] == [float(text) for text in times("relative")]
    passed = lines("decode", "-Y", "frame.time_relative >= 2.113 and frame.time_relative < 3", TCP)
    assert [line.split()[1] for line in passed] == [text for text in times("relative") if 2.113 <= float(text) < 3]


def test_relative_times_of_several_files_count_from_the_first_frame_of_the_first() -> None:
    later = objects(CONGESTION)[0]["time"] - objects(TCP)[0]["time"]
    shown = lines("decode", TCP, CONGESTION)[len(objects(TCP))].split()[1]
    assert float(shown) == pytest.approx(later + 2.109376)


def test_with_several_files_each_line_and_row_names_its_own() -> None:
    shown = objects("--rdma", TCP, RDMA)
    alone = {str(file): objects("--rdma", file) for file in (TCP, RDMA)}
    own = [(file, line["frame"], line["kind"]) for file, lines_of_file in alone.items() for line in lines_of_file]
    assert [(line["file"], line["file_frame"], line["kind"]) for line in shown] == own
    assert {"cm", "rdma-write", "data"} <= {line["kind"] for line in shown}
    assert shown[-1]["frame"] > shown[-1]["file_frame"]
    rows = list(csv.DictReader(lines("decode", "--rdma", "--csv", TCP, RDMA)))
    assert [(row["file"], int(row["file_frame"]), row["kind"]) for row in rows] == own
    assert "file" not in lines("decode", "--csv", TCP)[0].split(",")


def test_presence_of_a_flag_is_warned_about_and_carried_out() -> None:
    done = rdstool_here("decode", "-Y", "rds.flags.retransmitted", TCP)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == len(objects(TCP))
    assert done.stderr.startswith("rdstool: warning: filter: rds.flags.retransmitted is in every message")


def test_another_tcp_port_is_read_where_asked_for(tmp_path: Path) -> None:
    moved = tmp_path / "moved.pcap"
    moved.write_bytes(gzip.decompress(TCP.read_bytes()).replace((16385).to_bytes(2, "big"), (17000).to_bytes(2, "big")))
    assert rdstool_here("decode", moved).stdout == ""
    assert len(lines("decode", "--tcp-port", "17000", moved)) == len(lines("decode", TCP))


def test_fields_lists_what_filters_know() -> None:
    assert any(line.startswith("rds.exthdr.npaths ") for line in lines("fields", "npaths"))
    names = [json.loads(line)["name"] for line in lines("fields", "--json")]
    assert len(names) == len(set(names)) > 100


def test_parquet_goes_to_standard_output_and_into_what_is_no_file(tmp_path: Path) -> None:
    parquet = import_module("pyarrow.parquet")
    out = tmp_path / "out.parquet"
    assert rdstool_here("decode", "--parquet", out, TCP).returncode == 0
    expected = parquet.read_table(out)
    piped = subprocess.run([*COMMAND, "decode", "--parquet", "-", TCP], capture_output=True, check=True, cwd=ROOT)
    assert parquet.read_table(BytesIO(piped.stdout)) == expected
    assert piped.stderr.endswith(b"written to standard output\n")
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = subprocess.Popen(["cat", fifo], stdout=subprocess.PIPE)
    assert rdstool_here("decode", "--parquet", fifo, TCP).returncode == 0
    assert parquet.read_table(BytesIO(reader.communicate()[0])) == expected
    assert fifo.is_fifo()


def test_parquet_that_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    done = rdstool_here("decode", "--parquet", "/proc/none", TCP)
    assert done.stderr == "rdstool: error: /proc/none: No such file or directory; name another file for --parquet\n"
    full = tmp_path / "full"
    full.symlink_to("/dev/full")
    done = rdstool_here("decode", "--parquet", full, TCP)
    assert done.returncode == 2
    assert done.stderr.startswith("rdstool: error: No space left on device; ")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
    assert full.is_char_device()


def test_parquet_never_overwrites_a_capture_or_a_result_with_nothing(tmp_path: Path) -> None:
    capture = tmp_path / "capture.pcap.gz"
    capture.write_bytes(TCP.read_bytes())
    assert rdstool_here("decode", "--parquet", capture, capture).returncode == 2
    assert capture.read_bytes() == TCP.read_bytes()
    result = tmp_path / "result.parquet"
    result.write_bytes(b"a result")
    assert rdstool_here("decode", "--parquet", result, tmp_path / "none.pcap").returncode == 2
    assert result.read_bytes() == b"a result"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["capture.pcap.gz", "result.parquet"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("decode", "-", "-"), "standard input (-) can be read only once; name it once"),
        (("stats", "-", TCP, "-"), "standard input (-) can be read only once; name it once"),
        (("decode", "--hash", "-e", "rds.length", TCP), "name rds.sha256 among the --fields"),
        (("decode", "--rdma", "--parquet", "-", TCP), "that file is of messages alone"),
        (("validate", "--json", "--format", "sarif", TCP), "--json and --format sarif exclude each other"),
    ],
)
def test_what_would_be_passed_over_in_silence_is_wrong_use(arguments: tuple[str | Path, ...], said: str) -> None:
    done = rdstool_here(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_field_is_listed_by_its_other_name_to_programs_too() -> None:
    assert lines("fields", "ip.addr")[-1].endswith("the same as rds.addr")
    assert [json.loads(line)["name"] for line in lines("fields", "ip.addr", "--json")] == ["rds.addr"]
