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
        """Tell that a scenario begins."""

    def line(self, scenario: Scenario, line: Line) -> None:
        """Tell that something happened."""

    def end(self, verdict: Verdict, *, passed: bool) -> None:
        """Tell how a scenario ended."""

    def finish(self) -> None:
        """Tell that all scenarios have ended."""


class TextTeller:
    """Tells it as lines of text."""

    def __init__(self, results: Results, *, quiet: bool) -> None:
        self._results = results
        self._quiet = quiet

    def begin(self, scenario: Scenario) -> None:
        """Write the scenario's heading."""
        if not self._quiet:
            self._results.write(f"{scenario.id}: {scenario.title}\n")

    def line(self, _scenario: Scenario, line: Line) -> None:
        """Write what happened."""
        if not self._quiet:
            self._results.write(_told(line))

    def end(self, verdict: Verdict, *, passed: bool) -> None:
        """Write how the scenario ended."""
        scenario = verdict.scenario
        if not verdict.difference:
            self._results.write(f"{scenario.id}: passed\n")
            return
        self._results.write(
            f"{scenario.id}: {'differs' if passed else 'failed'}: {scenario.file}:{verdict.line}: "
            f"{verdict.difference}. {scenario.requirement} ({scenario.source})\n"
        )

    def finish(self) -> None:
        """Write nothing: all has been told."""


class JsonTeller:
    """Tells it as JSON lines."""

    def __init__(self, results: Results) -> None:
        self._results = results

    def begin(self, scenario: Scenario) -> None:
        """Write nothing: each line names its scenario."""

    def line(self, scenario: Scenario, line: Line) -> None:
        """Write what happened."""
        event = {"->": "sent", "<-": "received"}.get(line.arrow, "expected")
        told: dict[str, Any] = {"event": event, "scenario": scenario.id, "time": round(line.time_s, 6)}
        more = {"path": line.path, "line": line.line, "text": line.text, "verdict": line.verdict or None}
        self._results.write(json_line({**told, **more}))

    def end(self, verdict: Verdict, *, passed: bool) -> None:
        """Write how the scenario ended."""
        scenario = verdict.scenario
        told: dict[str, Any] = {"event": "verdict", "scenario": scenario.id, "strictness": scenario.strictness.value}
        outcome = "passed" if not verdict.difference else "differs" if passed else "failed"
        more = {"verdict": outcome, "line": verdict.line or None, "difference": verdict.difference or None}
        self._results.write(json_line({**told, **more}))

    def finish(self) -> None:
        """Write nothing: all has been told."""


class JunitTeller:
    """One JUnit document: a suite, a case for each scenario. What a peer should do and does not is no failure."""

    def __init__(self, results: Results) -> None:
        self._results = results
        self._cases: list[str] = []
        self._failures = 0

    def begin(self, scenario: Scenario) -> None:
        """Write nothing: the case is made when the scenario has ended."""

    def line(self, scenario: Scenario, line: Line) -> None:
        """Write nothing: the verdict has the lines."""

    def end(self, verdict: Verdict, *, passed: bool) -> None:
        """Make the scenario's case."""
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
        """Write the document."""
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
