"""Rules are chosen as ruff chooses them: the longest prefix wins."""

from __future__ import annotations

import pytest

from rdstool.errors import UsageError
from rdstool.validate.registry import RULES, rule_of
from rdstool.validate.selection import choose


def ids(select: list[str], ignore: list[str]) -> set[str]:
    return {rule.id for rule in choose(RULES, select, ignore)}


EVERY = {rule.id for rule in RULES if not rule.on_request}
SEQUENCE = {rule for rule in EVERY if rule.startswith("RDS-SEQ")}


@pytest.mark.parametrize(
    ("select", "ignore", "chosen"),
    [
        ([], [], EVERY),
        (["ALL"], [], EVERY),
        (["RDS-SEQ"], [], SEQUENCE),
        (["rds-seq-003"], [], {"RDS-SEQ-003"}),
        (["RDS-SEQ-001,RDS-SEQ-002"], [], {"RDS-SEQ-001", "RDS-SEQ-002"}),
        (["RDS-SEQ"], ["RDS-SEQ-003"], SEQUENCE - {"RDS-SEQ-003"}),
        (["RDS-SEQ-003"], ["RDS-SEQ"], {"RDS-SEQ-003"}),
        (["RDS-SEQ"], ["RDS-SEQ"], set()),
        ([], ["RDS"], set()),
        (["RDS-APP"], [], {"RDS-APP-001"}),
        (["ALL", "RDS-APP"], [], EVERY | {"RDS-APP-001"}),
    ],
)
def test_the_longest_prefix_wins(select: list[str], ignore: list[str], chosen: set[str]) -> None:
    assert ids(select, ignore) == chosen


def test_an_unknown_rule_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match="did you mean RDS-SEQ-003"):
        choose(RULES, ["RDS-SEQ-0O3"])


def test_one_rule_is_found_in_any_case() -> None:
    assert rule_of("rds-hdr-001").id == "RDS-HDR-001"


def test_an_area_is_not_a_rule() -> None:
    with pytest.raises(UsageError, match="is an area"):
        rule_of("RDS-HDR")
