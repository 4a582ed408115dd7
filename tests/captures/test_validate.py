"""Findings on real kernels' captures against what the programs at both ends say of every message."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from rdstool.capture.pipeline import CaptureOptions, open_capture
from rdstool.validate.rule import Finding, Severity
from rdstool.validate.validator import Validator

PCAPS = Path(__file__).parents[2] / "pcaps"
NAMES = sorted(path.parent.name for path in PCAPS.glob("*/truth.json"))
ENDS = ("a", "b")
CASES = [(name, end) for name in NAMES for end in ENDS]
LIMIT = 100_000

Message = tuple[str, int, str, int, int, str]
"""Source, its port, destination, its port, length and SHA-256: what the programs know of a message."""

LOST = {"RDS-DLV-002", "RDS-DLV-004", "RDS-DLV-006", "RDS-DLV-009"}
TWICE = {"RDS-DLV-001", "RDS-DLV-005", "RDS-RTX-001"}
CERTAIN = {"RDS-DLV-001", "RDS-DLV-002", "RDS-DLV-003", "RDS-DLV-009"}
NOT_TOLD = {
    ("tcp-cut-61", "lost"): 1,
    ("tcp-reorder-61", "lost"): 2,
    ("tcp-cutlossy-61", "twice"): 2,
}
"""Messages that the capture gives no proof of: for the rest of a message's life one end's path is not known."""


@dataclass(frozen=True, slots=True)
class Checked:
    """One capture: its findings, and its messages as the programs know them."""

    findings: list[Finding]
    messages: dict[int, Message]

    def named(self, rules: set[str]) -> list[Message]:
        """The messages that findings of these rules are about."""
        found = (finding for finding in self.findings if finding.rule in rules and finding.number in self.messages)
        return [self.messages[finding.number] for finding in found if finding.number is not None]


@cache
def checked(name: str, end: str, chunk_bytes: int = CaptureOptions().chunk_bytes) -> Checked:
    messages: dict[int, Message] = {}
    found: list[Finding] = []
    options = CaptureOptions(digests=True, chunk_bytes=chunk_bytes)
    with open_capture(PCAPS / name / f"{end}.pcap.gz", options) as capture:
        validator = Validator(capture, limit=LIMIT)
        for decoded in capture.batches():
            found += validator.feed(decoded)
            for index, digest in decoded.messages.digests.items():
                row = decoded.messages.rows[index]
                header = row["header"]
                source, target = capture.streams[int(row["stream"])].ends(int(row["direction"]))
                ports = int(header["sport"]), int(header["dport"])
                key = source.host, ports[0], target.host, ports[1], int(header["length"]), digest
                messages[int(row["number"])] = key
        found += validator.finish()
    return Checked(found, messages)


@cache
def truth(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((PCAPS / name / "truth.json").read_text())
    return loaded


@cache
def delivered(name: str) -> dict[Message, int]:
    """How often each message reached the program that it was for; pings are for none."""
    return {
        (socket["ip"], socket["port"], sent["dst"], sent["dport"], sent["len"], sent["sha256"]): sent["delivered"]
        for socket in truth(name)["sockets"]
        for sent in socket["sent"]
        if sent["dport"] and "delivered" in sent
    }


def faultless(name: str) -> bool:
    """Each message reached its program once, and in order."""
    late = truth(name).get("flows_delivered_out_of_send_order", [])
    return set(delivered(name).values()) <= {1} and not late


@pytest.mark.parametrize(("name", "end"), [case for case in CASES if faultless(case[0])])
def test_a_kernel_that_keeps_its_promise_gets_notes_at_most(name: str, end: str) -> None:
    assert [one for one in checked(name, end).findings if one.severity is not Severity.NOTE] == []


@pytest.mark.parametrize(("name", "end"), CASES)
def test_kernels_break_no_rule_but_those_of_delivery(name: str, end: str) -> None:
    bad = [one for one in checked(name, end).findings if one.severity is not Severity.NOTE]
    assert {one.rule for one in bad} <= LOST | TWICE | CERTAIN


@pytest.mark.parametrize(("name", "end"), CASES)
def test_an_error_is_true(name: str, end: str) -> None:
    """What is said to be lost did not arrive; what is said to come twice did; what is said to be late was."""
    known, result = delivered(name), checked(name, end)
    assert [message for message in result.named({"RDS-DLV-002", "RDS-DLV-009"}) if known.get(message, 0)] == []
    assert [message for message in result.named({"RDS-DLV-001"}) if known.get(message, 2) < 2] == []
    late = Counter(message[:4] for message in result.named({"RDS-DLV-003"}))
    flows = truth(name).get("flows_delivered_out_of_send_order", [])
    assert late == {(flow["src"], flow["sport"], flow["dst"], flow["dport"]): flow["late"] for flow in flows}


@pytest.mark.parametrize(("name", "end"), CASES)
def test_what_a_kernel_lost_or_doubled_is_shown(name: str, end: str) -> None:
    """Each message by itself, with the frames that prove it; some cannot be told from one capture."""
    known, result = delivered(name), checked(name, end)
    on_wire = set(result.messages.values())
    lost = {message for message, times in known.items() if times == 0} & on_wire
    twice = {message for message, times in known.items() if times > 1} & on_wire
    assert len(lost - set(result.named(LOST))) <= NOT_TOLD.get((name, "lost"), 0)
    assert len(twice - set(result.named(TWICE))) <= NOT_TOLD.get((name, "twice"), 0)


@pytest.mark.parametrize("chunk_bytes", [12_007, 33_911, 61_115])
@pytest.mark.parametrize(("name", "end"), [case for case in CASES if not faultless(case[0])])
def test_findings_do_not_depend_on_how_a_capture_is_cut_into_chunks(name: str, end: str, chunk_bytes: int) -> None:
    def places(result: Checked) -> Counter[tuple[str, int]]:
        return Counter((one.rule, one.frame) for one in result.findings)

    assert places(checked(name, end, chunk_bytes)) == places(checked(name, end))


def test_evidence_names_frames_streams_and_paths() -> None:
    (first, *_) = [one for one in checked("tcp-cutsome-61", "a").findings if one.rule == "RDS-DLV-001"]
    assert first.severity is Severity.ERROR
    for words in ("sent in frame", "on stream", "path", "acknowledged in frame", "seen again in frame", "flagged"):
        assert words in first.message


def test_a_restart_is_told_from_a_reconnect() -> None:
    found = checked("tcp-restart-73", "a").findings
    assert {one.rule for one in found} == {"RDS-EXT-007"}
    assert all("restarted" in one.message for one in found)
