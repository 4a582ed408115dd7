"""``rdstool listen``: datagrams that come to RDS ports: shown, written to files, echoed, or only counted."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime
from itertools import count as counting
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rdstool.cli.carriers import AUTO, IB, TCP, carriers
from rdstool.cli.echo import Echo
from rdstool.cli.endpoints import log_to_stderr, run_nodes
from rdstool.cli.exit_codes import ExitCode
from rdstool.cli.node_options import (
    DEFAULT_PROFILE,
    Paths,
    Pcap,
    ProfileName,
    ProviderName,
    ReceiveBuffer,
    Set,
    TransportName,
    Verbose,
    check_paths,
    node_options,
    settings,
)
from rdstool.cli.numbers import DURATION, byte_count, time_limit
from rdstool.cli.output import Results, json_line, note
from rdstool.cli.places import Place, place
from rdstool.errors import UsageError
from rdstool.transport.ib.names import ROCE
from rdstool.words import plural

if TYPE_CHECKING:
    from rdstool.endpoint.node import AsyncSocket, Node

PREVIEW_BYTES = 60
"""Bytes of a payload that a line shows."""
MEMORY_FILE = "memory.bin"
"""What peers have made of the memory that was offered, in the directory of --write."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One message that came."""

    number: int
    time: datetime
    source: Place
    destination: Place
    """Where the socket is bound that it came to."""
    data: bytes

    def as_dict(self) -> dict[str, object]:
        """A line of ``--json``."""
        return {
            "number": self.number,
            "time": round(self.time.timestamp(), 6),
            "source": self.source.address,
            "sport": self.source.port,
            "destination": self.destination.address,
            "dport": self.destination.port,
            "length": len(self.data),
            "sha256": hashlib.sha256(self.data).hexdigest(),
        }

    def line(self, *, several: bool) -> str:
        """The line for people: who, where to if there are ``several`` addresses, how much, and how it begins."""
        to = self.destination if several else self.destination.port
        return (
            f"{self.time.astimezone():%H:%M:%S.%f} {self.source} > {to}  {plural(len(self.data), 'byte')}  "
            f"{preview(self.data)}"
        ).rstrip()


@dataclass(slots=True)
class Total:
    """What has come so far."""

    messages: int = 0
    bytes: int = 0
    first: float = 0.0
    last: float = 0.0

    def line(self) -> str:
        """The summary."""
        took = self.last - self.first
        rate = f" in {took:.3f} s, {self.messages / took:,.0f} messages/s" if self.messages > 1 and took > 0 else ""
        return f"{plural(self.messages, 'message')}, {plural(self.bytes, 'byte')} received{rate}"


