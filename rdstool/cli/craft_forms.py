"""The forms that scenarios are told in: lines of text, JSON lines and JUnit."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, Protocol

from rdstool.cli.output import Results, json_line
from rdstool.protocol.kinds import Transport

if TYPE_CHECKING:
    from rdstool.craft.judge import Line, Verdict
    from rdstool.craft.scenario import Scenario

FORMATS = ("text", "json", "junit")


class Teller(Protocol):
    """Tells what happens, as it happens or at the end."""

    def begin(self, scenario: Scenario) -> None:
        """A scenario begins."""

    def line(self, scenario: Scenario, line: Line) -> None:
        """Something happened."""

    def end(self, verdict: Verdict, *, passed: bool) -> None:
        """A scenario has ended."""

    def finish(self) -> None:
        """All have."""


class TextTeller:
    """For people."""

    def __init__(self, results: Results, *, quiet: bool) -> None:
        self._results = results
        self._quiet = quiet

    def begin(self, scenario: Scenario) -> None:
        """The scenario's heading."""
        if not self._quiet:
            self._results.write(f"{scenario.id}: {scenario.title}\n")

    def line(self, _scenario: Scenario, line: Line) -> None:
        """Something happened."""
        if not self._quiet:
            self._results.write(_told(line))

    def end(self, verdict: Verdict, *, passed: bool) -> None:
        """How it ended."""
        scenario = verdict.scenario
        if not verdict.difference:
            self._results.write(f"{scenario.id}: passed\n")
            return
        self._results.write(
            f"{scenario.id}: {'differs' if passed else 'failed'}: {scenario.file}:{verdict.line}: "
            f"{verdict.difference}. {scenario.requirement} ({scenario.source})\n"
        )

    def finish(self) -> None:
        """All is told."""


class JsonTeller:
    """For programs."""

    def __init__(self, results: Results) -> None:
        self._results = results

    def begin(self, scenario: Scenario) -> None:
        """Nothing: each line names its scenario."""

    def line(self, scenario: Scenario, line: Line) -> None:
        """Something happened."""
        event = {"->": "sent", "<-": "received"}.get(line.arrow, "expected")
        told: dict[str, Any] = {"event": event, "scenario": scenario.id, "time": round(line.time_s, 6)}
        more = {"path": line.path, "line": line.line, "text": line.text, "verdict": line.verdict or None}
        self._results.write(json_line({**told, **more}))

    def end(self, verdict: Verdict, *, passed: bool) -> None:
        """How it ended."""
        scenario = verdict.scenario
        told: dict[str, Any] = {"event": "verdict", "scenario": scenario.id, "strictness": scenario.strictness.value}
        outcome = "passed" if not verdict.difference else "differs" if passed else "failed"
        more = {"verdict": outcome, "line": verdict.line or None, "difference": verdict.difference or None}
        self._results.write(json_line({**told, **more}))

    def finish(self) -> None:
        """All is told."""


class JunitTeller:
    """One JUnit document: a suite, a case for each scenario. What a peer should do and does not is no failure."""

    def __init__(self, results: Results) -> None:
        self._results = results
        self._cases: list[str] = []
        self._failures = 0

    def begin(self, scenario: Scenario) -> None:
        """Nothing: the case is written when it has ended."""

    def line(self, scenario: Scenario, line: Line) -> None:
        """Nothing: the verdict has the lines."""

    def end(self, verdict: Verdict, *, passed: bool) -> None:
        """A case."""
        scenario = verdict.scenario
        name = _quoted(f"{scenario.id}: {scenario.title}")
        time_s = verdict.lines[-1].time_s if verdict.lines else 0.0
        played = scenario.role.value if scenario.transport is Transport.TCP else scenario.transport.label
        head = f'<testcase classname="craft.{played}" name={name} time="{time_s:.3f}">'
        story = "".join(_told(line) for line in verdict.lines)
        failure = ""
        if not passed:
            self._failures += 1
            where = f"{scenario.file}:{verdict.line}: {scenario.requirement} ({scenario.source})"
            failure = (
                f"<failure type={_quoted(scenario.strictness.value)} message={_quoted(verdict.difference)}>"
                f"{escape(where)}</failure>"
            )
        self._cases.append(f"{head}{failure}<system-out>{escape(story)}</system-out></testcase>\n")

    def finish(self) -> None:
        """The document."""
        numbers = f'tests="{len(self._cases)}" failures="{self._failures}"'
        self._results.write(
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f'<testsuites name="rdstool craft" {numbers}>\n<testsuite name="craft" {numbers}>\n'
            f"{''.join(self._cases)}</testsuite>\n</testsuites>\n"
        )


def _told(line: Line) -> str:
    verdict = f"  {line.verdict}" if line.verdict else ""
    return f"{line.time_s:9.3f}  {line.arrow:2}  {line.path:<8}  {line.text}{verdict}\n"


def _quoted(text: str) -> str:
    return f'"{escape(text)}"'
