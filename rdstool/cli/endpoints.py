"""What all commands that speak RDS share: addresses, options of a node, and a run that ends well.

async def job(running: Running) -> ExitCode:
    ...
raise typer.Exit(run_node(node, job))
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from rdstool.cli.choices import one_of
from rdstool.cli.exit_codes import ExitCode
from rdstool.cli.output import PROGRAM, STANDARD_OUTPUT, error, note, one_line
from rdstool.errors import TransportError, UsageError, first_of
from rdstool.transport.scopes import host_of, socket_address

if TYPE_CHECKING:
    from rdstool.endpoint.core import NodeOptions
    from rdstool.endpoint.node import Node
    from rdstool.protocol.config import Settings
    from rdstool.protocol.kinds import Transport

DEFAULT_PORT = 4000
"""RDS port where an address comes without one."""
PROFILES = ("linux-7", "linux-6", "uek", "single-path")
DEFAULT_PROFILE = PROFILES[0]
TCP, IB = TRANSPORTS = ("tcp", "ib")
AUTO = "auto"
"""For listeners both transports, for senders the one by which the peer answers."""
ROCE, VERBS = PROVIDERS = ("roce", "verbs")
COLLECT_AFTER = 700
"""Objects between two searches for cycles while a node runs; Python's own value."""
TRYING_ON_S = 5.0
"""Between two notes that a peer cannot be reached."""


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
Paths = Annotated[int, typer.Option("--paths", metavar="N", min=1, max=8, help="Paths to offer to the peer.")]
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
        "--set", metavar="NAME=VALUE", help="Set a sysctl, as net.rds.reconnect_max_delay_ms=500 (repeatable)."
    ),
]
SendBuffer = Annotated[
    int | None, typer.Option("--sndbuf", metavar="BYTES", min=1, help="SO_SNDBUF: bytes that may be unacknowledged.")
]
ReceiveBuffer = Annotated[
    int | None, typer.Option("--rcvbuf", metavar="BYTES", min=1, help="SO_RCVBUF: bytes unread before congestion.")
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Tell on stderr what happens to connections.")]


class Place(NamedTuple):
    """An IP address and an RDS port."""

    address: str
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


def place(text: str, port: int = DEFAULT_PORT) -> Place:
    """``HOST``, ``HOST:PORT``, ``V6`` or ``[V6]:PORT``; names are looked up. Raises ``UsageError``.

    What reads as an IPv6 address as well as a shorter one and a port is the address, and that is told.
    """
    host, port_text = text, ""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise UsageError(f"{text!r} is not an address: write [ADDRESS]:PORT")
        port_text = rest[1:]
    elif text.count(":") == 1:
        host, _, port_text = text.partition(":")
    elif (shorter := text.rpartition(":"))[2].isdigit() and _is_ipv6(shorter[0]):
        note(f"{text} is taken for an address: for port {shorter[2]}, write [{shorter[0]}]:{shorter[2]}")
    if port_text:
        if not port_text.isascii() or not port_text.isdigit() or int(port_text) > 0xFFFF:
            raise UsageError(f"{port_text!r} in {text!r} is not a port: they are 0 to 65535")
        port = int(port_text)
    return Place(resolve(host), port)


def _is_ipv6(text: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6, text.partition("%")[0])
    except OSError:
        return False
    return True


def cookie_number(text: str) -> int:
    """A cookie of RDMA, decimal or with 0x. Raises ``UsageError``."""
    try:
        value = int(text, 0)
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 64:
        raise UsageError(f"{text!r} is not a cookie: a number of 64 bits, such as 0x1f3a")
    return value


def resolve(host: str) -> str:
    """The IP address of a host, IPv4 before IPv6. Raises ``UsageError``."""
    if not host:
        raise UsageError("an address is missing before the port")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if host.count(":") == 1 or "]:" in host:
        raise UsageError(f"{host!r}: no port belongs here, only an address")
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as problem:
        why = getattr(problem, "strerror", None) or str(problem)
        raise UsageError(f"{host!r} is neither an address nor a known name ({why})") from None
    found.sort(key=lambda each: each[0] != socket.AF_INET)
    return host_of(found[0][4])


def source_for(destination: str, transport: str = TCP) -> str:
    """The address from which this machine reaches another one. Nothing is sent.

    Raises ``UsageError`` where there is none, ``SocketError`` where ``destination`` is not the address of one host.

    For a loopback address it is one that no other node has: any of 127.0.0.0/8 reaches any other.
    """
    from rdstool.protocol.names import checked_host  # noqa: PLC0415

    checked_host(destination)
    family = socket.AF_INET6 if ":" in destination else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(socket_address(destination, 1)[1])
            source = host_of(probe.getsockname())
    except OSError as problem:
        raise UsageError(
            f"this machine has no way to {destination} ({problem.strerror}): name the address to send from"
        ) from None
    if not source.startswith("127."):
        return source
    others = (f"127.0.0.{number}" for number in range(1, 255))
    return next((each for each in (source, *others) if each != destination and _is_free(each, transport)), source)


def _is_free(address: str, transport: str) -> bool:
    """No node listens on an address of this machine."""
    from dissectors.wire.encapsulation import ROCE_UDP_PORT  # noqa: PLC0415
    from dissectors.wire.rds import TCP_PORT  # noqa: PLC0415

    if transport == AUTO:
        return all(_is_free(address, each) for each in TRANSPORTS)
    over_tcp = transport == TCP
    with socket.socket(type=socket.SOCK_STREAM if over_tcp else socket.SOCK_DGRAM) as probe:
        if over_tcp:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, TCP_PORT if over_tcp else ROCE_UDP_PORT))
        except OSError:
            return False
    return True