def listen(
    context: typer.Context,
    addresses: Annotated[
        list[str], typer.Argument(metavar="ADDR[:PORT]...", help="Own address and port; port 0 takes a free one.")
    ],
    count: Annotated[
        int | None, typer.Option("--count", "-c", metavar="N", min=1, help="Stop after N messages.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a message.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="Write the payloads to standard output, as they are.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show no messages, only the summary.")] = False,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--write",
            "-w",
            metavar="DIR",
            help="Write each payload to a file of its own in DIR, named by number, sender and receiver.",
        ),
    ] = None,
    echo: Annotated[bool, typer.Option("--echo", "-e", help="Send each message back to where it came from.")] = False,
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="N", min=0.001, help="Read N messages a second at most, as a slow program that gets congested."
        ),
    ] = None,
    timeout: Annotated[str | None, typer.Option(metavar=DURATION, help="Stop after that time.")] = None,
    offer: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|BYTES", help="Offer memory for RDMA to peers: a file's content, or so many zeros; needs ib."
        ),
    ] = None,
    transport: TransportName = TCP,
    provider: ProviderName = ROCE,
    pcap: Pcap = None,
    paths: Paths = 8,
    profile: ProfileName = DEFAULT_PROFILE,
    rcvbuf: ReceiveBuffer = None,
    assignments: Set = None,
    verbose: Verbose = False,
) -> None:
    """Receive datagrams until Ctrl-C, --count or --timeout.

    Only the named addresses are listened on. Any address of this machine will do; to try it out, any of 127.0.0.0/8.

    \b
    Examples:
      rdstool listen 10.0.0.1:4000
      rdstool listen 127.0.0.2:4000 --json --count 10
      rdstool listen 127.0.0.2:4000 --transport ib --offer 1M --write kept
    """  # noqa: D301
    check_paths(context, transport)
    places = [place(text) for text in addresses]
    own = tuple(dict.fromkeys(each.address for each in places))
    if raw and (json or quiet):
        raise UsageError("--raw writes payloads to standard output: leave out --json and --quiet")
    if json and quiet:
        raise UsageError("--quiet shows no messages: leave it out, or --json")
    timeout_s = time_limit(timeout) if timeout is not None else None
    if directory is not None:
        _make(directory)
    memory = offered(offer, transport) if offer is not None else None
    if memory is not None and directory is not None and (kept := directory / MEMORY_FILE).exists():
        raise UsageError(f"{kept} exists already and is not overwritten: name another directory")
    log_to_stderr(verbose=verbose)
    made = settings(assignments, paths=paths, rcvbuf=rcvbuf)
    options = [
        node_options(made, profile=profile, pcap=None if number else pcap, transport=each, provider=provider)
        for number, each in enumerate(carriers(transport, provider))
    ]
    from rdstool.endpoint.node import Node  # noqa: PLC0415

    with Results(at_once=True) as results:

        def show(arrival: Arrival) -> None:
            if directory is not None:
                _write(directory, arrival)
            if raw:
                results.write_bytes(arrival.data)
            elif json:
                results.write(json_line(arrival.as_dict()))
            elif not quiet:
                results.write(arrival.line(several=len(own) > 1) + "\n")

        job = _Job(places, show, count=count, echo=echo, rate=rate, timeout_s=timeout_s, memory=memory)
        code = run_nodes([Node(*own, options=each) for each in options], job.run)
    if memory is not None and directory is not None:
        keep(directory / MEMORY_FILE, bytes(memory))
    missed = sum(each.missed for each in job.echoes)
    note(job.total.line() + (f"; {missed} not sent back" if missed else ""))
    raise typer.Exit(code)


@dataclass(slots=True)
class _Job:
    """Sockets that are read."""

    places: list[Place]
    show: Callable[[Arrival], None]
    _: KW_ONLY
    count: int | None
    echo: bool
    rate: float | None
    timeout_s: float | None
    memory: bytearray | None
    total: Total = field(default_factory=Total)
    echoes: list[Echo] = field(default_factory=list)
    """One for each socket, where messages are sent back."""

    async def run(self, nodes: Sequence[Node]) -> ExitCode:
        """Read until there is enough. Each place has one socket on each node, all with the same port."""
        sockets = [nodes[0].socket(each.port, address=each.address) for each in self.places]
        names = [sock.getsockname() for sock in sockets]
        sockets += [node.socket(port, address=address) for node in nodes[1:] for address, port in names]
        if self.echo:
            owners = [node for node in nodes for _ in names]
            self.echoes = [Echo(node, sock) for node, sock in zip(owners, sockets, strict=True)]
        for name in names:
            note(f"listening on {Place(*name)}, Ctrl-C ends")
        for sock in sockets:
            if self.memory is not None and sock.has_rdma:
                cookie = sock.offer_memory(self.memory)
                note(f"{plural(len(self.memory), 'byte')} of memory at {sock.getsockname()[0]}, cookie {cookie:#x}")
        try:
            async with asyncio.timeout(self.timeout_s), asyncio.TaskGroup() as group:
                readers = [
                    group.create_task(self._read(sock, echo, lambda: _cancel(readers)))
                    for sock, echo in zip_longest(sockets, self.echoes)
                ]
        except TimeoutError:
            short = self.count is not None and self.total.messages < self.count
            return ExitCode.PROBLEMS if short else ExitCode.CLEAN
        for sock in sockets:
            await sock.drain()
        return ExitCode.CLEAN

    async def _read(self, sock: AsyncSocket, echo: Echo | None, done: Callable[[], None]) -> None:
        total = self.total
        destination = Place(*sock.getsockname())
        loop = asyncio.get_running_loop()
        while True:
            data, sender = await sock.recvfrom()
            now = datetime.now(UTC)
            total.messages += 1
            total.bytes += len(data)
            total.last = loop.time()
            total.first = total.first or total.last
            self.show(Arrival(total.messages, now, Place(*sender), destination, data))
            if echo is not None and sender[1]:
                await echo.send(data, sender)
            if self.count is not None and total.messages >= self.count:
                done()
                return
            if self.rate is not None:
                await asyncio.sleep(1 / self.rate)


