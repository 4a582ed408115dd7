"""The options of all commands that run a node, and the node that they ask for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rdstool.cli.carriers import AUTO, IB, TCP, TRANSPORTS, carrier_named
from rdstool.cli.choices import given, one_of
from rdstool.cli.output import STANDARD_OUTPUT
from rdstool.errors import UsageError
from rdstool.protocol.profile import PROFILES
from rdstool.transport.ib.names import PROVIDERS, ROCE

if TYPE_CHECKING:
    from rdstool.endpoint.core import NodeOptions
    from rdstool.protocol.config import Settings


_SYSCTLS = "net.rds."
DEFAULT_PROFILE = next(iter(PROFILES))


def _named_file(path: Path | None) -> Path | None:
    if str(path) == STANDARD_OUTPUT:
        raise UsageError("--pcap -: standard output is for the results; name a file, or a FIFO")
    return path


Pcap = Annotated[
    Path | None,
    typer.Option(
        "--pcap",
        metavar="FILE",
        help="Record all traffic in this pcapng file; needs no privileges.",
        callback=_named_file,
    ),
]
Paths = Annotated[int, typer.Option("--paths", metavar="N", min=1, max=8, help="Paths to offer to the peer over TCP.")]
ProfileName = Annotated[
    str,
    typer.Option(
        "--profile",
        metavar="NAME",
        help=f"Behave as this kernel generation: {', '.join(PROFILES)}.",
        autocompletion=lambda: list(PROFILES),
    ),
]
TransportName = Annotated[
    str,
    typer.Option(
        "--transport",
        metavar="NAME",
        help="What carries RDS: tcp, ib (InfiniBand), or auto (what the peer speaks).",
        autocompletion=lambda: [*TRANSPORTS, AUTO],
    ),
]
ProviderName = Annotated[
    str,
    typer.Option(
        "--provider",
        metavar="NAME",
        help="InfiniBand by roce (RoCE v2 in userspace) or verbs (a device of this machine; needs pyverbs).",
        autocompletion=lambda: list(PROVIDERS),
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Set a sysctl, as reconnect_max_delay_ms=500 or net.rds.ping_enable=0 (repeatable).",
    ),
]
SendBuffer = Annotated[
    int | None, typer.Option("--sndbuf", metavar="BYTES", min=1, help="SO_SNDBUF: bytes that may be unacknowledged.")
]
ReceiveBuffer = Annotated[
    int | None, typer.Option("--rcvbuf", metavar="BYTES", min=1, help="SO_RCVBUF: bytes unread before congestion.")
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Tell on stderr what happens to connections.")]


def check_paths(context: typer.Context, transport: str) -> None:
    """Raise ``UsageError`` where ``--paths`` was given and has no effect."""
    if transport == IB and given(context, "paths"):
        raise UsageError("--paths is for TCP: InfiniBand has no more than one")


def settings(
    assignments: Sequence[str] | None, *, paths: int = 8, sndbuf: int | None = None, rcvbuf: int | None = None
) -> Settings:
    """Settings of a node from ``NAME=VALUE``, with or without ``net.rds.`` before NAME. Raises ``UsageError``."""
    from rdstool.protocol.config import SYSCTLS, Settings  # noqa: PLC0415

    values: dict[str, int] = {"paths": paths}
    if sndbuf is not None:
        values["sndbuf"] = sndbuf
    if rcvbuf is not None:
        values["rcvbuf"] = rcvbuf
    by_field = {field.name: field for field in dataclasses.fields(Settings)}
    for assignment in assignments or ():
        name, equals, value = assignment.partition("=")
        field = SYSCTLS.get(_SYSCTLS + name.strip().removeprefix(_SYSCTLS))
        if not equals or field is None:
            known = ", ".join(SYSCTLS)
            raise UsageError(f"--set {assignment}: write NAME=VALUE with one of {known}")
        try:
            number = int(value)
        except ValueError:
            raise UsageError(f"--set {assignment}: {value!r} is not a number") from None
        if number < 0:
            raise UsageError(f"--set {assignment}: {number} is below 0")
        values[field] = bool(number) if by_field[field].type == "bool" else number
    try:
        return Settings(**values)  # type: ignore[arg-type]
    except ValueError as problem:
        raise UsageError(str(problem)) from None


def node_options(
    settings_of_node: Settings,
    *,
    profile: str = DEFAULT_PROFILE,
    pcap: Path | None = None,
    transport: str = TCP,
    provider: str = ROCE,
) -> NodeOptions:
    """How a command's node runs. Raises ``UsageError`` where there is no such profile, transport or provider."""
    from rdstool.endpoint.core import NodeOptions  # noqa: PLC0415

    one_of("--profile", profile, PROFILES)
    carrier = carrier_named(transport, provider, pcap)
    return NodeOptions(
        settings_of_node, profile=PROFILES[profile], transport=carrier, provider=provider, pcap=pcap, control=True
    )
