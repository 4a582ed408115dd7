"""``rdstool rdma``: the memory that a peer offers, as ``rdstool listen --offer`` does: read, written, counted in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dissectors.wire.rds import MAX_MESSAGE_BYTES
from rdstool.cli.carriers import IB
from rdstool.cli.choices import given
from rdstool.cli.commands import Commands
from rdstool.cli.endpoints import log_to_stderr, run_node
from rdstool.cli.exit_codes import ExitCode
from rdstool.cli.node_options import Pcap, ProviderName, Verbose, node_options, settings
from rdstool.cli.numbers import DURATION, number_64, operand_64, time_limit
from rdstool.cli.output import Results, note
from rdstool.cli.payloads import from_file
from rdstool.cli.places import place, resolve, source_for
from rdstool.errors import UsageError
from rdstool.transport.ib.names import ROCE

if TYPE_CHECKING:
    from rdstool.endpoint.node import AsyncSocket, Node

app = Commands(name="rdma")

Peer = Annotated[str, typer.Argument(metavar="ADDR", help="Address of the peer.")]
Cookie = Annotated[str, typer.Argument(metavar="COOKIE", help="What the peer calls its memory, such as 0x1f3a.")]
Offset = Annotated[int, typer.Option(metavar="BYTES", min=0, help="Where to begin in the memory.")]
Source = Annotated[
    str | None,
    typer.Option("--from", "-I", metavar="ADDR", help="Own address (default: the one that routes to the peer)."),
]
Timeout = Annotated[str, typer.Option(metavar=DURATION, help="Give up after that time.")]


@app.callback()
def rdma() -> None:
    """Read, write and count in the memory that a peer offers, over RDS on InfiniBand.

    \b
    Examples:
      rdstool listen 10.0.0.2:4000 --transport ib --offer 1M
      rdstool rdma write 10.0.0.2 0x1f3a notes.txt
    """  # noqa: D301


@app.command("write")
def write(
    peer: Peer,
    cookie: Cookie,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What to write; - is standard input.")],
    offset: Offset = 0,
    source: Source = None,
    timeout: Timeout = "10s",
    provider: ProviderName = ROCE,
    pcap: Pcap = None,
    verbose: Verbose = False,
) -> None:
    """Write a file into the peer's memory.

    \b
    Example:
      rdstool rdma write 10.0.0.2 0x1f3a notes.txt
    """  # noqa: D301
    data = from_file(file, "the most that one RDMA moves; write it in pieces, with --offset")
    number = number_64(cookie, "a cookie")

    async def job(sock: AsyncSocket, to: tuple[str, int]) -> None:
        await sock.rdma_write(number, data, to, offset=offset)
        note(f"{len(data)} bytes written to {to[0]} at {offset}")

    _run(peer, source, timeout, provider, pcap, job, verbose=verbose)


@app.command("read")
def read(
    peer: Peer,
    cookie: Cookie,
    length: Annotated[int, typer.Argument(metavar="BYTES", min=1, max=MAX_MESSAGE_BYTES, help="How much to read.")],
    offset: Offset = 0,
    source: Source = None,
    timeout: Timeout = "10s",
    provider: ProviderName = ROCE,
    pcap: Pcap = None,
    verbose: Verbose = False,
) -> None:
    """Read the peer's memory, and write it to standard output as it is.

    \b
    Example:
      rdstool rdma read 10.0.0.2 0x1f3a 4096 > memory.bin
    """  # noqa: D301
    number = number_64(cookie, "a cookie")
    into = bytearray(length)

    async def job(sock: AsyncSocket, to: tuple[str, int]) -> None:
        await sock.rdma_read(number, into, to, offset=offset)

    with Results(at_once=True) as results:
        _run(peer, source, timeout, provider, pcap, job, verbose=verbose)
        results.write_bytes(bytes(into))


@app.command("atomic")
def atomic(
    context: typer.Context,
    peer: Peer,
    cookie: Cookie,
    add: Annotated[str | None, typer.Option(metavar="N", help="Add N to the number there, modulo 2^64.")] = None,
    compare: Annotated[
        str | None, typer.Option(metavar="N", help="With --swap: replace the number only if it is N.")
    ] = None,
    swap: Annotated[str | None, typer.Option(metavar="N", help="With --compare: replace the number by N.")] = None,
    nocarry_mask: Annotated[
        str,
        typer.Option(metavar="BITS", help="With --add: bits from which nothing is carried."),
    ] = "0",
    compare_mask: Annotated[
        str, typer.Option(metavar="BITS", help="With --compare: only these bits.")
    ] = "0xffffffffffffffff",
    swap_mask: Annotated[
        str, typer.Option(metavar="BITS", help="With --swap: only these bits.")
    ] = "0xffffffffffffffff",
    offset: Offset = 0,
    source: Source = None,
    timeout: Timeout = "10s",
    provider: ProviderName = ROCE,
    pcap: Pcap = None,
    verbose: Verbose = False,
) -> None:
    """Change a 64-bit number in the peer's memory in one step, and show what it was.

    \b
    Example:
      rdstool rdma atomic 10.0.0.2 0x1f3a --compare 0 --swap 7 --swap-mask 0xff
    """  # noqa: D301
    swapping = compare is not None and swap is not None
    if (add is not None) == swapping or (compare is None) != (swap is None):
        raise UsageError("give either --add, or --compare and --swap")
    if idle := given(context, *(("nocarry_mask",) if swapping else ("compare_mask", "swap_mask"))):
        raise UsageError(f"{idle[0]} is for {'--add' if swapping else '--compare and --swap'}")
    number = number_64(cookie, "a cookie")
    fields, compared, swapped = (number_64(text, "a mask") for text in (nocarry_mask, compare_mask, swap_mask))
    operands = {"--add": add, "--compare": compare, "--swap": swap}
    values = [operand_64(text, option) for option, text in operands.items() if text is not None]
    before: list[int] = []

    async def job(sock: AsyncSocket, to: tuple[str, int]) -> None:
        if swapping:
            old, new = values
            before.append(
                await sock.compare_swap(number, old, new, to, offset=offset, compare_mask=compared, swap_mask=swapped)
            )
        else:
            before.append(await sock.fetch_add(number, values[0], to, offset=offset, nocarry_mask=fields))

    with Results(at_once=True) as results:
        _run(peer, source, timeout, provider, pcap, job, verbose=verbose)
        results.write(f"{before[0]}\n")


def _run(
    peer: str,
    source: str | None,
    timeout: str,
    provider: str,
    pcap: Path | None,
    job: Callable[[AsyncSocket, tuple[str, int]], Awaitable[None]],
    *,
    verbose: bool,
) -> None:
    """Run one operation on a node of its own; leaves with the status where it did not end."""
    to = place(peer)
    timeout_s = time_limit(timeout)
    own = resolve(source) if source is not None else source_for(to.address, IB)
    log_to_stderr(verbose=verbose)
    from rdstool.endpoint.node import Node  # noqa: PLC0415
    from rdstool.protocol.errors import RdmaError  # noqa: PLC0415

    async def whole(node: Node) -> ExitCode:
        sock = node.socket(0)
        try:
            async with asyncio.timeout(timeout_s):
                await job(sock, to)
        except TimeoutError:
            note(f"{to.address} did not answer within {timeout_s:g} s: does it offer memory over RoCE?")
            return ExitCode.PROBLEMS
        except RdmaError as problem:
            note(f"{to.address}: {problem}")
            return ExitCode.PROBLEMS
        return ExitCode.CLEAN

    options = node_options(settings(None), pcap=pcap, transport=IB, provider=provider)
    code = run_node(Node(own, options=options), whole)
    if code is not ExitCode.CLEAN:
        raise typer.Exit(code)