def _cancel(readers: list[asyncio.Task[None]]) -> None:
    for reader in readers:
        if reader is not asyncio.current_task():
            reader.cancel()


def offered(text: str, transport: str) -> bytearray:
    """The memory that ``--offer`` means. Raises ``UsageError``."""
    from rdstool.protocol.ib.memory import MAX_REGION_BYTES  # noqa: PLC0415

    if transport not in {IB, AUTO}:
        raise UsageError("--offer needs --transport ib: TCP has no RDMA")
    path = Path(text)
    size = path.stat().st_size if path.is_file() else byte_count(text, "--offer")
    if not 0 < size <= MAX_REGION_BYTES:
        raise UsageError(f"--offer {text}: {plural(size, 'byte')}; RDS has room for 1 to {MAX_REGION_BYTES}")
    return bytearray(path.read_bytes()) if path.is_file() else bytearray(size)


def preview(data: bytes) -> str:
    """The beginning of a payload: text in quotes where it is text, else hexadecimal digits."""
    if not data:
        return ""
    head = data[:PREVIEW_BYTES]
    text = _text_of(head, is_cut=len(head) < len(data))
    if text is None:
        head = data[: PREVIEW_BYTES // 2]  # two digits each
    shown = head.hex() if text is None else f'"{text}"'
    return shown if len(head) == len(data) else f"{shown} …"


def _text_of(head: bytes, *, is_cut: bool) -> str | None:
    """The bytes as text; None where they are not text that can be printed."""
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as problem:
        # A character that the cut has split is no reason to call it binary.
        if not is_cut or problem.start < len(head) - 3:
            return None
        text = head[: problem.start].decode("utf-8")
    return text if text.isprintable() else None


def _make(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UsageError(f"--write {directory}: it is not a directory") from None


def _write(directory: Path, arrival: Arrival) -> None:
    # With both ends in its name, no message takes the place of one to another own address, of this process or another.
    ends = "-".join(f"{_in_a_name(each.address)}-{each.port}" for each in (arrival.source, arrival.destination))
    name = f"{arrival.number:06}-{ends}"
    # That of an earlier run may be there. This one is acknowledged by now, and has to be kept as well.
    for times in counting(1):
        try:
            keep(directory / (f"{name}.bin" if times == 1 else f"{name}-{times}.bin"), arrival.data)
        except FileExistsError:
            continue
        return


def _in_a_name(address: str) -> str:
    return address.replace(":", "_").replace("%", "_")


def keep(path: Path, data: bytes) -> None:
    """Write ``data`` to a new file, all of it or none. Raises ``FileExistsError`` where there is one, ``OSError``."""
    out = path.open("xb")
    try:
        with out:
            out.write(data)
    except OSError as problem:
        path.unlink()  # half a message would pass for a whole one
        raise OSError(problem.errno, problem.strerror, str(path)) from None
