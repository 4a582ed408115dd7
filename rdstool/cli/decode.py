"""``rdstool decode``: the RDS messages of captures, as lines, trees, JSON, CSV or Parquet."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rdstool.cli.choices import one_of
from rdstool.cli.decode_forms import TIME_FORMS, Form, check_fields, form_of, time_form, view_of
from rdstool.cli.inputs import ENGINES, NATIVE, Files, Follow, Jobs, Reading, TcpChecksums, TcpPorts, open_inputs
from rdstool.cli.output import STANDARD_OUTPUT, Results, note, warn
from rdstool.errors import UsageError
from rdstool.words import plural

if TYPE_CHECKING:
    from rdstool.cli.showing import Show
    from rdstool.export.selected import Selected
    from rdstool.filter import Filter


def _complete_fields(incomplete: str) -> list[str]:
    """Field names for the last name of a comma-separated list."""
    from rdstool.fields import registry  # noqa: PLC0415

    done, comma, start = incomplete.rpartition(",")
    return [f"{done}{comma}{name}" for name in registry() if name.startswith(start)]


def decode(
    files: Files,
    verbose: Annotated[bool, typer.Option("--verbose", "-V", help="All fields of each message.")] = False,
    dump: Annotated[bool, typer.Option("--hex", "-x", help="Hex dump of each message, fields coloured.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    csv: Annotated[bool, typer.Option("--csv", help="CSV with a heading.")] = False,
    parquet: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Write Parquet instead of lines; - is standard output.")
    ] = None,
    digest: Annotated[bool, typer.Option("--hash", help="Add the SHA-256 of each payload.")] = False,
    filter_text: Annotated[
        str | None, typer.Option("--filter", "-Y", metavar="EXPR", help="Show only what passes this display filter.")
    ] = None,
    fields: Annotated[
        str | None,
        typer.Option(
            "--fields", "-e", metavar="A,B,C", help="Show only these fields.", autocompletion=_complete_fields
        ),
    ] = None,
    count: Annotated[
        int | None, typer.Option("--count", "-c", metavar="N", min=1, help="Stop after N lines or messages.")
    ] = None,
    time: Annotated[
        str | None,
        typer.Option(
            "--time",
            "-t",
            metavar="FORM",
            help=f"Times as {', '.join(TIME_FORMS)}.",
            autocompletion=lambda: list(TIME_FORMS),
        ),
    ] = None,
    rdma: Annotated[bool, typer.Option("--rdma", help="Show RDMA operations as lines of their own.")] = False,
    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            metavar="native|tshark",
            help="Decode with rdstool, or through tshark and the Wireshark plugin.",
            autocompletion=lambda: list(ENGINES),
        ),
    ] = NATIVE,
    follow: Follow = False,
    tcp_port: TcpPorts = None,
    tcp_checksums: TcpChecksums = False,
    jobs: Jobs = 1,
) -> None:
    """Show the RDS messages of captures, one line each, in the order in which they were completed.

    Filters are those of Wireshark; `rdstool fields` lists the names.

    \b
    Examples:
      rdstool decode capture.pcap
      rdstool decode --json -Y 'rds.flags.retransmitted == 1' capture.pcap.gz
    """  # noqa: D301
    from rdstool.cli.showing import Show  # noqa: PLC0415
    from rdstool.export.times import Clock  # noqa: PLC0415

    form = form_of(verbose=verbose, dump=dump, json=json, csv=csv, parquet=parquet is not None)
    if fields is not None:
        check_fields(form)
    clock = Clock(time_form(form, time, only_fields=fields is not None))
    if digest and fields is not None:
        raise UsageError("--hash is for whole messages; name rds.sha256 among the --fields")
    if rdma and form is Form.PARQUET:
        raise UsageError("--rdma and --parquet exclude each other: that file is of messages alone")
    one_of("--engine", engine, ENGINES)
    accepted = _accepted(filter_text) if filter_text is not None else None
    chosen = _chosen(fields) if fields is not None else []
    for text in accepted.warnings() if accepted else ():
        warn(text)
    used = {item.info.name for item in chosen} | (accepted.fields() if accepted else set())
    reading = open_inputs(
        files,
        tcp_ports=tcp_port,
        tcp_checksums=tcp_checksums,
        follow=follow,
        jobs=jobs,
        digests=digest or "rds.sha256" in used,
        payloads=dump or "rds.payload" in used,
        engine=engine,
    )
    show = Show(accepted, count, rdma=rdma)
    with reading, ExitStack() as stack:
        if parquet is not None:
            _to_parquet(reading, show, parquet, stack)
        else:
            results = stack.enter_context(Results(at_once=follow))
            # With several files, each message names its own.
            label = reading.label if len(reading.capture.paths) > 1 else None
            show.to(view_of(form, chosen, results, label), reading, results, clock)
    _conclude(reading, show, parquet)
    raise typer.Exit(reading.exit_code())


def _accepted(text: str) -> Filter:
    from rdstool.filter import compile_filter  # noqa: PLC0415

    return compile_filter(text)


def _chosen(fields: str) -> list[Selected]:
    from rdstool.export.selected import select  # noqa: PLC0415

    return select(fields)


def _to_parquet(reading: Reading, show: Show, path: Path, stack: ExitStack) -> None:
    from rdstool.export.parquet import ParquetFile  # noqa: PLC0415

    if any(path.resolve() == Path(name).resolve() for name in reading.capture.paths):
        raise UsageError(f"{path} is one of the captures; name another file for --parquet")
    file = stack.enter_context(ParquetFile(sys.stdout.buffer if str(path) == STANDARD_OUTPUT else path))
    for columns, keep in show.kept(reading):
        file.write(columns, keep)


def _conclude(reading: Reading, show: Show, parquet: Path | None) -> None:
    """Tell on stderr what the results cannot say."""
    if parquet is not None:
        place = "standard output" if str(parquet) == STANDARD_OUTPUT else parquet
        note(f"{plural(show.shown, 'message')} written to {place}")
    if show.messages and show.accepted is not None and not show.shown:
        operations = plural(show.operations_left_out, "RDMA operation")
        more = f"; {operations} did, which --rdma shows" if show.operations_left_out else ""
        note(f"0 of {plural(show.messages, 'message')} passed the filter{more}")
    reading.warn_of_nothing(show.messages)
