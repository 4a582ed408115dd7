"""A faultless capture gives no finding; one that breaks a single rule gives that rule and no other."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from dissectors.wire.stress import MESSAGE_BYTES, STRESS_MESSAGE, Op, StressMessage
from rdstool.validate.registry import RULES
from tests.kit import ib, tcp
from tests.unit.validate import ib_mutations
from tests.unit.validate.checking import findings, rules_of
from tests.unit.validate.mutations import CASES, CLEAN, Script

ON_REQUEST = {"RDS-APP-001"}


@pytest.mark.parametrize("name", CLEAN)
def test_a_faultless_capture_gives_no_finding(name: str, tmp_path: Path) -> None:
    assert findings(CLEAN[name]().write(tmp_path / "clean.pcap")) == []


@pytest.mark.parametrize(
    ("transport", "rule", "make"), CASES, ids=[f"{rule}-{transport}" for transport, rule, _ in CASES]
)
def test_one_fault_gives_exactly_its_rule(
    transport: str, rule: str, make: Callable[[], Script], tmp_path: Path
) -> None:
    expected = {rule} | (ib_mutations.ALSO.get(rule, frozenset()) if transport == "ib" else frozenset())
    assert rules_of(make().write(tmp_path / "mutated.pcap")) == expected


def test_every_rule_has_a_mutation() -> None:
    assert {rule for _, rule, _ in CASES} | ON_REQUEST == {rule.id for rule in RULES}


def stress(sequence: int, sport: int, dport: int) -> bytes:
    one, other = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
    return STRESS_MESSAGE.pack(StressMessage(sequence, one, other, sport, dport, op=Op.REQUEST))


@pytest.mark.parametrize(("sequences", "faults"), [((0, 1, 2), 0), ((0, 1, 3), 1), ((0, 0, 1), 1)])
def test_rds_stress_numbers_its_messages(sequences: tuple[int, ...], faults: int, tmp_path: Path) -> None:
    script, a, _ = tcp.single_path()
    for sequence in sequences:
        step = a.data("one", "", 4001, 7000, MESSAGE_BYTES)
        step.payload = stress(sequence, 4001, 7000)
        script.steps.append(step)
    path = script.write(tmp_path / "stress.pcap")
    assert [finding.rule for finding in findings(path, ["RDS-APP"], payloads=True)] == ["RDS-APP-001"] * faults
    assert findings(path, payloads=True) == []


def test_a_header_whose_checksum_is_wrong_acknowledges_nothing(tmp_path: Path) -> None:
    def corrupt(fragments: list[ib.Fragment]) -> None:
        raw = bytearray(fragments[0].header)
        raw[12] ^= 0x80
        fragments[0].header = bytes(raw)

    script = ib.conversation()
    script["a4"].edit = corrupt
    assert rules_of(script.write(tmp_path / "corrupt.pcap")) == {"RDS-HDR-005"}


def test_what_is_lost_in_the_capture_is_no_fault(tmp_path: Path) -> None:
    """Every message in turn is missing from the capture of a faultless conversation."""
    script = tcp.conversation()
    for index, step in enumerate(script.steps):
        if isinstance(step, tcp.Send):
            size = len(step.payload) + 48
            hole = tcp.Script(list(script.steps))
            hole.steps[index] = tcp.Lose(step.name, step.direction, size)
            found = findings(hole.write(tmp_path / "hole.pcap"))
            assert [one for one in found if one.severity != "note"] == [], step.label


def test_frames_that_were_not_captured_are_no_fault(tmp_path: Path) -> None:
    script = ib.conversation()
    for index, step in enumerate(script.steps):
        if isinstance(step, ib.Send):
            packets = sum(
                max(1, -(-(min(4096, len(step.payload) - at) + 48) // ib.MTU))
                for at in range(0, max(1, len(step.payload)), 4096)
            )
            hole = ib.Script(list(script.steps))
            hole.steps[index] = ib.Lose(step.direction, packets)
            found = findings(hole.write(tmp_path / "hole.pcap"))
            assert [one for one in found if one.severity != "note"] == [], step.label


def test_the_rules_of_the_reference_are_all_there() -> None:
    """Ids of protocol.md's appendix; they are never renumbered or used again."""
    counts = {"HDR": 12, "EXT": 11, "SEQ": 6, "RTX": 6, "ACK": 6, "CNG": 6, "MPR": 8, "TCP": 4, "CMR": 11, "FRG": 6}
    counts |= {"CRD": 4, "RDM": 6, "APP": 1}
    appendix = {f"RDS-{area}-{number:03}" for area, count in counts.items() for number in range(1, count + 1)}
    assert appendix - {rule.id for rule in RULES} == set()


def test_rules_are_written_whole() -> None:
    for rule in RULES:
        assert re.fullmatch(r"RDS-[A-Z]{3}-\d{3}", rule.id)
        assert not rule.title.endswith("."), rule.id
        for words in (rule.why, rule.kernel, rule.advice):
            assert words.endswith("."), rule.id
        assert rule.source, rule.id
    assert len({rule.id for rule in RULES}) == len(RULES)
