"""``rdstool crosscheck``: decode captures natively and through tshark, and report every difference."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from rdstool.cli.exit_codes import ExitCode
from rdstool.cli.inputs import TcpPorts, all_tcp_ports
from rdstool.cli.output import Results, json_line, note
from rdstool.errors import UsageError
from rdstool.words import plural


def crosscheck(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Captures; each is compared by itself.", readable=False),
    ],
    json: Annotated[bool, typer.Option("--json", help="One JSON object for each difference.")] = False,
    tcp_port: TcpPorts = None,
) -> None:
    """Decode captures natively and through tshark with the plugin, and report every difference field by field.

    What breaks rules that both check is compared too, frame by frame.
    Exit status 1 where they differ.

    \b
    Example:
      rdstool crosscheck capture.pcap
    """  # noqa: D301
    from rdstool.capture.files.source import STANDARD_INPUT  # noqa: PLC0415
    from rdstool.capture.pipeline import CaptureOptions, open_capture  # noqa: PLC0415
    from rdstool.tshark.compare import differences, finding_differences, natively, objects  # noqa: PLC0415
    from rdstool.tshark.engine import TsharkCapture  # noqa: PLC0415
    from rdstool.tshark.program import find_tshark  # noqa: PLC0415

    if STANDARD_INPUT in map(str, files):
        raise UsageError(f"crosscheck reads each capture twice: name a file instead of {STANDARD_INPUT}")
    tshark = find_tshark()
    options = CaptureOptions(digests=True, tcp_ports=all_tcp_ports(tcp_port))
    total = 0
    with Results() as results:
        for path in files:
            second = TsharkCapture([str(path)], options, tshark)
            theirs = objects(second)
            with open_capture(str(path), options) as capture:
                ours, told = natively(capture)
            found = differences(ours, theirs) + finding_differences(told, second.findings)
            for difference in found:
                shown = {"file": str(path), **asdict(difference)}
                results.write(json_line(shown) if json else f"{path}: {difference}\n")
            total += len(found)
            count = plural(len(found), "difference") if found else "no difference"
            compared = f"{plural(len(ours), 'message')}, {plural(told.total(), 'finding')}"
            note(f"{path}: {compared}, {count} between rdstool and tshark {tshark.version_text}")
    raise typer.Exit(ExitCode.PROBLEMS if total else ExitCode.CLEAN)
