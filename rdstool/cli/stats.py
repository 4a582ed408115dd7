"""``rdstool stats``: the RDS traffic of captures in figures, as tables or JSON lines."""

from __future__ import annotations

from itertools import islice, pairwise
from typing import TYPE_CHECKING, Annotated

import typer

from rdstool.cli.choices import one_of
from rdstool.cli.inputs import Files, Follow, Jobs, Reading, TcpChecksums, TcpPorts, open_inputs
from rdstool.cli.output import Results
from rdstool.errors import UsageError

if TYPE_CHECKING:
    from rdstool.stats import CaptureStats, Collector
    from rdstool.stats.acks import Sent

VIEWS = {"path": "paths", "socket": "sockets", "port": "ports"}
"""Values of ``--by`` and the section that each shows."""
LINES_AT_ONCE = 1000
"""Lines of JSON that are written in one piece."""
DEFAULT_VIEWS = ("path", "socket")
WIDTH = 400
"""Columns of output into a file or pipe: each table stands in one piece. On a terminal wide ones go on below."""


def _complete_sections(incomplete: str) -> list[str]:
    from rdstool.stats.model import SECTIONS  # noqa: PLC0415

    return [section for section in SECTIONS if section.startswith(incomplete)]


def stats(
    files: Files,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line, each with its section.")] = False,
    by: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VIEW",
            help=f"Break down by {', '.join(VIEWS)} (repeatable; default: {', '.join(DEFAULT_VIEWS)}).",
            autocompletion=lambda: list(VIEWS),
        ),
    ] = None,
    section: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Only this section, but all of its rows, whatever --by says (repeatable).",
            autocompletion=_complete_sections,
        ),
    ] = None,
    acks: Annotated[
        bool, typer.Option("--acks", help="Only list when each message was acknowledged, as CSV or JSON.")
    ] = False,
    tcp_port: TcpPorts = None,
    tcp_checksums: TcpChecksums = False,
    follow: Follow = False,
    jobs: Jobs = 1,
) -> None:
    """Sum up the RDS traffic of captures.

    Connections, paths and sockets with messages, bytes, rates, acknowledgement latency and bytes in flight;
    congestion, pings, reconnects, RDMA; and how much of all this the capture holds.

    \b
    Examples:
      rdstool stats capture.pcap
      rdstool stats --section congestion capture.pcap
      rdstool stats --acks capture.pcap > acks.csv
    """  # noqa: D301
    names = _names(by, section)
    if acks and (by or section):
        raise UsageError("--acks lists messages only: leave out --by and --section")
    reading = open_inputs(files, tcp_ports=tcp_port, tcp_checksums=tcp_checksums, follow=follow, jobs=jobs)
    with Results(at_once=follow) as results:
        if acks:
            _list_acks(reading, results, json=json)
        else:
            found = _collected(reading)
            if found is not None:
                reading.warn_of_nothing(found.capture.messages)
                _show(found, names, results, json=json, all_rows=bool(section))
    raise typer.Exit(reading.exit_code())


def _names(by: list[str] | None, section: list[str] | None) -> list[str]:
    """Sections to show, in their own order."""
    from rdstool.stats.model import SECTIONS  # noqa: PLC0415

    for view in by or ():
        one_of("--by", view, VIEWS)
    for name in section or ():
        one_of("--section", name, SECTIONS)
    if section:
        wanted = set(section)
    else:
        hidden = {VIEWS[view] for view in VIEWS if view not in (by or DEFAULT_VIEWS)}
        wanted = set(SECTIONS) - hidden
    return [name for name in SECTIONS if name in wanted]


def _collected(reading: Reading) -> CaptureStats | None:
    """Sum up what can be read; a broken or interrupted capture gives what came before, None where that is nothing."""
    from rdstool.stats import Collector  # noqa: PLC0415

    collector: Collector | None = None
    with reading:
        for decoded in reading.batches():
            if collector is None:
                collector = Collector(reading.capture.streams)
            collector.take(decoded)
    if collector is None or (reading.problem is not None and not reading.capture.frames.frames):
        return None
    return collector.finish(reading.capture.frames)


def _list_acks(reading: Reading, results: Results, *, json: bool) -> None:
    from rdstool.stats import Collector  # noqa: PLC0415
    from rdstool.stats.listing import HEADING, ack_lines  # noqa: PLC0415

    collector: Collector | None = None

    def write(sent: Sent) -> None:
        results.write("".join(ack_lines(sent, reading.capture.streams, json=json)))

    if not json:
        results.write(HEADING)
    with reading:
        for decoded in reading.batches():
            if collector is None:
                collector = Collector(reading.capture.streams, write)
            collector.take(decoded)
    if collector is not None:
        collector.acks.finish()


def _show(stats: CaptureStats, names: list[str], results: Results, *, json: bool, all_rows: bool) -> None:
    if json:
        from rdstool.stats.listing import record_lines  # noqa: PLC0415

        found = record_lines(stats, names)
        while text := "".join(islice(found, LINES_AT_ONCE)):
            results.write(text)
        return
    from rich.console import Console  # noqa: PLC0415

    from rdstool.stats.tables import sections  # noqa: PLC0415

    console = Console(
        force_terminal=results.colour,
        no_color=not results.colour,
        width=results.width or WIDTH,
        safe_box=not results.unicode,
        highlight=False,
    )
    with console.capture() as captured:
        console.print(sections(stats, names, all_rows=all_rows))
    lines = [line.rstrip() for line in captured.get().splitlines()]
    results.write("".join(f"{line}\n" for line, next_line in pairwise([*lines, "."]) if line or next_line))