def carriers(transport: str, provider: str) -> Sequence[str]:
    """What a listener has. Raises ``UsageError`` where that cannot be."""
    if transport != AUTO:
        return (transport,)
    if provider != ROCE:
        raise UsageError(f"--transport {AUTO} is for --provider {ROCE}: name the transport")
    return TRANSPORTS


def transport_to(transport: str, peers: Sequence[str], own: str, provider: str) -> str:
    """What carries RDS from ``own`` to all of ``peers``: the answer to ``auto``, else what was asked for.

    InfiniBand where each of them answers there, as kernels prefer it too; else TCP. Asked once; waits a second at most
    for each that does not answer. Raises ``UsageError`` as ``carriers``.
    """
    if len(carriers(transport, provider)) == 1:
        return transport
    from rdstool.transport.ib.answering import speaks_ib  # noqa: PLC0415

    chosen = IB if all(speaks_ib(peer, own) for peer in dict.fromkeys(peers)) else TCP
    note(f"auto: {', '.join(dict.fromkeys(peers))} over {chosen}")
    return chosen


def settings(
    assignments: Sequence[str] | None, *, paths: int = 8, sndbuf: int | None = None, rcvbuf: int | None = None
) -> Settings:
    """Settings of a node from ``net.rds.NAME=VALUE`` lines. Raises ``UsageError``."""
    from rdstool.protocol.config import SYSCTLS, Settings  # noqa: PLC0415

    values: dict[str, int] = {"paths": paths}
    if sndbuf is not None:
        values["sndbuf"] = sndbuf
    if rcvbuf is not None:
        values["rcvbuf"] = rcvbuf
    by_field = {field.name: field for field in dataclasses.fields(Settings)}
    for assignment in assignments or ():
        name, equals, value = assignment.partition("=")
        field = SYSCTLS.get(name.strip())
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
    from rdstool.protocol.profile import PROFILES as KNOWN  # noqa: PLC0415

    one_of("--profile", profile, KNOWN)
    carrier = carrier_named(transport, provider, pcap)
    return NodeOptions(
        settings_of_node, profile=KNOWN[profile], transport=carrier, provider=provider, pcap=pcap, control=True
    )


