"""``rdstool capture``: RDS messages of an interface as they come, and the packets to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rdstool.cli.decode_forms import Form, view_of
from rdstool.cli.inputs import Reading, TcpPorts, all_tcp_ports
from rdstool.cli.numbers import DURATION, whole_seconds
from rdstool.cli.output import STANDARD_OUTPUT, Results, note
from rdstool.errors import UsageError
from rdstool.words import plural


def capture(
    interface: Annotated[str, typer.Option("--interface", "-i", metavar="IFACE", help="Interface to capture on.")],
    output: Annotated[
        Path | None, typer.Option("--write", "-w", metavar="FILE", help="Write the packets to this pcapng file too.")
    ] = None,
    packets: Annotated[
        int | None, typer.Option("--packets", "-c", metavar="N", min=1, help="Stop after N packets.")
    ] = None,
    duration: Annotated[
        str | None, typer.Option("--duration", "-d", metavar=DURATION, help="Stop after that time, in whole seconds.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    filter_text: Annotated[
        str | None, typer.Option("--filter", "-Y", metavar="EXPR", help="Show only what passes this display filter.")
    ] = None,
    tcp_port: TcpPorts = None,
    tunnels: Annotated[
        bool, typer.Option("--tunnels", help="Take whatever comes in tunnels too, such as VXLAN: it may be RDS.")
    ] = False,
) -> None:
    """Capture with dumpcap, and show RDS messages as they come, until Ctrl-C.

    \b
    Example:
      rdstool capture -i eth0 -w rds.pcapng
    """  # noqa: D301
    from rdstool.capture.pipeline import CaptureOptions, open_capture  # noqa: PLC0415
    from rdstool.cli.showing import Show  # noqa: PLC0415
    from rdstool.export.times import Clock, TimeForm  # noqa: PLC0415
    from rdstool.filter import compile_filter  # noqa: PLC0415
    from rdstool.tshark.live import LiveCapture  # noqa: PLC0415

    if str(output) == STANDARD_OUTPUT:
        raise UsageError("--write -: standard output is for the messages; name a file")
    seconds = whole_seconds(duration, "--duration") if duration is not None else None
    if seconds == 0:
        raise UsageError("--duration 0 leaves no time to capture: write seconds, or 2m")
    ports = all_tcp_ports(tcp_port)
    show = Show(compile_filter(filter_text) if filter_text is not None else None, None, rdma=False)
    live = LiveCapture(interface, sorted(ports), tunnels=tunnels, output=output, packets=packets, seconds=seconds)
    with live, Results(at_once=True) as results:
        reading = Reading(open_capture(live.path, CaptureOptions(tcp_ports=ports, follow=True)))
        view = view_of(Form.JSON if json else Form.LINE, (), results, None)
        with reading:
            show.to(view, reading, results, Clock(TimeForm("relative")))
    told = f", packets written to {output}" if output is not None else ""
    note(f"{plural(show.messages, 'message')}{told}")
    raise typer.Exit(reading.exit_code())
