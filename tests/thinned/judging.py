"""What the validator says of a capture, in terms that do not depend on where its frames stand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from rdstool.capture.pipeline import open_capture
from rdstool.validate.rule import Finding, Severity
from rdstool.validate.validator import Validator
from tests.thinned.thinning import PCAPS, Frames, thinned, whole, write

LIMIT = 100_000
FAMILIES = {
    "RDS-DLV-002": "lost",
    "RDS-DLV-004": "lost",
    "RDS-DLV-009": "lost",
    "RDS-DLV-001": "twice",
    "RDS-RTX-001": "twice",
}
"""Rules that say the same of a message with more or less certainty."""

Message = tuple[str, int, str, int, int]
"""Source, its port, destination, its port, length."""
Key = tuple[str, Message | None]


@dataclass(frozen=True, slots=True)
class Judgement:
    """Findings that are no notes, each with what it says of which message."""

    findings: list[tuple[Finding, Key]]


def judge(path: Path) -> Judgement:
    """Errors and warnings of a capture."""
    messages: dict[int, Message] = {}
    found: list[Finding] = []
    with open_capture(path) as capture:
        validator = Validator(capture, limit=LIMIT)
        for decoded in capture.batches():
            found += validator.feed(decoded)
            for row in decoded.messages.rows:
                header = row["header"]
                source, target = capture.streams[int(row["stream"])].ends(int(row["direction"]))
                ports = int(header["sport"]), int(header["dport"])
                messages[int(row["number"])] = source.host, ports[0], target.host, ports[1], int(header["length"])
        found += validator.finish()
    bad = [one for one in found if one.severity is not Severity.NOTE]
    return Judgement(
        [(one, (FAMILIES.get(one.rule, one.rule), messages.get(one.number or 0))) for one in bad]
    )  # fmt: skip


@cache
def of_whole(name: str, end: str) -> frozenset[Key]:
    """What the whole capture gives."""
    return frozenset(key for _, key in judge(PCAPS / name / f"{end}.pcap.gz").findings)


@cache
def of_truth(name: str) -> frozenset[Key]:
    """What the programs at both ends say."""
    truth = json.loads((PCAPS / name / "truth.json").read_text())
    keys: set[Key] = set()
    for socket in truth["sockets"]:
        for sent in socket["sent"]:
            message = socket["ip"], socket["port"], sent["dst"], sent["dport"], sent["len"]
            times = sent.get("delivered", 1)
            if times != 1:
                keys.add(("lost" if times == 0 else "twice", message))
    for late in truth.get("flows_delivered_out_of_send_order", []):
        keys.update(
            ("RDS-DLV-003", (late["src"], late["sport"], late["dst"], late["dport"], sent["len"]))
            for socket in truth["sockets"]
            for sent in socket["sent"]
        )
    return frozenset(keys)


def surprises(name: str, end: str, seed: int) -> tuple[str, list[Finding], Frames]:
    """What a thinned capture gives and neither the whole one nor the programs do; and how it was thinned."""
    _, frames, how = thinned(name, end, seed)
    return how, beyond(name, end, frames), frames


def beyond(name: str, end: str, frames: Frames) -> list[Finding]:
    """What these frames of a capture give and neither the whole one nor the programs do."""
    header, _ = whole(name, end)
    with TemporaryDirectory() as folder:
        found = judge(write(Path(folder) / "thinned.pcap", header, frames)).findings
    known = of_whole(name, end) | of_truth(name)
    return [finding for finding, key in found if key not in known]
