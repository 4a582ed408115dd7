"""``rdstool send``: datagrams to RDS ports, and what became of them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rdstool.cli.carriers import TCP, transport_to
from rdstool.cli.choices import given
from rdstool.cli.copies import Copies
from rdstool.cli.endpoints import log_to_stderr, run_node
from rdstool.cli.exit_codes import ExitCode
from rdstool.cli.node_options import (
    DEFAULT_PROFILE,
    Paths,
    Pcap,
    ProfileName,
    ProviderName,
    SendBuffer,
    Set,
    TransportName,
    Verbose,
    check_paths,
    node_options,
    settings,
)
from rdstool.cli.numbers import DURATION, time_limit
from rdstool.cli.output import Results, json_line, note
from rdstool.cli.payloads import DISTRIBUTIONS, PATTERNS, STANDARD_INPUT, from_file, made_up, sizes, stdin_lines
from rdstool.cli.places import DEFAULT_PORT, Place, place, source_for
from rdstool.errors import UsageError
from rdstool.protocol import events
from rdstool.protocol.addresses import same_family
from rdstool.protocol.names import checked_host
from rdstool.protocol.reasons import SendStatus
from rdstool.transport.ib.names import ROCE
from rdstool.words import plural

if TYPE_CHECKING:
    from rdstool.endpoint.node import AsyncSocket, Node

SEND_BUFFER_BYTES = 4 << 20
"""SO_SNDBUF where the user does not say: room for the longest message, and for some more behind it."""
MAX_SOCKETS = 10_000


@dataclass(slots=True)
class Tally:
    """What became of the messages to one destination."""

    destination: Place
    source: Place
    """The first socket that sends."""
    sockets: int = 1
    sent: int = 0
    bytes: int = 0
    acknowledged: int = 0
    ended: int = 0
    """Acknowledged or given up."""
    seconds: float = 0.0
    complete: bool = False
    """All messages were sent, and all acknowledged."""
    news: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when one more message has ended."""

    def as_dict(self) -> dict[str, object]:
        """A line of ``--json``."""
        return {
            "destination": str(self.destination),
            "source": str(self.source) if self.sockets == 1 else self.source.address,
            "sockets": self.sockets,
            "sent": self.sent,
            "bytes": self.bytes,
            "acknowledged": self.acknowledged,
            "seconds": round(self.seconds, 6),
        }

    def line(self) -> str:
        """The line for people."""
        told = self.acknowledged > 1 and self.seconds > 0
        rate = f", {self.acknowledged / self.seconds:,.0f} messages/s" if told else ""
        source = self.source if self.sockets == 1 else f"{self.sockets} sockets"
        return (
            f"{self.destination}: {plural(self.sent, 'message')}, {plural(self.bytes, 'byte')} sent from {source}"
            f"; {self.acknowledged} acknowledged in {self.seconds:.3f} s{rate}"
        )


