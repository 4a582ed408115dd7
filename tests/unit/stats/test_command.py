"""``rdstool stats`` as a person or a script runs it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from rdstool.cli.app import run
from rdstool.stats import SECTIONS
from tests.kit.tunnels import in_tunnels

CAPTURE = str(Path(__file__).parents[3] / "pcaps" / "tcp-congestion-73" / "a.pcap.gz")


def lines_of(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> list[str]:
    assert run(["stats", *arguments]) == status
    return capsys.readouterr().out.splitlines()


def records_of(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines_of(capsys, "--json", *arguments, status=status)]


def test_json_is_one_object_a_line_in_the_order_of_sections(capsys: pytest.CaptureFixture[str]) -> None:
    sections = [record["section"] for record in records_of(capsys, CAPTURE)]
    assert sections == sorted(sections, key=SECTIONS.index)
    assert "ports" not in sections


def test_frames_in_tunnels_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "inside.pcap"
    path.write_bytes(in_tunnels(gzip.decompress(Path(CAPTURE).read_bytes())))
    told = records_of(capsys, "--section", "capture", str(path))[0]
    assert told["tunnelled_frames"] == told["frames"] - told["passed_over"].get("ARP", 0)
    plain = records_of(capsys, "--section", "capture", CAPTURE)[0]
    assert plain["tunnelled_frames"] == 0
    assert told["kinds"] == plain["kinds"]
    assert f"; {told['tunnelled_frames']} in tunnels" in "\n".join(lines_of(capsys, "--section", "capture", str(path)))


def test_by_chooses_the_break_down(capsys: pytest.CaptureFixture[str]) -> None:
    sections = {record["section"] for record in records_of(capsys, "--by", "port", CAPTURE)}
    assert "ports" in sections
    assert not {"paths", "sockets"} & sections


def test_a_section_can_be_asked_for_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert {one["section"] for one in records_of(capsys, "--section", "congestion", CAPTURE)} == {"congestion"}
    asked = records_of(capsys, "--by", "path", "--section", "sockets", CAPTURE)
    assert {one["section"] for one in asked} == {"sockets"}


def test_tables_hold_the_same_figures_without_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    text = "\n".join(lines_of(capsys, CAPTURE))
    assert "217 messages (181 data, 32 congestion, 2 probe, 2 probe-reply)" in text
    assert "Congestion of ports" in text
    assert "\x1b" not in text
    assert "\n\n\n" not in text


def test_acks_list_every_message_once(capsys: pytest.CaptureFixture[str]) -> None:
    heading, *lines = lines_of(capsys, "--acks", CAPTURE)
    assert heading == "number,frame,stream,direction,path,acked_frame,latency,outcome"
    assert sorted(int(line.split(",")[0]) for line in lines) == list(range(1, 218))
    records = records_of(capsys, "--acks", CAPTURE)
    assert list(records[0]) == heading.split(",")
    assert all(record["acked_frame"] > record["frame"] and record["latency"] > 0 for record in records)


@pytest.mark.parametrize(
    "arguments",
    [["--by", "colour"], ["--section", "weather"], ["--acks", "--by", "path"], ["--acks", "--section", "rdma"]],
)
def test_wrong_use_is_told_in_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert run(["stats", *arguments, CAPTURE]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("rdstool: error: ")
    assert output.err.count("\n") == 1


def test_a_file_that_cannot_be_read_gives_no_tables(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert lines_of(capsys, str(tmp_path / "absent.pcap"), status=2) == []


def test_a_file_that_breaks_off_is_summed_up_as_far_as_it_goes(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    whole = gzip.decompress(Path(CAPTURE).read_bytes())
    broken = tmp_path / "broken.pcap"
    broken.write_bytes(whole[: len(whole) // 2])
    records = records_of(capsys, str(broken), status=2)
    assert records[0]["section"] == "capture"
    assert 0 < records[0]["messages"] < 217
