"""``rdstool info``: the state of running nodes, or of the kernel's RDS, as rds-info of rds-tools shows it."""

from __future__ import annotations

import errno
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rdstool.cli.info_tables import COUNTERS, TABLES, counters, table_lines
from rdstool.cli.output import Results, json_line, warn
from rdstool.errors import TransportError, UsageError

if TYPE_CHECKING:
    from rdstool.endpoint.running import RunningNode

_PROTOCOLS = Path("/proc/net/protocols")
"""Where Linux lists the kinds of sockets that it knows."""


def _option(section: str) -> Any:
    table = TABLES[section]
    return typer.Option(f"-{table.option}", help=table.summary)


@dataclass(slots=True)
class Source:
    """Where tables come from: a node, or the kernel."""

    title: str
    """Heading for people."""
    labels: dict[str, object]
    """Keys that each line of ``--json`` begins with."""
    sections: dict[str, Any] = field(default_factory=dict)
    """Records of each table that there is; of the counters values by name."""
    truncated: tuple[str, ...] = ()


def info(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Only these counters; * and ? are known.")
    ] = None,
    connections: Annotated[bool, _option("connections")] = False,
    send_messages: Annotated[bool, _option("send_messages")] = False,
    retransmit_messages: Annotated[bool, _option("retransmit_messages")] = False,
    receive_messages: Annotated[bool, _option("receive_messages")] = False,
    sockets: Annotated[bool, _option("sockets")] = False,
    counted: Annotated[bool, _option(COUNTERS)] = False,
    tcp_sockets: Annotated[bool, _option("tcp_sockets")] = False,
    ib_connections: Annotated[bool, _option("ib_connections")] = False,
    node: Annotated[
        list[str] | None,
        typer.Option("--node", metavar="ADDRESS|PID", help="Only this node of several (repeatable)."),
    ] = None,
    kernel: Annotated[bool, typer.Option("--kernel", help="Show the kernel's RDS, not that of nodes.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="More of each record; all paths, not only path 0.")
    ] = False,
    _both: Annotated[bool, typer.Option("-a", help="As in rds-info: IPv6 too. Here both are always shown.")] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a record, with its section.")] = False,
) -> None:
    """Show connections, sockets, queues and counters of the nodes that run here, as rds-info does of a kernel.

    All sections, unless some are chosen. Nodes are those of this user; where none runs, the kernel's RDS is shown, if
    it is loaded.

    \b
    Examples:
      rdstool info -n -v
      rdstool info -c 'recv_*' --node 10.0.0.1
      rdstool info --kernel
    """  # noqa: D301
    given = {
        "ib_connections": ib_connections,
        "tcp_sockets": tcp_sockets,
        COUNTERS: counted or bool(names),
        "sockets": sockets,
        "connections": connections,
        "receive_messages": receive_messages,
        "send_messages": send_messages,
        "retransmit_messages": retransmit_messages,
    }
    chosen = [section for section, wanted in given.items() if wanted]
    if kernel and node:
        raise UsageError("--kernel shows no node: leave out --node")
    sources = _sources(chosen or list(TABLES), node or [], kernel=kernel)
    for source in sources:
        _prepare(source, names or [])
        for section in chosen:
            if section not in source.sections:
                warn(f"{source.title} does not have this table: {TABLES[section].title}")
        for section in source.truncated:
            warn(f"{source.title} has more: only the first {len(source.sections[section])} of {TABLES[section].title}")
    shown = [record["name"] for source in sources for record in source.sections.get(COUNTERS, ())]
    if unknown := [name for name in names or () if not fnmatch.filter(shown, name)]:
        raise UsageError(f"no counter is called {' or '.join(unknown)}: see all with 'rdstool info -c'")
    with Results() as results:
        for source in sources:
            results.write(_as_json(source) if json else _as_text(source, verbose=verbose, alone=len(sources) == 1))


# ---- Where it comes from


def _sources(sections: Sequence[str], wanted: Sequence[str], *, kernel: bool) -> list[Source]:
    """Raises ``UsageError`` where there is nothing to show."""
    if kernel:
        return [_kernel(sections)]
    from rdstool.endpoint.running import running_nodes  # noqa: PLC0415

    nodes = running_nodes()
    for name in wanted:
        if not any(node.matches(name) for node in nodes):
            known = "; ".join(map(str, nodes)) or "none"
            raise UsageError(f"no running node of this user has the address or process {name}: there are {known}")
    if nodes:
        return [
            source
            for node in nodes
            if not wanted or any(node.matches(name) for name in wanted)
            if (source := _node(node, sections)) is not None
        ]
    if _rds_is_loaded():
        return [_kernel(sections)]
    raise UsageError("no rdstool node of this user runs here, and the kernel's RDS is not loaded (modprobe rds_tcp)")


def _node(node: RunningNode, sections: Sequence[str]) -> Source | None:
    from rdstool.endpoint.running import ask  # noqa: PLC0415
    from rdstool.endpoint.snapshot import SECTIONS  # noqa: PLC0415

    try:
        answer = ask(node, [name for name in sections if name in SECTIONS])
    except TransportError as problem:
        warn(str(problem))
        return None
    labels = {"source": "node", "pid": node.pid, "addresses": list(node.addresses)}
    return Source(f"node {node}", labels, answer["sections"], tuple(answer["truncated"]))


def _rds_is_loaded() -> bool:
    """Whether this kernel has RDS now. Opening a socket would tell too, but also load the module."""
    try:
        return any(line.startswith("RDS ") for line in _PROTOCOLS.read_text().splitlines())
    except OSError:
        return False


def _kernel(sections: Sequence[str]) -> Source:
    """Raises ``UsageError`` where the kernel has no RDS."""
    from rdstool.afrds import info as kernel  # noqa: PLC0415
    from rdstool.afrds.sockets import open_socket  # noqa: PLC0415

    source = Source("the kernel", {"source": "kernel"})
    try:
        sock = open_socket()
    except OSError as problem:
        raise UsageError(f"this kernel has no RDS ({problem.strerror}): load it with 'modprobe rds_tcp'") from None
    with sock:
        for section in sections:
            try:
                source.sections[section] = (
                    kernel.counters(sock) if section == COUNTERS else kernel.both_families(sock, section)
                )
            except OSError as problem:
                # The table of a transport is there while its module is loaded.
                if problem.errno != errno.ENOPROTOOPT:
                    raise
    return source


# ---- How it is shown


def _prepare(source: Source, names: Sequence[str]) -> None:
    if COUNTERS in source.sections:
        source.sections[COUNTERS] = counters(source.sections[COUNTERS], names)


def _as_json(source: Source) -> str:
    return "".join(
        json_line({**source.labels, "section": section, **record})
        for section in TABLES
        for record in source.sections.get(section, ())
    )


def _as_text(source: Source, *, verbose: bool, alone: bool) -> str:
    lines = [] if alone and not verbose else [f"{source.title[0].upper()}{source.title[1:]}:"]
    for section in TABLES:
        if section in source.sections:
            lines += table_lines(section, source.sections[section], verbose=verbose)
    if not alone:
        lines.append("")
    return "".join(f"{line}\n" for line in lines)
