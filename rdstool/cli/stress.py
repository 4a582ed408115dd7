"""``rdstool stress``: rds-stress without a kernel module, in either role."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from dissectors.wire.rds import MAX_PATHS
from dissectors.wire.stress import CONTROL_PORT, MESSAGE_BYTES
from rdstool.cli.carriers import IB, TCP, transport_to
from rdstool.cli.choices import given
from rdstool.cli.endpoints import Notices, log_to_stderr, run_job
from rdstool.cli.exit_codes import ExitCode
from rdstool.cli.node_options import (
    DEFAULT_PROFILE,
    Paths,
    Pcap,
    ProfileName,
    ProviderName,
    Set,
    TransportName,
    check_paths,
    node_options,
    settings,
)
from rdstool.cli.numbers import DURATION, byte_count, time_limit, whole_seconds
from rdstool.cli.output import Results, error, note, warn
from rdstool.cli.places import resolve, source_for
from rdstool.cli.stress_view import JsonView, LiveView, PlainView, View, described
from rdstool.errors import UsageError
from rdstool.transport.ib.names import ROCE

if TYPE_CHECKING:
    from rdstool.endpoint.node import Node
    from rdstool.stress.control import Control
    from rdstool.stress.counters import KeyMeter
    from rdstool.stress.parameters import Parameters

ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - where the passive side listens for the control channel, as rds-stress does
LEAST_BUFFER_BYTES = 4 << 20
"""SO_SNDBUF and SO_RCVBUF at least: what the peer's TCP has acknowledged is learnt with some delay."""


_DECIDED_BY_ACTIVE = (
    "req_bytes",
    "ack_bytes",
    "one_way",
    "depth",
    "tasks",
    "time",
    "tos",
    "verify",
    "connect_retries",
    "show_params",
)
"""Parameters that mean nothing at the passive side, beside those of RDMA."""
_OF_RDMA = (
    "rdma_mode",
    "rdma_vector",
    "rdma_use_once",
    "rdma_use_get_mr",
    "rdma_use_fence",
    "rdma_cache_mrs",
    "rdma_alignment",
    "rdma_key_o_meter",
)


