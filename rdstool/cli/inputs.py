"""What all commands that read captures share: their options, and the loop over batches that ends well.

with open_inputs(files, tcp_ports=tcp_port, jobs=jobs) as reading:
    for decoded in reading.batches():
        ...
# Also reached after Ctrl-C and after a file that broke off: show what was found so far.
raise typer.Exit(reading.exit_code(problems=False))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rdstool.capture.counts import passed_over_text
from rdstool.capture.limits import MAX_PROCESSES
from rdstool.cli.exit_codes import ExitCode
from rdstool.cli.output import error, note, warn
from rdstool.cli.progress import progress
from rdstool.errors import CaptureError, UsageError
from rdstool.words import plural

if TYPE_CHECKING:
    from rdstool.capture.pipeline import Capture, Decoded

NATIVE, TSHARK = ENGINES = ("native", "tshark")
"""What decodes a capture."""
SNAP_BYTES = 192
"""Enough for Ethernet, VXLAN and IPv6 in front of RDS over TCP; what tcpdump -s takes."""
MAX_JOBS = 64
"""Worker processes."""

FILES: Any = typer.Argument(
    metavar="FILE...",
    help="Captures (pcap, pcapng, ERF; gz, xz, zst), in order; - is standard input.",
    readable=False,  # reading tells better what is wrong
)
Files = Annotated[list[Path], FILES]
TcpPorts = Annotated[
    list[int] | None,
    typer.Option("--tcp-port", metavar="PORT", min=1, max=65535, help="RDS runs on this TCP port too (repeatable)."),
]
TcpChecksums = Annotated[
    bool, typer.Option("--tcp-checksums", help="Pass over TCP segments whose checksum is wrong, as receivers do.")
]
Jobs = Annotated[
    int,
    typer.Option(
        "--jobs",
        "-j",
        metavar="N",
        min=1,
        max=MAX_JOBS,
        help=f"Worker processes to read plain files with, {MAX_PROCESSES} at most.",
    ),
]
Follow = Annotated[
    bool, typer.Option("--follow", help="Show what comes as it comes, from a growing file or a pipe, until Ctrl-C.")
]


class Reading:
    """One run over the inputs. Ctrl-C and a broken file end it early, and :meth:`exit_code` says so."""

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self.interrupted = False
        self.problem: CaptureError | None = None
        self._begins: dict[int, int] = {}
        """File -> ns since 1970 of a message near its beginning."""

    def batches(self) -> Iterator[Decoded]:
        """The decoded batches in order, with progress on stderr where that helps."""
        batches = iter(self.capture.batches())
        # Processes start with the first batch, and do not where the bar's thread is there before them.
        first = iter(list(islice(batches, 1)))  # an iterator, which lets go of it
        with progress(self.capture.size) as done:
            for decoded in chain(first, batches):
                if len(self.capture.paths) > 1:
                    self._look_at_order(decoded)
                yield decoded
                done(decoded.consumed)
        if self.capture.frames.tcp_damaged:
            note(f"{plural(self.capture.frames.tcp_damaged, 'TCP segment')} with a wrong checksum passed over")
        if self.capture.streams.passed_over:
            followed = f"only the first {len(self.capture.streams):,} streams were followed"
            warn(f"{followed}; to see the others, cut the capture into shorter ones: editcap -i SECONDS")

    def _look_at_order(self, decoded: Decoded) -> None:
        """Warn of a file that is older than the one before it: what it holds came too late to be put together."""
        for row in decoded.messages.rows[[0, -1]] if len(decoded.messages.rows) else ():
            file, _ = self.capture.frame_label(int(row["frame"]))
            time = int(row["time"])
            if file not in self._begins and time < self._begins.get(file - 1, time):
                name, before = self.capture.paths[file], self.capture.paths[file - 1]
                warn(f"{name} is older than {before}: name captures in the order of their time, or merge them before")
            self._begins.setdefault(file, time)

    def warn_of_nothing(self, messages: int) -> None:
        """Tell of a capture that was read to its end and has no messages."""
        if messages or self.problem is not None or self.interrupted:
            return
        frames = self.capture.frames
        if frames.snapped and frames.tcp + frames.ib + frames.cut:
            short = f"{plural(frames.snapped, 'frame')} cut short by the capture"
            warn(f"no RDS message was found: {short}; {SNAP_BYTES} bytes of each hold all headers")
        elif not self.capture.counts_frames:
            warn("no RDS message was found")
        elif not frames.frames:
            warn("no RDS message was found: the capture has no frames")
        else:
            found = {"on TCP ports of RDS": frames.tcp, "InfiniBand": frames.ib, **frames.reasons()}
            held = passed_over_text({what: number for what, number in found.items() if number}, frames.kinds())
            hint = "; `--tcp-port` reads RDS on other TCP ports" if frames.tcp_other else ""
            warn(f"no RDS message was found in {plural(frames.frames, 'frame')}: {held}{hint}")

    def label(self, frame: int) -> tuple[str, int]:
        """The file that a frame of the whole capture is in, and the frame's number there."""
        file, number = self.capture.frame_label(frame)
        return self.capture.paths[file], number

    def exit_code(self, *, problems: bool = False) -> ExitCode:
        """Return the command's exit status, and tell on stderr why the reading ended early."""
        if self.interrupted:
            return ExitCode.INTERRUPTED
        if self.problem is not None:
            error(str(self.problem))
            return ExitCode.UNUSABLE
        return ExitCode.PROBLEMS if problems else ExitCode.CLEAN

    def __enter__(self) -> Reading:
        self.capture.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.capture.__exit__(None, None, None)
        if isinstance(value, KeyboardInterrupt):
            self.interrupted = True
            return True
        if isinstance(value, CaptureError):
            self.problem = value
            return True
        return False


def all_tcp_ports(more: Sequence[int] | None) -> frozenset[int]:
    """The TCP ports of RDS: its own, and those of ``--tcp-port``."""
    from dissectors.wire.rds import TCP_PORT  # noqa: PLC0415

    return frozenset({TCP_PORT, *(more or ())})


def open_inputs(
    files: Sequence[Path],
    *,
    tcp_ports: Sequence[int] | None = None,
    tcp_checksums: bool = False,
    follow: bool = False,
    jobs: int = 1,
    payloads: bool = False,
    digests: bool = False,
    engine: str = NATIVE,
) -> Reading:
    """Make captures ready to be read; what is wrong with them shows when reading begins.

    Raises ``UsageError`` for options that exclude each other, and where standard input is named twice.
    """
    if jobs > 1 and (follow or engine == TSHARK):
        raise UsageError(
            f"--jobs and {'--follow' if follow else '--engine tshark'} exclude each other; leave out --jobs"
        )
    from rdstool.capture.files.source import STANDARD_INPUT  # noqa: PLC0415
    from rdstool.capture.pipeline import CaptureOptions, open_capture  # noqa: PLC0415

    options = CaptureOptions(
        payloads=payloads,
        digests=digests,
        tcp_ports=all_tcp_ports(tcp_ports),
        tcp_checksums=tcp_checksums,
        follow=follow,
        jobs=jobs,
    )
    names = [str(name) for name in files]
    if names.count(STANDARD_INPUT) > 1:
        raise UsageError(f"standard input ({STANDARD_INPUT}) can be read only once; name it once")
    if engine == TSHARK:
        from rdstool.tshark.engine import TsharkCapture  # noqa: PLC0415

        return Reading(TsharkCapture(names, options))
    return Reading(open_capture(names, options))
