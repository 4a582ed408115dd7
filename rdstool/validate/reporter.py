"""Where rules put what they find: counted always, kept up to a limit."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from heapq import heappush, heapreplace
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from rdstool.validate.rule import Finding, Rule, Severity
from rdstool.validate.view import View

FINDINGS_PER_RULE = 100
"""Findings of one rule that are kept; further ones are counted."""


class _Waiting(NamedTuple):
    """A finding by its place, the latest in the capture first, and of those the one that was reported last."""

    frame: int
    number: int
    turn: int
    finding: Finding


class Reporter:
    """Collects the findings of the rules that run. What is kept of a rule stands before what is not."""

    def __init__(self, rules: Sequence[Rule], limit: int = FINDINGS_PER_RULE) -> None:
        self.limit = limit
        self.counts: Counter[str] = Counter()
        """Findings of each rule, kept or not."""
        self.severities: Counter[Severity] = Counter()
        self._rules = {rule.id: rule for rule in rules}
        self._taken: Counter[str] = Counter()
        self._waiting: dict[str, list[_Waiting]] = defaultdict(list)
        """Rule -> heap of what was found since the last call of ``take``, no more than may still be kept."""

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
        room = self.limit - self._taken[rule.id]
        if not room:
            return
        waiting = self._waiting[rule.id]
        finding = Finding(rule.id, level, message, frame, number, stream, time, rule.reference)
        entry = _Waiting(-frame, -(number or 0), -self.counts[rule.id], finding)
        if len(waiting) < room:
            heappush(waiting, entry)
        elif entry > waiting[0]:
            heapreplace(waiting, entry)

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
        indices = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else np.sort(chosen.astype(np.int64))
        if not len(indices):
            return
        room = self.limit - self._taken[rule.id]
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
        for rule, waiting in self._waiting.items():
            self._taken[rule] += len(waiting)
        found = [entry.finding for entry in chain.from_iterable(self._waiting.values())]
        self._waiting.clear()
        return sorted(found, key=lambda finding: (*finding.order, finding.message))

    def withheld(self) -> dict[str, int]:
        """Rule -> findings that were counted but not kept."""
        kept = self._taken + Counter({rule: len(waiting) for rule, waiting in self._waiting.items()})
        return {rule: count - kept[rule] for rule, count in self.counts.items() if count > kept[rule]}
