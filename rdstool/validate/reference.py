"""Rules in words: the explanation of one, the list, and the page docs/rules.md."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import Any

from rdstool.validate.alone import ALONE
from rdstool.validate.registry import AREAS, RULES
from rdstool.validate.rule import Rule

WIDTH = 100
"""Columns of an explanation, at most."""
TRANSPORTS = {("tcp",): "TCP", ("ib",): "InfiniBand", ("tcp", "ib"): "TCP and InfiniBand"}


def explanation(rule: Rule, width: int = WIDTH) -> str:
    """What the rule says, why, what the kernel does, what to do, and where it is written down."""
    notes = [f"Kernel: {rule.kernel}", f"What to do: {rule.advice}"]
    if rule.unbroken:
        notes.append("Nothing is concluded across a hole in the capture.")
    if rule.on_request:
        notes.append("It runs only where it is selected by name.")
    notes.append(f"Applies to {TRANSPORTS[rule.transports]}. Source: {rule.reference}.")
    width = min(width, WIDTH)
    title = fill(f"{rule.id} ({rule.severity.value}): {rule.title}", width)
    rest = (fill(note, width, subsequent_indent="  ") for note in notes)
    return "\n".join((title, "", fill(rule.why, width), "", *rest, ""))


def listing(rules: Sequence[Rule]) -> str:
    """A line a rule."""
    return "".join(f"{rule.id}  {rule.severity.value:<7}  {rule.title}\n" for rule in rules)


def entry(rule: Rule) -> dict[str, Any]:
    """A rule for programs; keys that findings have too mean the same there."""
    return {
        "rule": rule.id,
        "severity": rule.severity.value,
        "title": rule.title,
        "transports": rule.transports,
        "why": rule.why,
        "kernel": rule.kernel,
        "advice": rule.advice,
        "across_holes": not rule.unbroken,
        "on_request": rule.on_request,
        "reference": rule.reference,
    }


def page() -> str:
    """The text of docs/rules.md."""
    out = [
        "# Rules of `rdstool validate`",
        "",
        "Made by `python -m rdstool.validate.reference > docs/rules.md`; a test keeps it current.",
        "",
        "An **error** means that a kernel drops, misreads, loses or doubles data; a **warning**, that kernels never do",
        "this, or that data may be lost; a **note** is worth knowing and no fault by itself: notes alone leave the",
        "exit status at 0.",
        "Rules marked † conclude nothing across a hole in the capture, nor before message boundaries were found.",
        "Ids are never renumbered or used again. `--select` and `--ignore` take ids, areas such as `RDS-SEQ`, or",
        "`ALL`; the longer name wins.",
        "With the plugin, Wireshark shows rules marked *yes* as expert items. The others compare connections, or need",
        "the end of the capture, which a dissector does not see.",
        "",
    ]
    for area, title in AREAS.items():
        rules = [rule for rule in RULES if rule.area == area]
        out += [f"## {area}: {title}", "", "| Rule | Severity | Transport | Wireshark | Promise broken |"]
        out.append("|---|---|---|---|---|")
        for rule in rules:
            mark = "†" if rule.unbroken else ""
            cells = (
                f"{rule.id}{mark}",
                rule.severity.value,
                TRANSPORTS[rule.transports],
                _in_wireshark(rule),
                rule.title,
            )
            out.append(f"| {' | '.join(cells)} |")
        out.append("")
        for rule in rules:
            out += [f"**{rule.id}** {rule.title}. {rule.why} *Kernel:* {rule.kernel} *What to do:* {rule.advice}"]
            out += [f"*Source:* {rule.reference}.", ""]
    return "\n".join(out)


def _in_wireshark(rule: Rule) -> str:
    return "yes" if rule.id in ALONE else "no"


if __name__ == "__main__":
    print(page(), end="")  # noqa: T201