def stress(
    context: typer.Context,
    send_addr: Annotated[
        str | None,
        typer.Option(
            "--send-addr", "-s", metavar="ADDR", help="The passive side to connect to; without it, be the passive side."
        ),
    ] = None,
    recv_addr: Annotated[
        str | None,
        typer.Option("--recv-addr", "-r", metavar="ADDR", help="Own address; the passive side's default is any."),
    ] = None,
    port: Annotated[
        int, typer.Option("--port", "-p", metavar="PORT", help="Control channel; tasks use the RDS ports behind it.")
    ] = CONTROL_PORT,
    req_bytes: Annotated[
        str, typer.Option("--req-bytes", "-q", metavar="BYTES", help="Size of requests; K and M are known.")
    ] = "1024",
    ack_bytes: Annotated[str, typer.Option("--ack-bytes", "-a", metavar="BYTES", help="Size of acks.")] = str(
        MESSAGE_BYTES
    ),
    one_way: Annotated[
        bool, typer.Option("--one-way", "-o", help="Only this side sends requests (default: both).")
    ] = False,
    depth: Annotated[
        int, typer.Option("--depth", "-d", metavar="N", help="Requests outstanding between two tasks.")
    ] = 1,
    tasks: Annotated[
        int, typer.Option("--tasks", "-t", metavar="N", help="Tasks of each side; each talks to all of the other.")
    ] = 1,
    time: Annotated[
        str,
        typer.Option(
            "--time",
            "-T",
            metavar=DURATION,
            help="How long, from the first message, in whole seconds; 0 is for ever.",
        ),
    ] = "0",
    tos: Annotated[int, typer.Option("--tos", "-Q", metavar="N", help="Type of service that the peer is told.")] = 0,
    verify: Annotated[
        bool, typer.Option("--verify", "-v", help="Fill messages with a pattern, and compare all that comes.")
    ] = False,
    connect_retries: Annotated[
        int,
        typer.Option(
            "--connect-retries", metavar="N", min=0, help="How often to try again, once a second, while nobody listens."
        ),
    ] = 0,
    report_cpu: Annotated[
        bool, typer.Option("--report-cpu", "-c", help="Show the machine's processor use, not only that of rdstool.")
    ] = False,
    report_summary: Annotated[
        bool, typer.Option("--report-summary", "-z", help="Only the summary at the end.")
    ] = False,
    show_histogram: Annotated[
        bool, typer.Option("--show-histogram", help="Count round trips between powers of two; JSON always has them.")
    ] = False,
    show_outliers: Annotated[
        int | None, typer.Option(metavar="USEC", min=0, help="Tell of each round trip that takes longer than this.")
    ] = None,
    show_params: Annotated[bool, typer.Option("--show-params", help="Tell what is run, on both sides.")] = False,
    real_time: Annotated[
        bool, typer.Option("--rtprio", "-R", help="Run at real-time priority (SCHED_RR 1), before all other programs.")
    ] = False,
    rdma_bytes: Annotated[
        str | None,
        typer.Option("--rdma-bytes", "-D", metavar="BYTES", help="Bytes to move by RDMA for each request; needs ib."),
    ] = None,
    rdma_mode: Annotated[
        int, typer.Option("-M", metavar="0|1|2", min=0, max=2, help="RDMA reads and writes, only reads, only writes.")
    ] = 0,
    rdma_vector: Annotated[
        int, typer.Option("-I", metavar="N", help="Buffers of --rdma-bytes that one RDMA moves.")
    ] = 1,
    rdma_use_once: Annotated[
        int | None,
        typer.Option(metavar="0|1", min=0, max=1, help="Offer memory for one use (default: unless it is kept)."),
    ] = None,
    rdma_use_get_mr: Annotated[
        int | None,
        typer.Option(metavar="0|1", min=0, max=1, help="Register memory before the request; kernels cannot."),
    ] = None,
    rdma_use_fence: Annotated[
        int, typer.Option(metavar="0|1", min=0, max=1, help="Acks wait until RDMA reads before them are done.")
    ] = 1,
    rdma_cache_mrs: Annotated[
        int, typer.Option(metavar="0|1", min=0, max=1, help="Register memory once and keep it.")
    ] = 0,
    rdma_alignment: Annotated[
        int, typer.Option(metavar="BYTES", min=0, max=4096, help="Let RDMA memory begin so far into a page.")
    ] = 0,
    rdma_key_o_meter: Annotated[
        bool, typer.Option("--rdma-key-o-meter", help="Tell how often keys of memory are used again.")
    ] = False,
    timeout: Annotated[str, typer.Option(metavar=DURATION, help="Fail when nothing has come for so long.")] = "30s",
    json: Annotated[bool, typer.Option("--json", help="One JSON object a second, and one for the summary.")] = False,
    transport: TransportName = TCP,
    provider: ProviderName = ROCE,
    pcap: Pcap = None,
    paths: Paths = MAX_PATHS,
    profile: ProfileName = DEFAULT_PROFILE,
    assignments: Set = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Tell on stderr what happens to connections.")] = False,
) -> None:
    """Load an RDS path with requests and acks, and check each message: number, order, ports and, with -v, content.

    The other side is rds-stress of rds-tools or rdstool. Options have the letters that rds-stress gives them. The
    active side tells the passive one what to run.

    \b
    Examples:
      rdstool stress -r 10.0.0.2                                   on one machine, or: rds-stress -r 10.0.0.2
      rdstool stress -s 10.0.0.2 -T 10 -t 4 -d 8 -q 8K -v          on the other
    """  # noqa: D301
    from rdstool.stress.parameters import Parameters, RdmaParameters  # noqa: PLC0415

    check_paths(context, transport)
    if rdma_bytes is None and (idle := given(context, *_OF_RDMA)):
        raise UsageError(f"{idle[0]} is for RDMA: add --rdma-bytes BYTES")
    size = byte_count(rdma_bytes, "--rdma-bytes") if rdma_bytes is not None else 0
    rdma = RdmaParameters.chosen(
        size,
        mode=rdma_mode,
        vector=rdma_vector,
        use_once=rdma_use_once,
        use_get_mr=rdma_use_get_mr,
        fence=bool(rdma_use_fence),
        cache=bool(rdma_cache_mrs),
        alignment=rdma_alignment,
        key_meter=rdma_key_o_meter,
    )
    if rdma is not None and transport == TCP:
        raise UsageError(f"-D: RDMA needs InfiniBand or RoCE, and this is {transport}: use --transport ib")

    parameters = Parameters(
        depth=depth,
        request_bytes=byte_count(req_bytes, "--req-bytes"),
        ack_bytes=byte_count(ack_bytes, "--ack-bytes"),
        port=port,
        tasks=tasks,
        seconds=whole_seconds(time, "--time"),
        verify=verify,
        simplex=one_way,
        tos=tos,
        rdma=rdma,
        show=show_params,
        real_time=real_time,
    )
    if send_addr is None and (idle := given(context, *_DECIDED_BY_ACTIVE, "rdma_bytes", *_OF_RDMA)):
        warn(f"without -s the other side says what is run; no effect have {', '.join(idle)}")
    patience_s = time_limit(timeout)
    settings(assignments, paths=paths)  # complain before anything is started
    log_to_stderr(verbose=verbose)
    if real_time:
        run_at_real_time()

    def make_node(address: str, run: Parameters, carrier: str) -> Node:
        from rdstool.endpoint.node import Node  # noqa: PLC0415

        room = max(run.buffer_bytes, LEAST_BUFFER_BYTES)
        made = settings(assignments, paths=paths, sndbuf=room, rcvbuf=room)
        return Node(
            address, options=node_options(made, profile=profile, pcap=pcap, transport=carrier, provider=provider)
        )

    with Results(at_once=True) as results:
        view: View
        if json:
            view = JsonView(results)
        elif sys.stdout.isatty() and not report_summary:
            view = LiveView(results, histogram=show_histogram)
        else:
            view = PlainView(results, histogram=show_histogram)
        job = _Job(
            parameters,
            own=resolve_ipv4(recv_addr) if recv_addr is not None else None,
            peer=resolve_ipv4(send_addr) if send_addr is not None else None,
            retries=connect_retries,
            patience_s=patience_s,
            whole_machine=report_cpu,
            outlier_us=show_outliers,
            each_second=not report_summary,
            transport=transport,
            provider=provider,
            make_node=make_node,
            view=view,
        )
        code = run_job(job.run)
    raise typer.Exit(code)


