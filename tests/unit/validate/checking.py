"""Run the validator on a file that a test made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rdstool.capture.pipeline import CaptureOptions, open_capture
from rdstool.validate.registry import RULES
from rdstool.validate.rule import Finding
from rdstool.validate.selection import choose
from rdstool.validate.validator import Validator


def findings(path: Path, select: Sequence[str] = (), *, payloads: bool = False) -> list[Finding]:
    """All findings of a capture."""
    with open_capture(path, CaptureOptions(payloads=payloads)) as capture:
        validator = Validator(capture, choose(RULES, select))
        found = [finding for decoded in capture.batches() for finding in validator.feed(decoded)]
        found += validator.finish()
    return found


def rules_of(path: Path) -> set[str]:
    """The rules that a capture breaks."""
    return {finding.rule for finding in findings(path)}
