"""Every capture of a real kernel decodes to exactly the messages that its applications sent."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from rdstool.capture.columns import MESSAGE
from rdstool.capture.message import Message
from rdstool.capture.pipeline import CaptureOptions, open_capture
from rdstool.protocol.kinds import MessageKind

PCAPS = Path(__file__).parents[2] / "pcaps"
WHOLE = sorted(
    path for path in PCAPS.glob("*/[ab].pcap.gz") if "basic" in path.parent.name or "rdma" in path.parent.name
)
WHOLE += sorted(path for name in ("congestion", "lossy") for path in PCAPS.glob(f"tcp-{name}-*/[ab].pcap.gz"))
WIRE_MESSAGES = {
    "tcp-basic-61": 151,
    "tcp-basic-73": 152,
    "tcp-congestion-61": 215,
    "tcp-congestion-73": 217,
    "tcp-lossy-61": 242,
    "ib-basic-61": 150,
    "ib-basic-73": 150,
    "ib-rdma-61": 46,
    "ib-rdma-73": 45,
}
"""All RDS messages, with control."""

Flow = tuple[str, int, str, int]


def truth_of(path: Path) -> dict[str, Any]:
    """Return what the applications recorded."""
    truth: dict[str, Any] = json.loads((path.parent / "truth.json").read_text())
    return truth


def decoded(path: Path) -> list[Message]:
    """Return all messages, with hashes."""
    with open_capture(path, CaptureOptions(digests=True)) as capture:
        return list(capture)


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: f"{path.parent.name}/{path.name[0]}")
def test_messages_are_those_that_were_sent_in_their_order(path: Path) -> None:
    sent: dict[Flow, list[tuple[int, str]]] = defaultdict(list)
    for socket in truth_of(path)["sockets"]:
        for item in socket["sent"]:
            if item["dport"]:
                sent[socket["ip"], socket["port"], item["dst"], item["dport"]].append((item["len"], item["sha256"]))
    messages = decoded(path)
    seen: dict[Flow, list[tuple[int, str | None]]] = defaultdict(list)
    for message in messages:
        assert message.complete
        if message.kind is MessageKind.DATA:
            seen[message.src, message.sport, message.dst, message.dport].append((message.length, message.sha256))
    assert seen == sent
    if path.parent.name in WIRE_MESSAGES:
        assert len(messages) == WIRE_MESSAGES[path.parent.name]
    assert [message.number for message in messages] == list(range(1, len(messages) + 1))
    assert [message.frame for message in messages] == sorted(message.frame for message in messages)


@pytest.mark.parametrize(
    "path", sorted(PCAPS.glob("*/[ab].pcap.gz")), ids=lambda path: f"{path.parent.name}/{path.name[0]}"
)
def test_what_is_shown_was_sent_and_what_arrived_is_shown(path: Path) -> None:
    sent: dict[tuple[Flow, int, str], int] = defaultdict(int)
    for socket in truth_of(path)["sockets"]:
        for item in socket["sent"]:
            if item["dport"]:
                flow = socket["ip"], socket["port"], item["dst"], item["dport"]
                sent[flow, item["len"], item["sha256"]] += item["delivered"]
    shown = {
        ((message.src, message.sport, message.dst, message.dport), message.length, message.sha256)
        for message in decoded(path)
        if message.kind is MessageKind.DATA and message.complete
    }
    assert shown <= sent.keys()
    assert {key for key, delivered in sent.items() if delivered} <= shown


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: f"{path.parent.name}/{path.name[0]}")
def test_headers_stay_as_they_were_on_the_wire(path: Path) -> None:
    with open_capture(path) as capture:
        assert {decoded.messages.rows.dtype for decoded in capture.batches()} == {MESSAGE}


@pytest.mark.parametrize("name", ["tcp-basic-61", "tcp-basic-73", "tcp-lossy-61"])
def test_the_whole_stream_is_covered(name: str) -> None:
    with open_capture(PCAPS / name / "a.pcap.gz") as capture:
        assert sum(1 for _ in capture) == WIRE_MESSAGES[name]
        for stream in capture.streams.streams:
            for coverage in stream.coverage:
                assert (coverage.fraction, coverage.missing, coverage.unassigned) == (1.0, 0, 0)


@pytest.mark.parametrize("name", ["tcp-basic-73", "ib-basic-61", "tcp-lossy-61"])
def test_two_processes_decode_the_same_as_one(name: str) -> None:
    path = PCAPS / name / "a.pcap.gz"
    with open_capture(path) as one, open_capture(path, CaptureOptions(jobs=2)) as two:
        assert list(two) == list(one)
        assert two.frames == one.frames
