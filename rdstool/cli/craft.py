"""``rdstool craft``: plays scenarios of traffic that misbehaves, and tells what the peer makes of them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rdstool.cli.carriers import AUTO, TCP, carrier_named, transport_to
from rdstool.cli.choices import chosen_format, format_option, given
from rdstool.cli.craft_forms import FORMATS, JsonTeller, JunitTeller, Teller, TextTeller
from rdstool.cli.endpoints import run_job
from rdstool.cli.exit_codes import ExitCode
from rdstool.cli.node_options import Pcap, ProviderName, TransportName
from rdstool.cli.numbers import number_64
from rdstool.cli.output import Results, error, json_line, note
from rdstool.cli.places import resolve, source_for
from rdstool.errors import TransportError, UsageError
from rdstool.transport.ib.names import ROCE

if TYPE_CHECKING:
    from rdstool.craft.judge import Line, Match
    from rdstool.craft.scenario import Scenario
    from rdstool.endpoint.recorder import Recording
    from rdstool.transport.base import Tap


LISTED_FORMATS = ("text", "json")
ALL = "all"
"""Instead of a scenario's name."""


def _complete_names(incomplete: str) -> list[str]:
    from rdstool.craft.library import names  # noqa: PLC0415

    return [name for name in names() if name.startswith(incomplete)]


def craft(
    context: typer.Context,
    scenarios: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SCENARIO]...",
            help="Names of scenarios that come with rdstool, or files (.toml); all: every one that fits the addresses.",
            autocompletion=_complete_names,
            show_default=False,
        ),
    ] = None,
    to: Annotated[str | None, typer.Option("--to", metavar="ADDR", help="Whom to play against.")] = None,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="ADDR", help="Own address (default: the one that routes to the peer)."),
    ] = None,
    port: Annotated[
        list[str] | None,
        typer.Option("--port", metavar="NAME=PORT", help="Another number for a named port (repeatable)."),
    ] = None,
    transport: TransportName = TCP,
    provider: ProviderName = ROCE,
    cookie: Annotated[
        str | None, typer.Option(metavar="COOKIE", help="The memory that the peer offers, for scenarios that use it.")
    ] = None,
    patience: Annotated[
        float, typer.Option(metavar="FACTOR", min=0.01, max=1000, help="Give the peer so many times as long to answer.")
    ] = 1.0,
    strict: Annotated[bool, typer.Option("--strict", help="Treat what a peer should do as what it must do.")] = False,
    seed: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Same seed, same generation number and source ports.")
    ] = None,
    listing: Annotated[
        bool, typer.Option("--list", help="List the scenarios that come with rdstool; with --transport, its own.")
    ] = False,
    show: Annotated[bool, typer.Option("--show", help="Print scenarios instead of playing them.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show verdicts only.")] = False,
    form: Annotated[str | None, format_option(FORMATS)] = None,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object for each thing that happens; the same as --format json.")
    ] = False,
    pcap: Pcap = None,
) -> None:
    """Play traffic that misbehaves on purpose, and judge what the peer does.

    Each scenario says what is sent, byte by byte where it matters, and what a peer may answer; its form is described in
    docs/scenarios.md. The exit status is 1 if a peer does otherwise. Play only against those who have agreed to it.

    \b
    Examples:
      rdstool craft --list
      rdstool craft length-4gib garbage --to 10.0.0.2
      rdstool craft mine.toml --to 127.0.0.2 --from 127.0.0.1 --json
      rdstool craft all --to 10.0.0.2 --transport ib --quiet
    """  # noqa: D301
    from rdstool.craft import library  # noqa: PLC0415

    wanted = scenarios or []
    form = chosen_format(form, FORMATS, json=json)
    _check(wanted, form, listing=listing, show=show, quiet=quiet)
    with Results(at_once=True) as results:
        if listing:
            _list(results, transport if given(context, "transport") else AUTO, json=form == "json")
            raise typer.Exit
        if not wanted:
            raise UsageError("name a scenario, or see --list")
        if show:
            for name in wanted:
                results.write(library.text_of(name)[1])
            raise typer.Exit
        if to is None:
            raise UsageError("--to is missing: whom to play against")
        peer = resolve(to)
        own = resolve(source) if source is not None else source_for(peer, transport)
        from rdstool.craft.judge import Match  # noqa: PLC0415

        match = Match(
            own,
            peer,
            secrets.randbits(32) if seed is None else seed,
            patience,
            carrier_named(transport_to(transport, [peer], own, provider), provider, pcap),
            provider,
            None if cookie is None else number_64(cookie, "a cookie"),
        )
        chosen = [_with_ports(each, port or ()) for each in _chosen(wanted, match)]
        job = _Job(chosen, match, pcap, _teller(form, results, quiet=quiet), strict=strict)
        code = run_job(job.run)
    raise typer.Exit(code)