def carrier_named(transport: str, provider: str, pcap: Path | None) -> Transport:
    """The transport of that name, for which ``auto`` has been decided.

    Raises ``UsageError`` for an unknown name, and for options that do not go together.
    """
    from rdstool.protocol.kinds import Transport  # noqa: PLC0415

    one_of("--transport", transport, (*TRANSPORTS, AUTO))
    one_of("--provider", provider, PROVIDERS)
    if provider != ROCE and transport == TCP:
        raise UsageError(f"--provider {provider} is for InfiniBand: add --transport ib")
    if provider != ROCE and pcap is not None:
        raise UsageError(
            f"--pcap needs --provider {ROCE}: what a device sends no program sees, "
            "but rdstool capture on its network interface may"
        )
    return Transport[transport.upper()]


class Notices:
    """Tells on stderr when a peer for whom messages wait cannot be reached, and when it can again; not each time.

    ``first`` is the attempt whose failure is told first.
    """

    def __init__(self, node: Node, first: int = 1) -> None:
        from rdstool.protocol import events, info  # noqa: PLC0415

        self._told: dict[str, float] = {}
        self._node = node

        def hear(event: events.Event) -> None:
            if isinstance(event, events.ConnectFailed) and info.waits(node.engine, event.local, event.peer):
                if event.attempt >= first:
                    self._failed(event.peer, event.attempt, event.detail)
            elif isinstance(event, events.PathUp) and self._told.pop(event.peer, None) is not None:
                self._say(f"{event.peer} is reached now")

        node.on_event(hear)

    def _failed(self, peer: str, attempt: int, detail: str) -> None:
        now = self._node.engine.now
        if peer not in self._told or now - self._told[peer] >= TRYING_ON_S:
            self._told[peer] = now
            self._say(f"{peer} cannot be reached ({detail or 'no answer'}), attempt {attempt}; trying on, Ctrl-C ends")

    @staticmethod
    def _say(text: str) -> None:
        print(f"{PROGRAM}: {one_line(text)}", file=sys.stderr, flush=True)  # noqa: T201


def log_to_stderr(*, verbose: bool) -> None:
    """Show a node's log on stderr: what a peer did wrong, and with ``verbose`` all that happens to connections."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"{PROGRAM}: %(message)s"))
    logger = logging.getLogger("rdstool")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO if verbose else logging.WARNING)


def run_node(node: Node, job: Callable[[Node], Awaitable[ExitCode]]) -> ExitCode:
    """Run ``job`` on a started node. Ctrl-C and SIGTERM cancel it; what it does on the way out is still done."""
    return run_nodes([node], lambda nodes: job(nodes[0]))


def run_nodes(nodes: Sequence[Node], job: Callable[[Sequence[Node]], Awaitable[ExitCode]]) -> ExitCode:
    """The same for several nodes; all of them are recorded in the file of the first, which is to be complete."""
    complete = True

    async def end(node: Node) -> None:
        nonlocal complete
        try:
            await node.close()
        except TransportError as problem:
            complete = False
            error(str(problem))

    async def whole() -> ExitCode:
        async with AsyncExitStack() as stack:
            for node in nodes:
                await node.start()
                stack.push_async_callback(end, node)
                Notices(node)
                if node is not nodes[0]:
                    node.core.record_with(nodes[0].core)
            return await job(nodes)

    code = run_job(whole)
    return code if complete or code else ExitCode.PROBLEMS


def run_job(job: Callable[[], Awaitable[ExitCode]]) -> ExitCode:
    """The same for a job that starts its nodes by itself. Of tasks that fail together it raises the first error."""
    # Peers come and go for as long as a node runs, and what is forgotten of them refers to itself: it is looked for as
    # often as in any program, not as seldom as in a command that reads a file.
    gc.set_threshold(COLLECT_AFTER)

    async def whole() -> ExitCode:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await job()

    try:
        return asyncio.run(whole())
    except (KeyboardInterrupt, asyncio.CancelledError):
        return ExitCode.INTERRUPTED
    except BaseExceptionGroup as failed:
        raise first_of(failed) from None
