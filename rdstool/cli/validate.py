"""``rdstool validate``: what is wrong with the RDS traffic of captures, and why."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rdstool.cli.choices import chosen_format, format_option
from rdstool.cli.inputs import FILES, Follow, Jobs, Reading, TcpChecksums, TcpPorts, open_inputs
from rdstool.cli.output import Results, json_line, note, warn
from rdstool.errors import UsageError
from rdstool.words import plural

if TYPE_CHECKING:
    from rdstool.validate.formats import Format
    from rdstool.validate.rule import Finding, Rule
    from rdstool.validate.validator import Validator

FORMATS = ("text", "json", "sarif", "junit")
REFERENCE_FORMATS = ("text", "json")
FINDINGS_SHOWN = 100
"""Findings of one rule that are shown."""
MOST_FINDINGS = 1_000_000
"""Largest value of ``--max-findings``: findings are kept in memory."""
_COLOURS = {"error": "\x1b[31m", "warning": "\x1b[33m", "note": "\x1b[36m"}


def _complete_rules(incomplete: str) -> list[str]:
    from rdstool.validate.registry import AREAS, RULES  # noqa: PLC0415

    return [name for name in (*AREAS, *(rule.id for rule in RULES)) if name.startswith(incomplete.upper())]


def validate(
    files: Annotated[list[Path] | None, FILES] = None,
    form: Annotated[str | None, format_option(FORMATS)] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line; the same as --format json.")] = False,
    select: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RULES",
            help="Rules to check: ids or their beginnings, separated by commas, or ALL (repeatable).",
            autocompletion=_complete_rules,
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RULES",
            help="Rules to leave out, named in the same way (repeatable).",
            autocompletion=_complete_rules,
        ),
    ] = None,
    explain: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RULES",
            help="Explain these rules: ids, separated by commas (repeatable).",
            autocompletion=_complete_rules,
        ),
    ] = None,
    rules: Annotated[bool, typer.Option("--rules", "--list", help="List the rules that would be checked.")] = False,
    max_findings: Annotated[
        int, typer.Option(metavar="N", min=1, max=MOST_FINDINGS, help="Show at most N findings of each rule.")
    ] = FINDINGS_SHOWN,
    tcp_port: TcpPorts = None,
    tcp_checksums: TcpChecksums = False,
    follow: Follow = False,
    jobs: Jobs = 1,
) -> None:
    """Check captures against the rules of the protocol and show what breaks them, with the frames that prove it.

    Errors and warnings make the exit status 1; notes alone do not.

    \b
    Examples:
      rdstool validate capture.pcap
      rdstool validate --select RDS-SEQ,RDS-DLV --json capture.pcap.gz
      rdstool validate --explain RDS-SEQ-002
    """  # noqa: D301
    from rdstool.validate.registry import RULES, rule_of  # noqa: PLC0415
    from rdstool.validate.selection import choose, names  # noqa: PLC0415

    form = chosen_format(form, FORMATS, json=json)
    if files and (explain or rules):
        raise UsageError(f"{'--explain' if explain else '--rules'} reads no captures: leave them out")
    if explain:
        if rules:
            raise UsageError("--explain and --rules exclude each other; take one of them")
        if select or ignore:
            raise UsageError("--explain names its rules: leave out --select and --ignore")
        explained = [rule_of(name) for name in names(explain)]
        if not explained:
            raise UsageError("--explain names no rule; `rdstool validate --rules` lists the rules")
        _write_reference(explained, form, explained=True)
        return
    chosen = choose(RULES, select or (), ignore or ())
    if rules:
        _write_reference(chosen, form, explained=False)
        return
    if not files:
        raise UsageError("name a capture file, or - for standard input (see: rdstool validate --help)")
    if not chosen:
        raise UsageError("no rule is left to check; --ignore leaves out all that --select names")
    payloads = any(rule.on_request for rule in chosen)
    reading = open_inputs(
        files, tcp_ports=tcp_port, tcp_checksums=tcp_checksums, follow=follow, jobs=jobs, payloads=payloads
    )
    validator = _check(reading, chosen, form, max_findings, at_once=follow)
    raise typer.Exit(reading.exit_code(problems=validator.failed))


def _write_reference(rules: Sequence[Rule], form: str, *, explained: bool) -> None:
    """What rules say; reports have no form for that."""
    from rdstool.validate.reference import WIDTH, entry, explanation, listing  # noqa: PLC0415

    if form not in REFERENCE_FORMATS:
        raise UsageError(f"--format {form} is for findings; rules are told as {' or '.join(REFERENCE_FORMATS)}")
    with Results() as results:
        if form == "json":
            results.write("".join(json_line(entry(rule)) for rule in rules))
        else:
            width = results.width or WIDTH
            results.write("\n".join(explanation(rule, width) for rule in rules) if explained else listing(rules))


def _check(reading: Reading, rules: tuple[Rule, ...], form: str, limit: int, *, at_once: bool) -> Validator:
    """Run the rules and write what they find; what was found before Ctrl-C or a broken file is written too."""
    from rdstool.validate.validator import Validator  # noqa: PLC0415

    validator = Validator(reading.capture, rules, limit=limit)
    with Results(at_once=at_once) as results:
        writer = _writer(reading, rules, form, colour=results.colour)
        with reading:
            for decoded in reading.batches():
                _write(results, writer, validator.feed(decoded))
        _write(results, writer, validator.finish())
        results.write(writer.end(validator.withheld))
    if reading.problem is None or reading.capture.frames.frames:
        _sum_up(reading, validator)
    return validator


def _write(results: Results, writer: Format, findings: Iterator[Finding]) -> None:
    text = "".join(writer.finding(finding) for finding in findings)
    if text:
        results.write(text)


def _writer(reading: Reading, rules: tuple[Rule, ...], form: str, *, colour: bool) -> Format:
    from rdstool.validate import formats  # noqa: PLC0415
    from rdstool.version import __version__  # noqa: PLC0415

    label = reading.label
    several = label if len(reading.capture.paths) > 1 else None
    match form:
        case "json":
            return formats.JsonFormat(rules, several)
        case "sarif":
            return formats.SarifFormat(rules, label, __version__)
        case "junit":
            from rdstool.validate.junit import JunitFormat  # noqa: PLC0415

            return JunitFormat(rules, label)
        case _:
            return formats.TextFormat(rules, several, _paint if colour else _plain)


def _paint(text: str, severity: str) -> str:
    return f"{_COLOURS[severity]}{text}\x1b[0m"


def _plain(text: str, _: str) -> str:
    return text


def _sum_up(reading: Reading, validator: Validator) -> None:
    """The summary on stderr: findings by severity and rule, messages, and how much of the streams was seen."""
    from rdstool.validate.rule import Severity  # noqa: PLC0415

    streams = reading.capture.streams.streams
    reading.warn_of_nothing(validator.messages)
    read = f"{plural(validator.messages, 'message')} in {plural(len(streams), 'stream')}"
    note(f"{read}, {plural(len(validator.rules), 'rule')} checked")
    halves = [half for stream in streams for half in stream.coverage]
    seen, missing = sum(half.seen for half in halves), sum(half.missing for half in halves)
    if missing:
        share = 100 * seen / (seen + missing)
        gaps = sum(half.gaps for half in halves)
        whose = "which is" if gaps == 1 else "which are"
        note(f"coverage: {share:.2f} % of the streams was seen; {plural(gaps, 'gap')}, {whose} no fault")
    if validator.not_whole:
        where = plural(validator.not_whole, "reconnected stream")
        note(f"messages were not followed over {where}: the capture has holes there")
    if validator.not_followed:
        warn(f"messages were not followed over {validator.not_followed} reconnected streams: there are too many")
    counts = ", ".join(plural(validator.severities[level], level.value) for level in Severity)
    note(f"findings: {counts}" if validator.counts else "findings: none")
    titles = {rule.id: rule.title for rule in validator.rules}
    for rule, count in sorted(validator.counts.items()):
        note(f"  {rule}  {count:>6}  {titles[rule]}")
