"""Findings as one JUnit document."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from rdstool.validate.formats import FrameLabel, evidence_in, printable
from rdstool.validate.registry import AREAS
from rdstool.validate.rule import Finding, Rule, Severity


class JunitFormat:
    """One JUnit document: a suite for each area, a case for each rule. Notes are no failures."""

    def __init__(self, rules: Sequence[Rule], label: FrameLabel) -> None:
        self._rules = rules
        self._label = label
        self._found: dict[str, list[Finding]] = {}

    def finding(self, finding: Finding) -> str:
        """Keep it for the document."""
        self._found.setdefault(finding.rule, []).append(finding)
        return ""

    def end(self, withheld: dict[str, int]) -> str:
        """Write the document."""
        suites = "".join(self._suite(area, withheld) for area in AREAS)
        failures = sum(bool(self._failures(rule)) for rule in self._rules)
        head = f'<testsuites name="rdstool validate" tests="{len(self._rules)}" failures="{failures}">\n'
        return f'<?xml version="1.0" encoding="UTF-8"?>\n{head}{suites}</testsuites>\n'

    def _failures(self, rule: Rule) -> list[Finding]:
        return [finding for finding in self._found.get(rule.id, ()) if finding.severity is not Severity.NOTE]

    def _suite(self, area: str, withheld: dict[str, int]) -> str:
        rules = [rule for rule in self._rules if rule.area == area]
        if not rules:
            return ""
        failures = sum(bool(self._failures(rule)) for rule in rules)
        cases = "".join(self._case(rule, withheld.get(rule.id, 0)) for rule in rules)
        name = _quoted(f"{area} {AREAS[area]}")
        return f'<testsuite name={name} tests="{len(rules)}" failures="{failures}">\n{cases}</testsuite>\n'

    def _case(self, rule: Rule, more: int) -> str:
        found = self._found.get(rule.id, [])
        lines = [self._line(finding) for finding in found] + ([f"and {more} more"] if more else [])
        text = escape("\n".join(lines))
        head = f"<testcase classname={_quoted(rule.area)} name={_quoted(f'{rule.id} {rule.title}')}"
        if self._failures(rule):
            worst = min((finding.severity for finding in found), key=lambda severity: severity.rank)
            message = _quoted(f"{len(found) + more} findings")
            return f"{head}><failure type={_quoted(worst.value)} message={message}>{text}</failure></testcase>\n"
        return f"{head}><system-out>{text}</system-out></testcase>\n" if found else f"{head}/>\n"

    def _line(self, finding: Finding) -> str:
        file, frame = self._label(finding.frame)
        return f"{file}: frame {frame}: {finding.severity.value}: {printable(evidence_in(finding, self._label))}"


def _quoted(text: str) -> str:
    """An XML attribute's value. ``html.escape`` writes what XML takes too, and is loaded sooner than ``xml.sax``."""
    return f'"{escape(text)}"'
