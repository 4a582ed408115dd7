"""The forms that findings are written in: lines of text, JSON lines and SARIF; JUnit has a module of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from rdstool.capture.columns import NS_PER_S
from rdstool.validate.rule import Finding, Rule

SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
FrameLabel = Callable[[int], tuple[str, int]]
"""Frame of the whole capture -> its file, and its number within that."""
_FRAME = re.compile(r"\bframe (\d+)")


class Format(Protocol):
    """Writes findings as they come, and what belongs to the end."""

    def finding(self, finding: Finding) -> str:
        """The text of one finding, newline included; empty where all comes at the end."""

    def end(self, withheld: dict[str, int]) -> str:
        """What follows the last finding. ``withheld``: rule -> findings that were counted only."""


def _titles(rules: Sequence[Rule]) -> dict[str, str]:
    return {rule.id: rule.title for rule in rules}


class TextFormat:
    """A line for each finding: frame, message, severity, rule, what that is about, and the evidence."""

    def __init__(self, rules: Sequence[Rule], label: FrameLabel | None, paint: Callable[[str, str], str]) -> None:
        """``label`` names the file of each finding, for several captures; ``paint`` colours a text by its severity."""
        self._titles = _titles(rules)
        self._label = label
        self._paint = paint

    def finding(self, finding: Finding) -> str:
        """Such as ``frame 12  #3  warning  RDS-HDR-012  A ping or pong carries payload: ping with 5 bytes``."""
        where, evidence = f"frame {finding.frame}", finding.message
        if self._label is not None:
            file, frame = self._label(finding.frame)
            where, evidence = f"{file}: frame {frame}", evidence_in(finding, self._label)
        number = f"#{finding.number}" if finding.number is not None else "-"
        level = self._paint(f"{finding.severity.value:<7}", finding.severity.value)
        words = f"{self._titles[finding.rule]}: {printable(evidence)}"
        return f"{where:<12} {number:<7} {level} {finding.rule}  {words}\n"

    def end(self, withheld: dict[str, int]) -> str:
        """A line for each rule of which there are more findings than are shown."""
        return "".join(f"{rule}: and {count} more\n" for rule, count in sorted(withheld.items()))


class JsonFormat:
    """One JSON object a line."""

    def __init__(self, rules: Sequence[Rule], label: FrameLabel | None) -> None:
        """``label`` names the file of each finding, for several captures."""
        self._titles = _titles(rules)
        self._label = label

    def finding(self, finding: Finding) -> str:
        """The keys of the contract; with several files also which of them, and the frame's number in it."""
        line: dict[str, Any] = {
            "rule": finding.rule,
            "severity": finding.severity.value,
            "title": self._titles[finding.rule],
            "message": finding.message,
            "frame": finding.frame,
            "number": finding.number,
            "stream": finding.stream,
            "time": finding.time / NS_PER_S,
            "reference": finding.reference,
        }
        if self._label is not None:
            line["file"], line["file_frame"] = self._label(finding.frame)
        return json.dumps(line, ensure_ascii=False) + "\n"

    def end(self, withheld: dict[str, int]) -> str:
        """Write nothing: each line stands for itself."""
        del withheld
        return ""


class SarifFormat:
    """One SARIF 2.1.0 document. A frame is a logical location: captures have no lines."""

    def __init__(self, rules: Sequence[Rule], label: FrameLabel, version: str) -> None:
        self._rules = rules
        self._titles = _titles(rules)
        self._label = label
        self._version = version
        self._results: list[dict[str, Any]] = []

    def finding(self, finding: Finding) -> str:
        """Keep it for the document."""
        file, frame = self._label(finding.frame)
        name = f"frame {frame}" + (f", message {finding.number}" if finding.number is not None else "")
        self._results.append(
            {
                "ruleId": finding.rule,
                "ruleIndex": [rule.id for rule in self._rules].index(finding.rule),
                "level": finding.severity.value,
                "message": {"text": f"{self._titles[finding.rule]}: {evidence_in(finding, self._label)}"},
                "locations": [
                    {
                        "physicalLocation": {"artifactLocation": {"uri": file}},
                        "logicalLocations": [{"name": name, "kind": "frame"}],
                    }
                ],
                "properties": {
                    "frame": finding.frame,
                    "number": finding.number,
                    "stream": finding.stream,
                    "time": finding.time / NS_PER_S,
                },
            }
        )
        return ""

    def end(self, withheld: dict[str, int]) -> str:
        """Write the document."""
        rules = [
            {
                "id": rule.id,
                "shortDescription": {"text": rule.title},
                "fullDescription": {"text": f"{rule.why} {rule.kernel}"},
                "help": {"text": f"{rule.advice} Source: {rule.reference}."},
                "defaultConfiguration": {"level": rule.severity.value},
            }
            for rule in self._rules
        ]
        run = {
            "tool": {"driver": {"name": "rdstool", "version": self._version, "rules": rules}},
            "results": self._results,
            "properties": {"notShown": withheld},
        }
        return json.dumps({"$schema": SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1) + "\n"


def evidence_in(finding: Finding, label: FrameLabel) -> str:
    """The message of a finding with the frames counted as in the files, each named that is not the finding's own."""
    own, _ = label(finding.frame)

    def renamed(told: re.Match[str]) -> str:
        file, frame = label(int(told[1]))
        return f"frame {frame}" if file == own else f"frame {frame} of {file}"

    return _FRAME.sub(renamed, finding.message)


def printable(text: str) -> str:
    """``text`` on one line, without what steers a terminal or breaks XML."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in text)
