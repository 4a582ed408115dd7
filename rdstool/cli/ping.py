"""``rdstool ping``: is there a host that speaks RDS, and how long does it take to answer? As rds-ping of rds-tools."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated

import typer

from rdstool.cli.carriers import TCP, transport_to
from rdstool.cli.endpoints import log_to_stderr, run_node
from rdstool.cli.exit_codes import ExitCode
from rdstool.cli.node_options import (
    DEFAULT_PROFILE,
    Paths,
    Pcap,
    ProfileName,
    ProviderName,
    Set,
    TransportName,
    Verbose,
    check_paths,
    node_options,
    settings,
)
from rdstool.cli.numbers import DURATION, duration, time_limit
from rdstool.cli.output import Results, json_line, note
from rdstool.cli.places import resolve, source_for
from rdstool.protocol import events
from rdstool.transport.ib.names import ROCE

if TYPE_CHECKING:
    from rdstool.endpoint.node import Node
    from rdstool.endpoint.pinger import Outcome, Pinger


def ping(
    context: typer.Context,
    destination: Annotated[str, typer.Argument(metavar="DEST", help="Whom to ping.")],
    source: Annotated[
        str | None,
        typer.Option(
            "--source", "--from", "-I", metavar="ADDR", help="Own address (default: the one that routes to the peer)."
        ),
    ] = None,
    count: Annotated[
        int | None, typer.Option("--count", "-c", metavar="N", min=1, help="Send N pings; without it, until Ctrl-C.")
    ] = None,
    interval: Annotated[
        str,
        typer.Option(
            "--interval", "-i", metavar=DURATION, help="Between two pings: 0.5, 500ms, 100us; 0: as answers come."
        ),
    ] = "1s",
    tos: Annotated[
        int, typer.Option("--tos", "-Q", metavar="N", min=0, max=255, help="Type of service; TCP knows only one.")
    ] = 0,
    timeout: Annotated[
        str, typer.Option("--timeout", "-W", metavar=DURATION, help="How long each answer is waited for.")
    ] = "10s",
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line; the last is the summary.")] = False,
    transport: TransportName = TCP,
    provider: ProviderName = ROCE,
    pcap: Pcap = None,
    paths: Paths = 8,
    profile: ProfileName = DEFAULT_PROFILE,
    assignments: Set = None,
    verbose: Verbose = False,
) -> None:
    """Ping a host over RDS, and tell how long its answers take.

    The peer's kernel, or node, answers by itself. Nobody needs to be there yet: a ping is sent as soon as there is a
    connection. The status is 0 if there was any answer, and 1 if there was none; Ctrl-C before --count is reached
    gives 130.

    \b
    Examples:
      rdstool ping 10.0.0.2
      rdstool ping 127.0.0.2 -I 127.0.0.1 -c 100 -i 10ms
    """  # noqa: D301
    check_paths(context, transport)
    peer = resolve(destination)
    own = resolve(source) if source is not None else source_for(peer, transport)
    transport = transport_to(transport, [peer], own, provider)
    interval_s = duration(interval, "--interval")
    timeout_s = time_limit(timeout)
    options = node_options(
        settings(assignments, paths=paths), profile=profile, pcap=pcap, transport=transport, provider=provider
    )
    log_to_stderr(verbose=verbose)
    from rdstool.endpoint.node import Node  # noqa: PLC0415
    from rdstool.endpoint.pinger import Pinger  # noqa: PLC0415

    with Results(at_once=True) as results:

        async def job(node: Node) -> ExitCode:
            screen = Screen(node, own, peer, timeout_s, results, json=json)
            pinger = Pinger(node, peer, screen.show, interval_s, count, timeout_s, tos)
            began = time.monotonic()
            note(f"pinging {peer} from {own}" + ("" if count else ", Ctrl-C ends"))
            try:
                await pinger.run()
            except asyncio.CancelledError:
                # Without --count this is how a run ends.
                if count is not None:
                    raise
                task = asyncio.current_task()
                assert task is not None
                task.uncancel()
            finally:
                screen.sum_up(pinger, time.monotonic() - began)
            return ExitCode.CLEAN if pinger.tally.received else ExitCode.PROBLEMS

        code = run_node(Node(own, options=options), job)
    raise typer.Exit(code)


class Screen:
    """Shows outcomes as rds-ping does, or as JSON."""

    def __init__(self, node: Node, own: str, peer: str, timeout_s: float, results: Results, *, json: bool) -> None:
        self._node, self._own, self._peer, self._timeout_s = node, own, peer, timeout_s
        self._results = results
        self._json = json
        self._explained = False
        """What keeps the peer from answering has been said."""
        node.on_event(self._hear)

    def _hear(self, event: events.Event) -> None:
        # Somebody refuses: that has been told already, and guesses would be wrong.
        if isinstance(event, events.ConnectFailed):
            self._explained = True

    def show(self, outcome: Outcome) -> None:
        """Write the line of one outcome."""
        from rdstool.endpoint import pinger  # noqa: PLC0415

        number = outcome.number
        record: dict[str, object]
        match outcome:
            case pinger.Pong(rtt_s=rtt_s, source=source, duplicate=duplicate):
                record = {"kind": "reply", "usec": _usec(rtt_s), "source": source, "duplicate": duplicate}
                text = f"{rtt_s * 1e6:.0f} usec"
                text += f" ({source})" if source != self._peer else ""
                text += " DUP!" if duplicate else ""
            case pinger.Lost():
                record = {"kind": "lost"}
                text = f"no answer within {self._timeout_s:g} s"
            case pinger.Failed(why=why):
                record = {"kind": "error", "error": why}
                text = f"ERROR: {why}"
        if self._json:
            self._results.write(json_line({"number": number, "time": round(time.time(), 6), **record}))
        else:
            self._results.write(f" {number:3}: {text}\n")
        if isinstance(outcome, pinger.Lost) and not self._explained:
            self._hint()

    def _hint(self) -> None:
        from rdstool.endpoint.pinger import why_silent  # noqa: PLC0415

        hint = why_silent(self._node.engine, self._own, self._peer)
        if hint is not None:
            self._explained = True
            note(f"hint: {hint}")

    def sum_up(self, pinger: Pinger, seconds: float) -> None:
        """Write the summary."""
        tally = pinger.tally
        times = {"min": tally.min_s, "avg": tally.mean_s, "max": tally.max_s, "mdev": tally.deviation_s}
        if self._json:
            record = {
                "kind": "summary",
                "destination": self._peer,
                "source": self._own,
                "sent": tally.sent,
                "received": tally.received,
                "duplicates": tally.duplicates,
                "lost_percent": round(tally.lost_percent, 3),
                "seconds": round(seconds, 6),
                **{f"{name}_usec": _usec(value) if tally.received else None for name, value in times.items()},
            }
            self._results.write(json_line(record))
            return
        again = f", {tally.duplicates} duplicates" if tally.duplicates else ""
        lines = [
            f"--- {self._peer} ---",
            f"{tally.sent} sent, {tally.received} received{again}, {tally.lost_percent:.3g} % lost, {seconds:.3f} s",
        ]
        if tally.received:
            figures = "/".join(f"{value * 1e6:.0f}" for value in times.values())
            lines.append(f"{'/'.join(times)} = {figures} usec")
        self._results.write("".join(f"{line}\n" for line in lines))


def _usec(seconds: float) -> float:
    return round(seconds * 1e6, 1)