def send(
    context: typer.Context,
    destinations: Annotated[
        list[str], typer.Argument(metavar="DEST[:PORT]...", help=f"Where to, {DEFAULT_PORT} by default; port 0 pings.")
    ],
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="ADDR[:PORT]", help="Own address (default: the one that routes to the peer)."),
    ] = None,
    message: Annotated[
        list[str] | None, typer.Option("--message", "-m", metavar="TEXT", help="Send this text (repeatable).")
    ] = None,
    file: Annotated[
        list[Path] | None,
        typer.Option(
            "--file", "-f", metavar="FILE", help="Send a whole file as one message (repeatable); - is standard input."
        ),
    ] = None,
    count: Annotated[
        int | None, typer.Option("--count", "-c", metavar="N", min=1, help="Send N made-up messages.")
    ] = None,
    size: Annotated[
        str, typer.Option("--size", "-s", metavar="N|MIN-MAX", help="Their sizes in bytes; K and M are known.")
    ] = "64",
    distribution: Annotated[
        str,
        typer.Option(
            metavar="KIND", help=f"Of sizes: {', '.join(DISTRIBUTIONS)}.", autocompletion=lambda: list(DISTRIBUTIONS)
        ),
    ] = DISTRIBUTIONS[0],
    pattern: Annotated[
        str,
        typer.Option(
            metavar="KIND", help=f"Their content: {', '.join(PATTERNS)}.", autocompletion=lambda: list(PATTERNS)
        ),
    ] = PATTERNS[0],
    seed: Annotated[int, typer.Option(metavar="N", help="Same seed, same messages.")] = 0,
    rate: Annotated[float | None, typer.Option(metavar="N", min=0.001, help="Messages a second, at most.")] = None,
    sockets: Annotated[
        int, typer.Option(metavar="N", min=1, max=MAX_SOCKETS, help="Send from N sockets in turn, to each destination.")
    ] = 1,
    timeout: Annotated[
        str | None, typer.Option(metavar=DURATION, help="Give up what is not acknowledged by then.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="The result as one JSON object a destination.")] = False,
    transport: TransportName = TCP,
    provider: ProviderName = ROCE,
    pcap: Pcap = None,
    paths: Paths = 8,
    profile: ProfileName = DEFAULT_PROFILE,
    sndbuf: SendBuffer = None,
    assignments: Set = None,
    verbose: Verbose = False,
) -> None:
    """Send datagrams, wait until they are acknowledged, and tell what was delivered.

    Without --message, --file or --count each line of standard input is a message. Nobody needs to be there yet: the
    peer is tried again and again, until --timeout. Several destinations get the same messages, each at its own pace:
    one that is not there holds up no other, unless --from names a port: then one socket sends to all.

    \b
    Examples:
      rdstool send 10.0.0.2:4000 -m hello
      rdstool send 127.0.0.2:4000 --from 127.0.0.1:5000 --count 1000 --size 1-64K
    """  # noqa: D301
    check_paths(context, transport)
    places = [place(text) for text in destinations]
    own = place(source, 0) if source is not None else Place(source_for(places[0].address, transport), 0)
    for each in places:
        if not same_family(own.address, checked_host(each.address)):
            raise UsageError(f"cannot send from {own.address} to {each.address}: one is IPv4, the other IPv6")
    if own.port and sockets > 1:
        raise UsageError(f"--sockets {sockets}: only one socket can have port {own.port}; leave the port out of --from")
    if count is not None and (message or file):
        raise UsageError("--count is for made-up messages; leave it out, or --message and --file")
    if count is None and (idle := given(context, "size", "distribution", "pattern", "seed")):
        raise UsageError(f"{idle[0]} is for made-up messages: add --count N")
    if sum(str(each) == STANDARD_INPUT for each in file or ()) > 1:
        raise UsageError(f"--file {STANDARD_INPUT}: standard input can be read only once; name it once")
    timeout_s = time_limit(timeout) if timeout is not None else None
    wanted = sizes(size, distribution)
    if given(context, "distribution") and wanted.smallest == wanted.largest:
        raise UsageError(f"--distribution {distribution}: one size has none; write --size MIN-MAX")
    transport = transport_to(transport, [each.address for each in places], own.address, provider)
    buffer = sndbuf or SEND_BUFFER_BYTES
    options = node_options(
        settings(assignments, paths=paths, sndbuf=buffer),
        profile=profile,
        pcap=pcap,
        transport=transport,
        provider=provider,
    )
    log_to_stderr(verbose=verbose)
    from rdstool.endpoint.node import Node  # noqa: PLC0415

    wanted_messages: Callable[[], Iterable[bytes]] | None = None
    if message or file:
        written = [os.fsencode(text) for text in message or ()] + [from_file(each) for each in file or ()]
        wanted_messages = partial(iter, written)
    elif count is not None:
        wanted_messages = partial(made_up, count, wanted, pattern, seed)
        wanted_messages()  # says at once where the pattern is none

    with Results(at_once=True) as results:

        def ended(tally: Tally) -> None:
            results.write(json_line(tally.as_dict()) if json else tally.line() + "\n")

        job = _Job(places, own, sockets, wanted_messages, rate, timeout_s, ended)
        code = run_node(Node(own.address, options=options), job.run)
    raise typer.Exit(code)


async def _from(messages: Iterable[bytes]) -> AsyncIterator[bytes]:
    for data in messages:
        yield data


@dataclass(slots=True)
class _Job:
    """Messages on their way. Each destination has sockets of its own: none waits for another's acknowledgements.

    A port that was asked for has one socket, which all share.
    """

    places: list[Place]
    own: Place
    sockets: int
    """Sockets for each destination."""
    messages: Callable[[], Iterable[bytes]] | None
    """None for the lines of standard input."""
    rate: float | None
    timeout_s: float | None
    ended: Callable[[Tally], None]
    """Is told of each destination when all is done there, or given up."""
    tallies: list[Tally] = field(default_factory=list)

    async def run(self, node: Node) -> ExitCode:
        """Send each message to all destinations, and wait for acknowledgements."""
        if self.own.port:
            sockets = [[node.socket(self.own.port)]] * len(self.places)
        else:
            sockets = [[node.socket(0) for _ in range(self.sockets)] for _ in self.places]
        self.tallies = [
            Tally(each, Place(*own[0].getsockname()), len(own)) for each, own in zip(self.places, sockets, strict=True)
        ]
        node.on_event(self._hear)
        tasks: list[asyncio.Task[None]] = []

        def let_go(index: int) -> bool:
            peer = self.places[index].address
            if node.reached(peer):
                return False
            note(f"gave up {self.tallies[index].destination}: it cannot be reached, and too much waits for it")
            return tasks[index].cancel()

        sources = self._sources(let_go)
        # Answers are nobody's here, but unread they would congest the port.
        readers = [asyncio.create_task(_read_away(sock)) for sock in dict.fromkeys(chain(*sockets))]
        try:
            async with asyncio.timeout(self.timeout_s), asyncio.TaskGroup() as group:
                began = asyncio.get_running_loop().time()
                for number, source in enumerate(sources):
                    tasks.append(group.create_task(self._serve(number, sockets[number], source, began)))
        except TimeoutError:
            note(f"gave up after {self.timeout_s:g} s")
        finally:
            for reader in readers:
                reader.cancel()
        return ExitCode.CLEAN if all(each.complete for each in self.tallies) else ExitCode.PROBLEMS

    def _sources(self, let_go: Callable[[int], bool]) -> list[AsyncIterator[bytes]]:
        if self.messages is not None:
            return [_from(self.messages()) for _ in self.places]
        if len(self.places) == 1:
            return [stdin_lines()]
        copies = Copies(stdin_lines(), len(self.places), let_go)
        return [copies.of(index) for index in range(len(self.places))]

    def _hear(self, event: events.Event) -> None:
        if isinstance(event, events.SendFinished):
            tally = self.tallies[event.token]
            tally.acknowledged += event.status is SendStatus.ACKNOWLEDGED
            tally.ended += 1
            tally.news.set()

    async def _serve(
        self, token: int, sockets: list[AsyncSocket], messages: AsyncIterator[bytes], began: float
    ) -> None:
        """Do all that has to do with one destination."""
        loop = asyncio.get_running_loop()
        tally = self.tallies[token]
        drains: list[asyncio.Task[None]] = []
        try:
            async for data in messages:
                if self.rate is not None and (wait := began + tally.sent / self.rate - loop.time()) > 0:
                    await asyncio.sleep(wait)
                await sockets[tally.sent % len(sockets)].sendmsg(data, tally.destination, token=token)
                tally.sent += 1
                tally.bytes += len(data)
            drains = [loop.create_task(sock.drain()) for sock in sockets]
            while tally.ended < tally.sent:
                tally.news.clear()
                await tally.news.wait()
            tally.complete = tally.acknowledged == tally.sent
        finally:
            tally.seconds = loop.time() - began
            for drain in drains:
                drain.cancel()
            self.ended(tally)


async def _read_away(sock: AsyncSocket) -> None:
    while True:
        await sock.recvmsg()