def run_at_real_time() -> None:
    """Have this process run before all usual ones. Raises ``UsageError`` where it has no right to."""
    if sys.platform != "linux":
        raise UsageError("-R: this system has no real-time priorities that rdstool knows")
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        raise UsageError(
            "-R: no permission for a real-time priority (CAP_SYS_NICE): run it as root, or without -R"
        ) from None


def keys_line(keys: KeyMeter) -> str:
    """What ``--rdma-key-o-meter`` tells."""
    if not keys.reissued:
        return "no key of memory came again"
    return (
        f"keys of memory came again {keys.reissued} times, after {keys.least_s:.6f} s at least, "
        f"{keys.total_s / keys.reissued:.6f} s on average"
    )


def resolve_ipv4(host: str) -> str:
    """The IPv4 address of a host. Raises ``UsageError``: the option block has no room for others."""
    address = resolve(host)
    if ":" in address:
        raise UsageError(f"{host}: rds-stress 2.0.7 knows IPv4 only")
    return address


@dataclass(frozen=True, slots=True)
class _Job:
    """One run of ``rdstool stress``."""

    parameters: Parameters
    own: str | None
    peer: str | None
    retries: int
    patience_s: float
    whole_machine: bool
    outlier_us: int | None
    each_second: bool
    transport: str
    provider: str
    make_node: Callable[[str, Parameters, str], Node]
    view: View

    async def run(self) -> ExitCode:
        """Be the side that was asked for."""
        return await (self._active(self.peer) if self.peer is not None else self._passive())

    async def _active(self, peer: str) -> ExitCode:
        from rdstool.stress.control import dial  # noqa: PLC0415

        own = self.own or source_for(peer, self.transport)
        async with await self._node(own, peer, self.parameters) as node:
            note(f"connecting to {peer}:{self.parameters.port} from {own}")
            with await dial(peer, self.parameters.port, own, self.retries) as control:
                await control.offer(self.parameters)
                return await self._talk(node, control, own, peer, self.parameters)

    async def _passive(self) -> ExitCode:
        from rdstool.stress.control import Doorway  # noqa: PLC0415

        where = self.own or ANY_ADDRESS
        doorway = await Doorway.open(where, self.parameters.port)
        note(f"waiting for the active side on {where}:{self.parameters.port}, Ctrl-C ends")
        with await doorway.control() as control:
            asked, peer = await control.asked()
            own = control.own
            note(f"{peer} connected to {own}")
            async with await self._node(own, peer, asked) as node:
                return await self._talk(node, control, own, peer, asked)

    async def _node(self, own: str, peer: str, run: Parameters) -> Node:
        """A node on the transport for this peer. Raises ``UsageError`` where the run needs another one."""
        transport = await asyncio.to_thread(transport_to, self.transport, [peer], own, self.provider)
        if run.rdma is not None and transport != IB:
            raise UsageError(f"-D: RDMA needs InfiniBand or RoCE, and this is {transport}: use --transport ib")
        return self.make_node(own, run, transport)

    async def _talk(self, node: Node, control: Control, own: str, peer: str, parameters: Parameters) -> ExitCode:
        from rdstool.stress.failure import StressError  # noqa: PLC0415
        from rdstool.stress.run import Run, Side  # noqa: PLC0415

        Notices(node, first=2)  # a peer that has ended the run is gone, and that may be seen before the end itself
        side = Side(
            own,
            peer,
            active=self.peer is not None,
            patience_s=self.patience_s,
            whole_machine=self.whole_machine,
            outlier_us=self.outlier_us,
            tell=note,
        )
        if parameters.show:
            note(described(parameters))
        run = Run(node, control, side, parameters)
        code = ExitCode.CLEAN
        try:
            with self.view.shown(f"{own} with {peer}", parameters):
                await run.whole(self.view.interval if self.each_second else lambda _interval: None)
        except StressError as problem:
            error(str(problem))
            code = ExitCode.PROBLEMS
        finally:
            if run.summary is not None:
                self.view.summary(run.summary)
                if parameters.rdma is not None and parameters.rdma.key_meter:
                    note(keys_line(run.summary.keys))
        return code
