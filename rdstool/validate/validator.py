"""Runs the chosen rules over the batches of a capture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rdstool.capture.pipeline import Capture, Decoded
from rdstool.validate.bitmaps import marked_ports
from rdstool.validate.check import Batch, Context
from rdstool.validate.handshake import announcements
from rdstool.validate.registry import CHECKS, RULES
from rdstool.validate.reporter import FINDINGS_PER_RULE, Reporter
from rdstool.validate.rule import Finding, Rule, Severity
from rdstool.validate.selection import choose
from rdstool.validate.view import View


class Validator:
    """Feed it each batch in order, then finish it.

    validator = Validator(capture)
    for decoded in capture.batches():
        findings.extend(validator.feed(decoded))
    findings.extend(validator.finish())
    """

    def __init__(
        self, capture: Capture, rules: Sequence[Rule] | None = None, *, limit: int = FINDINGS_PER_RULE
    ) -> None:
        self.rules = tuple(rules) if rules is not None else choose(RULES)
        self.messages = 0
        self._report = Reporter(self.rules, limit)
        self._context = Context(capture, self._report)
        wanted = set(self.rules)
        self._checks = [check(self._context) for check in CHECKS if wanted.intersection(check.rules)]

    @property
    def counts(self) -> Counter[str]:
        """Findings by rule, those that were not kept too."""
        return self._report.counts

    @property
    def severities(self) -> Counter[Severity]:
        """Findings by severity, those that were not kept too."""
        return self._report.severities

    @property
    def withheld(self) -> dict[str, int]:
        """Rule -> findings beyond the limit: counted, not kept."""
        return self._report.withheld()

    @property
    def not_followed(self) -> int:
        """Connections beyond the limit over which messages are followed; rules of RDS-DLV say nothing of them."""
        return self._context.not_followed

    @property
    def not_whole(self) -> int:
        """Reconnected connections of which the capture lacks too much for RDS-DLV."""
        return self._context.not_whole

    @property
    def failed(self) -> bool:
        """There is an error or a warning; notes alone are no failure."""
        return bool(self.severities[Severity.ERROR] or self.severities[Severity.WARNING])

    def feed(self, decoded: Decoded) -> Iterator[Finding]:
        """Check the next batch; yields its findings in the order of the capture."""
        context = self._context
        view = View(decoded)
        grouped = context.continuity.group(view, context.streams)
        context.connections.observe(view, grouped, context.streams)
        numbered = context.numbering.rows(view, grouped)
        shakes = announcements(view, context.streams)
        context.path_counts.observe(shakes)
        batch = Batch(view, grouped, numbered, shakes, marked_ports(view))
        self.messages += view.count
        for check in self._checks:
            check.feed(batch)
        yield from self._report.take()

    def finish(self, *, reread: bool = True) -> Iterator[Finding]:
        """Yield what only the end of the capture tells.

        With ``reread``, the payloads of repeated messages are read again, and compared.
        """
        self._context.reread = reread
        for check in self._checks:
            check.finish()
        yield from self._report.take()


def validate(capture: Capture, rules: Sequence[Rule] | None = None) -> Iterator[Finding]:
    """All findings of a capture, as they are found. Raises ``CaptureError`` where it breaks off."""
    validator = Validator(capture, rules)
    for decoded in capture.batches():
        yield from validator.feed(decoded)
    yield from validator.finish()
