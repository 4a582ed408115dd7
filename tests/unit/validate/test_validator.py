"""The validator as a whole: it takes batches of any size, bounds what it keeps, and writes what it found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from rdstool.capture.columns import MessageBatch
from rdstool.capture.events import Event
from rdstool.capture.pipeline import Capture, CaptureOptions, Decoded, open_capture
from rdstool.validate.formats import Format, JsonFormat, SarifFormat, TextFormat
from rdstool.validate.junit import JunitFormat
from rdstool.validate.reference import page
from rdstool.validate.registry import RULES
from rdstool.validate.reporter import Reporter
from rdstool.validate.rule import Finding, Severity
from rdstool.validate.validator import Validator
from tests.kit import ib, tcp
from tests.unit.validate import delivery_mutations, ib_mutations, tcp_mutations

ROOT = Path(__file__).parents[3]
PCAPS = ROOT / "pcaps"


def in_parts(decoded: Decoded, size: int) -> list[Decoded]:
    """The same, a few rows at a time, with what stands before them."""
    rows, parts = decoded.messages.rows, []
    events, acks, fragments = list(decoded.events), decoded.acks, decoded.fragments
    for start in range(0, max(1, len(rows)), size):
        stop = min(start + size, len(rows))
        last = stop >= len(rows)
        until = np.inf if last else int(rows[stop]["frame"])
        now: list[Event] = [event for event in events if event.frame < until]
        events = [event for event in events if event.frame >= until]
        some = acks[acks["frame"] < until]
        acks = acks[acks["frame"] >= until]
        owner = fragments["message"]
        mine = fragments[((owner >= start) & (owner < stop)) | ((owner < 0) & (start == 0))].copy()
        mine["message"] = np.maximum(mine["message"] - start, -1)
        messages = MessageBatch(
            rows[start:stop],
            {index - start: value for index, value in decoded.messages.payloads.items() if start <= index < stop},
            {},
            {index - start: value for index, value in decoded.messages.rdma.items() if start <= index < stop},
        )
        parts.append(Decoded(messages, some, now, 0, mine))
    return parts


def run(capture: Capture, batches: list[Decoded], limit: int = 1000) -> tuple[list[Finding], Validator]:
    validator = Validator(capture, limit=limit)
    found = [finding for decoded in batches for finding in validator.feed(decoded)]
    found += validator.finish()
    return sorted(found, key=lambda finding: (finding.order, finding.message)), validator


@pytest.mark.parametrize("size", [1, 7])
@pytest.mark.parametrize(
    "name", ["tcp-cutsome-61", "tcp-reorder-61", "tcp-congestion-73", "ib-reconnect-73", "ib-rdma-73"]
)
def test_the_size_of_batches_does_not_matter(name: str, size: int) -> None:
    with open_capture(PCAPS / name / "a.pcap.gz") as capture:
        batches = list(capture.batches())
        whole, _ = run(capture, batches)
        parts, _ = run(capture, [part for decoded in batches for part in in_parts(decoded, size)])
    assert parts == whole


MUTATIONS: dict[str, Callable[[], tcp.Script | ib.Script]] = {
    **ib_mutations.MUTATIONS,
    **tcp_mutations.MUTATIONS,
    **delivery_mutations.MUTATIONS,
}


@pytest.mark.parametrize("rule", sorted(MUTATIONS))
def test_a_fault_is_found_row_by_row_too(rule: str, tmp_path: Path) -> None:
    with open_capture(MUTATIONS[rule]().write(tmp_path / "mutated.pcap")) as capture:
        batches = list(capture.batches())
        whole, _ = run(capture, batches)
        parts, _ = run(capture, [part for decoded in batches for part in in_parts(decoded, 1)])
    assert {finding.rule for finding in parts} == {finding.rule for finding in whole}


@pytest.mark.parametrize("size", [1, 1000])
def test_an_acknowledgement_that_goes_back_is_told_once(size: int, tmp_path: Path) -> None:
    script = ib.conversation()
    script.change("a4", ack=1)
    script.change("a5", ack=1)
    with open_capture(script.write(tmp_path / "back.pcap")) as capture:
        found, _ = run(capture, [part for decoded in capture.batches() for part in in_parts(decoded, size)])
    assert [one.message for one in found if one.rule == "RDS-ACK-001"] == ["h_ack is 1 after 2"]


def padded(count: int) -> tcp.Script:
    """A conversation whose last messages all have padding."""
    script = tcp.conversation()
    for label in ("a2.1", "a2.2", "a2.3", "a2.4")[:count]:
        script.change(label, padding=b"\1\0\0\0")
    return script


def test_findings_beyond_the_limit_are_counted_not_kept(tmp_path: Path) -> None:
    with open_capture(padded(4).write(tmp_path / "padded.pcap")) as capture:
        found, validator = run(capture, list(capture.batches()), limit=1)
    assert [finding.rule for finding in found] == ["RDS-HDR-003"]
    assert validator.counts == {"RDS-HDR-003": 4}
    assert validator.severities[Severity.WARNING] == 4
    assert validator.withheld == {"RDS-HDR-003": 3}


def test_the_findings_of_a_rule_that_are_kept_are_the_earliest_in_the_capture() -> None:
    rule = RULES[0]
    report = Reporter(RULES, limit=3)
    for frame in (9, 4, 4, 7, 2, 8):
        report.at(rule, f"frame {frame}", frame, 0)
    assert [finding.frame for finding in report.take()] == [2, 4, 4]
    assert report.withheld() == {rule.id: 3}
    report.at(rule, "no more is taken back", 1, 0)
    assert (report.take(), report.withheld()) == ([], {rule.id: 4})


def test_notes_alone_are_no_failure(tmp_path: Path) -> None:
    for label, expected in (("RDS-SEQ-003", False), ("RDS-SEQ-001", True)):
        with open_capture(tcp_mutations.MUTATIONS[label]().write(tmp_path / "one.pcap")) as capture:
            _, validator = run(capture, list(capture.batches()))
        assert validator.failed is expected


@pytest.fixture
def two_findings(tmp_path: Path) -> list[Finding]:
    with open_capture(padded(2).write(tmp_path / "two.pcap"), CaptureOptions()) as capture:
        found, _ = run(capture, list(capture.batches()))
    return found


def label(frame: int) -> tuple[str, int]:
    return "dir/<one>.pcap", frame


def plain(text: str, _: str) -> str:
    return text


def written(form: Format, found: list[Finding]) -> str:
    return "".join(map(form.finding, found)) + form.end({"RDS-HDR-003": 5})


def test_text_has_a_line_for_each(two_findings: list[Finding]) -> None:
    lines = written(TextFormat(RULES, None, plain), two_findings).splitlines()
    assert len(lines) == 3
    told = "warning RDS-HDR-003  Padding bytes of the header are not zero: padding is "
    assert all(told in line for line in lines[:2])
    assert lines[2] == "RDS-HDR-003: and 5 more"


def test_json_has_the_keys_of_the_contract(two_findings: list[Finding]) -> None:
    lines = [json.loads(line) for line in written(JsonFormat(RULES, None), two_findings).splitlines()]
    keys = {"rule", "severity", "title", "message", "frame", "number", "stream", "time", "reference"}
    assert [set(line) for line in lines] == [keys, keys]
    assert lines[0]["severity"] == "warning"
    assert lines[0]["title"] == "Padding bytes of the header are not zero"
    assert lines[0]["time"] == pytest.approx(1_700_000_000, abs=10)


def test_sarif_names_rules_files_and_frames(two_findings: list[Finding]) -> None:
    document: dict[str, Any] = json.loads(written(SarifFormat(RULES, label, "1.0"), two_findings))
    (run_,) = document["runs"]
    assert document["version"] == "2.1.0"
    rules = run_["tool"]["driver"]["rules"]
    for result, finding in zip(run_["results"], two_findings, strict=True):
        assert result["message"]["text"].startswith("Padding bytes of the header are not zero: padding is ")
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"] == finding.rule
        place = result["locations"][0]
        assert place["physicalLocation"]["artifactLocation"]["uri"] == "dir/<one>.pcap"
        assert f"frame {finding.frame}" in place["logicalLocations"][0]["name"]


def test_junit_has_a_case_for_each_rule(two_findings: list[Finding]) -> None:
    root = ET.fromstring(written(JunitFormat(RULES, label), two_findings))  # noqa: S314
    assert int(root.attrib["tests"]) == len(RULES) == len(root.findall(".//testcase"))
    (failure,) = root.findall(".//failure")
    assert failure.attrib["message"] == "7 findings"
    assert "dir/<one>.pcap" in (failure.text or "")


def test_the_reference_is_current() -> None:
    """``python -m rdstool.validate.reference > docs/rules.md`` makes it."""
    assert (ROOT / "docs" / "rules.md").read_text() == page()


def test_connections_beyond_the_limit_are_counted_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rdstool.validate.rules.delivery.check.MAX_FOLLOWED", 0)
    with open_capture(tcp_mutations.again().write(tmp_path / "again.pcap")) as capture:
        found, validator = run(capture, list(capture.batches()))
    assert validator.not_followed == len(capture.streams)
    assert not [finding for finding in found if finding.rule.startswith("RDS-DLV")]


def test_messages_are_not_followed_over_holes(tmp_path: Path) -> None:
    script = delivery_mutations.MUTATIONS["RDS-DLV-002"]()
    script.after("a1.1", tcp.Lose("x1", 0, 100))
    with open_capture(script.write(tmp_path / "hole.pcap")) as capture:
        found, validator = run(capture, list(capture.batches()))
    assert validator.not_whole == len(capture.streams)
    assert not [finding for finding in found if finding.rule.startswith("RDS-DLV")]
