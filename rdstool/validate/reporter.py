"""Where rules put what they find: counted always, kept up to a limit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rdstool.validate.rule import Finding, Rule, Severity
from rdstool.validate.view import View

FINDINGS_PER_RULE = 100
"""Findings of one rule that are kept; further ones are counted."""


class Reporter:
    """Collects the findings of the rules that run."""

    def __init__(self, rules: Sequence[Rule], limit: int = FINDINGS_PER_RULE) -> None:
        self.limit = limit
        self.counts: Counter[str] = Counter()
        """Findings of each rule, kept or not."""
        self.severities: Counter[Severity] = Counter()
        self._rules = {rule.id: rule for rule in rules}
        self._kept: Counter[str] = Counter()
        self._waiting: list[Finding] = []

    def wants(self, *rules: Rule) -> bool:
        """True where one of the rules runs."""
        return any(rule.id in self._rules for rule in rules)

    def at(
        self,
        rule: Rule,
        message: str,
        frame: int,
        time: int,
        *,
        stream: int | None = None,
        number: int | None = None,
        severity: Severity | None = None,
    ) -> None:
        """Report one finding."""
        if rule.id not in self._rules:
            return
        level = severity or rule.severity
        self.counts[rule.id] += 1
        self.severities[level] += 1
        if self._kept[rule.id] >= self.limit:
            return
        self._kept[rule.id] += 1
        self._waiting.append(Finding(rule.id, level, message, frame, number, stream, time, rule.reference))

    def rows(
        self,
        rule: Rule,
        view: View,
        found: Any,
        describe: Callable[[int], str],
        severity: Severity | None = None,
    ) -> None:
        """A finding for each row that ``found`` names, by mask or index; ``describe`` tells of one row."""
        if rule.id not in self._rules:
            return
        chosen = np.asarray(found)
        indices = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen.astype(np.int64)
        if not len(indices):
            return
        room = max(0, self.limit - self._kept[rule.id])
        for index in indices[:room].tolist():
            self.at(
                rule,
                describe(index),
                int(view.frame[index]),
                int(view.time[index]),
                stream=int(view.stream[index]),
                number=int(view.number[index]),
                severity=severity,
            )
        more = len(indices) - room
        if more > 0:
            self.counts[rule.id] += more
            self.severities[severity or rule.severity] += more

    def row(self, rule: Rule, view: View, index: int, text: str, severity: Severity | None = None) -> None:
        """A finding for one row."""
        self.rows(rule, view, [index], lambda _: text, severity)

    def take(self) -> list[Finding]:
        """What was found since the last call, in the order of the capture."""
        found, self._waiting = self._waiting, []
        found.sort(key=lambda finding: finding.order)
        return found

    def withheld(self) -> dict[str, int]:
        """Rule -> findings that were counted but not kept."""
        return {rule: count - self._kept[rule] for rule, count in self.counts.items() if count > self._kept[rule]}