def _check(scenarios: Sequence[str], form: str, *, listing: bool, show: bool, quiet: bool) -> None:
    """Raise ``UsageError`` where one option leaves another without effect."""
    if listing and show:
        raise UsageError("--list and --show exclude each other; take one of them")
    if listing and scenarios:
        raise UsageError("--list lists what comes with rdstool: leave the scenarios out, or see --show")
    if listing and form not in LISTED_FORMATS:
        raise UsageError(f"--format {form} is for verdicts; scenarios are listed as {' or '.join(LISTED_FORMATS)}")
    if show and form != FORMATS[0]:
        raise UsageError("--show prints scenarios as they are: leave out --format and --json")
    if show and ALL in scenarios:
        raise UsageError(f"{ALL!r} stands for what fits two addresses: name the scenarios to show")
    if ALL in scenarios and len(scenarios) > 1:
        raise UsageError(f"{ALL!r} stands for every scenario that fits: name no other beside it")
    if quiet and form != FORMATS[0] and not listing:
        raise UsageError(f"--quiet is for text: leave it out, or --format {form}")


def _list(results: Results, transport: str, *, json: bool) -> None:
    """Those for one transport, or all with ``auto``."""
    from rdstool.craft import library  # noqa: PLC0415

    known = [library.scenario(name) for name in library.names()]
    if transport != AUTO:
        carrier = carrier_named(transport, ROCE, None)
        known = [each for each in known if each.transport is carrier]
    width = max(len(each.id) for each in known)
    for each in known:
        told = {"id": each.id, "title": each.title, "requirement": each.requirement, "source": each.source}
        more = {"transport": each.transport.label, "strictness": each.strictness.value, "role": each.role.value}
        text = f"{each.id:<{width}}  {each.transport.label:<3}  {each.title}\n"
        results.write(json_line({**told, **more}) if json else text)


def _chosen(wanted: Sequence[str], match: Match) -> list[Scenario]:
    from rdstool.craft import library  # noqa: PLC0415
    from rdstool.craft.play import check  # noqa: PLC0415

    if list(wanted) != [ALL]:
        found = [library.scenario(name) for name in wanted]
        for each in found:
            check(each, match)
        return found
    fitting = []
    for name in library.names():
        each = library.scenario(name)
        try:
            check(each, match)
        except UsageError:
            continue  # for the other role or transport, or for what this match has not
        fitting.append(each)
    if not fitting:
        check(library.scenario(library.names()[0]), match)
    return fitting


def _with_ports(scenario: Scenario, assignments: Sequence[str]) -> Scenario:
    ports = dict(scenario.ports)
    for assignment in assignments:
        name, _, number = assignment.partition("=")
        if name not in ports:
            raise UsageError(
                f"--port {assignment}: {scenario.id} has no port of that name ({', '.join(ports) or 'none'})"
            )
        if not number.isascii() or not number.isdigit() or int(number) > 0xFFFF:
            raise UsageError(f"--port {assignment}: write NAME=PORT, 0 to 65535")
        ports[name] = int(number)
    return replace(scenario, ports=ports)


def _teller(form: str, results: Results, *, quiet: bool) -> Teller:
    match form:
        case "json":
            return JsonTeller(results)
        case "junit":
            return JunitTeller(results)
        case _:
            return TextTeller(results, quiet=quiet)


class _Job:
    """Scenarios one after the other."""

    def __init__(
        self,
        scenarios: Sequence[Scenario],
        match: Match,
        pcap: Path | None,
        teller: Teller,
        *,
        strict: bool,
    ) -> None:
        self._scenarios, self._match, self._pcap = scenarios, match, pcap
        self._teller, self._strict = teller, strict

    async def run(self) -> ExitCode:
        """All of them, whatever becomes of each."""
        from rdstool.endpoint.recorder import Recorder, Recording  # noqa: PLC0415

        recorder = Recorder()
        file = Recording(self._pcap) if self._pcap is not None else None
        if file is not None:
            recorder.takers.append(file.frame)
        try:
            tap = recorder if file is not None else None
            verdicts = [await self._one(each, number, tap) for number, each in enumerate(self._scenarios)]
        finally:
            complete = file is None or self._closed(file)
        self._teller.finish()
        failed = sum(not each for each in verdicts)
        if len(verdicts) > 1:
            note(f"{len(verdicts)} scenarios, {failed} failed")
        return ExitCode.PROBLEMS if failed or not complete else ExitCode.CLEAN

    @staticmethod
    def _closed(file: Recording) -> bool:
        """The recording is complete; else it is told that it is not."""
        try:
            file.close()
        except TransportError as problem:
            error(str(problem))
            return False
        return True

    async def _one(self, scenario: Scenario, number: int, tap: Tap | None) -> bool:
        from rdstool.craft.play import play  # noqa: PLC0415

        teller = self._teller
        teller.begin(scenario)
        # A generation number of its own: the peer is to forget the scenario before.
        match = replace(self._match, seed=self._match.seed + number)
        tell: Callable[[Line], None] = lambda line: teller.line(scenario, line)  # noqa: E731
        verdict = await play(scenario, match, tap=tap, tell=tell)
        passed = verdict.passed and not (self._strict and verdict.difference)
        teller.end(verdict, passed=passed)
        return passed
