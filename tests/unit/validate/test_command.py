"""``rdstool validate`` on the command line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from rdstool.validate.reference import explanation
from rdstool.validate.registry import RULES
from tests.fuzz.damage import split
from tests.unit.cli.running import PCAPS, TCP, rdstool_here
from tests.unit.validate.tcp_mutations import MUTATIONS

CUT = PCAPS / "tcp-cutsome-61" / "a.pcap.gz"


def test_a_faultless_capture_is_clean() -> None:
    done = rdstool_here("validate", TCP)
    assert (done.returncode, done.stdout) == (0, "")
    assert "findings: none" in done.stderr


def test_errors_and_warnings_make_the_status_1() -> None:
    done = rdstool_here("validate", CUT)
    assert done.returncode == 1
    assert "RDS-DLV-001" in done.stdout
    assert "17 errors" in done.stderr


def test_notes_alone_leave_the_status_at_0(tmp_path: Path) -> None:
    done = rdstool_here("validate", MUTATIONS["RDS-SEQ-003"]().write(tmp_path / "gap.pcap"))
    assert done.returncode == 0
    assert "RDS-SEQ-003" in done.stdout


@pytest.mark.parametrize("option", [["--json"], ["--format", "json"]])
def test_json_is_all_that_reaches_stdout(option: list[str]) -> None:
    lines = [json.loads(line) for line in rdstool_here("validate", *option, CUT).stdout.splitlines()]
    assert {line["severity"] for line in lines} == {"error", "warning", "note"}


def test_what_is_selected_is_checked() -> None:
    done = rdstool_here("validate", "--select", "RDS-SEQ", CUT)
    assert (done.returncode, done.stdout) == (0, "")
    assert "6 rules checked" in done.stderr


def test_more_findings_than_wanted_are_counted() -> None:
    done = rdstool_here("validate", "--select", "RDS-DLV-008", "--max-findings", "2", CUT)
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert lines[-1] == "RDS-DLV-008: and 15 more"


def test_with_several_files_a_finding_names_its_own() -> None:
    first = json.loads(rdstool_here("validate", "--json", TCP, CUT).stdout.splitlines()[0])
    assert first["file"] == str(CUT)
    assert first["file_frame"] < first["frame"]


@pytest.mark.parametrize("form", ["text", "sarif", "junit"])
def test_with_several_files_the_evidence_counts_the_frames_of_each(form: str, tmp_path: Path) -> None:
    header, frames = split(gzip.decompress(CUT.read_bytes()))
    early, late = tmp_path / "early.pcap", tmp_path / "late.pcap"
    early.write_bytes(header + b"".join(frames[:400]))
    late.write_bytes(header + b"".join(frames[400:]))
    told = rdstool_here("validate", "--select", "RDS-DLV-001", "--format", form, early, late).stdout
    assert f"sent in frame 312 of {early} on stream 8, path 7 (message 96)" in told
    assert f"acknowledged in frame 379 of {early}; seen again in frame 110 on stream 9" in told
    assert "flagged, acknowledged in frame 153:" in told


@pytest.mark.parametrize("rule", [rule.id for rule in RULES])
def test_each_rule_is_explained(rule: str) -> None:
    done = rdstool_here("validate", "--explain", rule)
    assert done.returncode == 0
    for words in (rule, "Kernel: ", "What to do: ", "Source: protocol.md"):
        assert words in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [["--explain", "RDS-SEQ-002,rds-dlv-001"], ["--explain", "RDS-SEQ-002", "--explain", " RDS-DLV-001"]],
)
def test_several_rules_are_explained_in_the_order_of_their_names(arguments: list[str]) -> None:
    one, other = (rdstool_here("validate", "--explain", name).stdout for name in ("RDS-SEQ-002", "RDS-DLV-001"))
    assert rdstool_here("validate", *arguments).stdout == f"{one}\n{other}"
    told = rdstool_here("validate", *arguments, "--json").stdout.splitlines()
    assert [json.loads(line)["rule"] for line in told] == ["RDS-SEQ-002", "RDS-DLV-001"]


def test_an_explanation_fits_a_narrow_terminal() -> None:
    assert all(len(line) <= 60 for rule in RULES for line in explanation(rule, 60).splitlines())


def test_rules_are_listed_as_selected() -> None:
    listed = rdstool_here("validate", "--rules", "--select", "RDS-TCP").stdout.splitlines()
    assert [line.split()[0] for line in listed] == [f"RDS-TCP-00{number}" for number in range(1, 5)]


def test_rules_are_told_to_programs_too() -> None:
    told = [json.loads(line) for line in rdstool_here("validate", "--rules", "--json").stdout.splitlines()]
    assert [rule["rule"] for rule in told] == [rule.id for rule in RULES if not rule.on_request]
    (one,) = rdstool_here("validate", "--explain", "RDS-DLV-001", "--format", "json").stdout.splitlines()
    assert json.loads(one) in told
    assert json.loads(one)["transports"] == ["tcp", "ib"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rules", "--format", "sarif"],
        ["--explain", "RDS-DLV-001", "--format", "junit"],
        [],
        ["--select", "RDS-XYZ", str(TCP)],
        ["--explain", "RDS-SEQ"],
        ["--explain", "RDS-SEQ-002,RDS-SEQ"],
        ["--explain", ","],
        ["--format", "xml", str(TCP)],
        ["/nowhere.pcap"],
    ],
)
def test_wrong_use_says_so_in_one_line(arguments: list[str]) -> None:
    done = rdstool_here("validate", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert [line for line in done.stderr.splitlines() if line.startswith("rdstool: error: ")] != []
    assert "Traceback" not in done.stderr


def test_what_was_found_before_the_file_broke_off_is_shown(tmp_path: Path) -> None:
    whole = MUTATIONS["RDS-HDR-003"]().write(tmp_path / "whole.pcap").read_bytes()
    (tmp_path / "broken.pcap").write_bytes(whole + b"\1\2\3")
    done = rdstool_here("validate", tmp_path / "broken.pcap")
    assert done.returncode == 2
    assert "RDS-HDR-003" in done.stdout
