"""Measure rdstool against tshark and Scapy on grown captures, all in one run on one machine.

    python -m benchmarks.decode                            # 300 MB, TCP and InfiniBand
    python -m benchmarks.decode --sizes 300M 3G --runs 5

The table goes to standard output and to benchmarks/results.md. What is compared:

- ``rdstool validate`` decodes every header and checks every rule: the figure to hold against the others.
- ``rdstool decode --json`` decodes every header and writes a line for each message.
- ``tshark -T fields -e frame.number -e tcp.len`` dissects up to TCP, and knows nothing of RDS.
- Scapy's ``PcapReader`` builds the packets of each frame, and keeps none. It is slow, so it reads a part of the file;
  the time is scaled to the whole.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from benchmarks.grow import bytes_of
from benchmarks.measure import Measured, medians, processors, run

ROOT = Path(__file__).parents[1]
DATA = ROOT / "benchmarks" / "data"
RESULTS = ROOT / "benchmarks" / "results.md"
SOURCES = {"tcp": "tcp-basic-73", "ib": "ib-basic-73"}
RDSTOOL = str(Path(sys.executable).with_name("rdstool"))
TSHARK, PCAP_READER = "tshark -T fields", "Scapy PcapReader*"
SCAPY_FRAMES = 20_000
"""So many frames are given to Scapy; it takes them at the same rate from beginning to end."""
SCAPY = """
import sys
from itertools import islice
from scapy.all import PcapReader
with PcapReader(sys.argv[1]) as reader:
    for _ in islice(reader, int(sys.argv[2])):
        pass
"""
FINDINGS = frozenset({0, 1})
"""Exit statuses of ``rdstool validate``: notes and warnings are no failure of the benchmark."""

Row = tuple[str, ...]


@dataclass(frozen=True)
class Capture:
    """A grown capture."""

    kind: str
    size: str
    path: Path
    frames: int


def grown(kind: str, size: str) -> Capture:
    """Make a capture, or take the one that an earlier run has made."""
    path = DATA / f"{kind}-{size}.pcap"
    source = ROOT / "pcaps" / SOURCES[kind] / "a.pcap.gz"
    DATA.mkdir(exist_ok=True)
    if not path.exists() or path.stat().st_size < bytes_of(size):
        # In a process of its own: a parent's memory would show up in the figures of its children.
        command = [sys.executable, str(ROOT / "benchmarks" / "grow.py"), str(source), str(path), "--size", size]
        subprocess.run(command, check=True)
    with path.open("rb") as file:
        while file.read(1 << 24):  # Every tool finds the file in the page cache.
            pass
    return Capture(kind, size, path, _frames(path))


def _frames(path: Path) -> int:
    """Frames in a capture, as capinfos counts them."""
    done = subprocess.run(["capinfos", "-M", "-c", str(path)], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def measure(capture: Capture, runs: int, others: bool) -> Iterator[Row]:
    """Rows of the table for one capture."""
    name, megabytes = str(capture.path), capture.path.stat().st_size / 1e6
    commands: dict[str, list[str]] = {}
    for jobs in range(1, 1 + min(2, processors())):
        for arguments in (["decode", "--json"], ["validate"]):
            label = " ".join(["rdstool", *arguments, *(["--jobs", str(jobs)] if jobs > 1 else [])])
            commands[label] = [RDSTOOL, *arguments, "--jobs", str(jobs), name]
    if others:
        commands[TSHARK] = ["tshark", "-r", name, "-T", "fields", "-e", "frame.number", "-e", "tcp.len"]
    measured = medians(commands, runs, FINDINGS)
    if others:
        measured[PCAP_READER] = _scapy(capture)
    for label, one in measured.items():
        single = measured.get(label.removesuffix(" --jobs 2")) if label.endswith(" --jobs 2") else None
        yield (
            f"{capture.kind} {capture.size}",
            label,
            f"{one.seconds:.2f}",
            f"{one.processor_seconds:.2f}",
            f"{one.spread:.2f}",
            f"{megabytes / one.seconds:.0f}",
            f"{capture.frames / one.seconds:,.0f}",
            f"{one.peak_bytes / 1e6:.0f}",
            _times(measured.get(TSHARK), one),
            _times(measured.get(PCAP_READER), one),
            _times(single, one),
        )


def _scapy(capture: Capture) -> Measured:
    """One run over a part of the file, scaled to all of it, without what Scapy needs to start."""
    frames = min(SCAPY_FRAMES, capture.frames)
    scale = capture.frames / frames
    start, part = (run([sys.executable, "-c", SCAPY, str(capture.path), str(count)]) for count in (0, frames))
    return Measured(
        (part.seconds - start.seconds) * scale,
        part.peak_bytes,
        (part.processor_seconds - start.processor_seconds) * scale,
    )


def _times(other: Measured | None, own: Measured) -> str:
    return f"{other.seconds / own.seconds:.1f}" if other is not None else ""


def table(heading: Row, rows: list[Row]) -> str:
    """A Markdown table with aligned columns: words to the left, figures to the right."""
    words = 2
    widths = [max(len(row[column]) for row in [heading, *rows]) for column in range(len(heading))]

    def line(row: Row) -> str:
        cells = (
            cell.ljust(width) if column < words else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return f"| {' | '.join(cells)} |"

    rule = ["-" * width if column < words else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    return "\n".join([line(heading), line(tuple(rule)), *map(line, rows)])


def machine() -> str:
    """What the figures depend on: processor, memory, versions. Names no machine."""
    models = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = next(int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal"))
    tshark = subprocess.run(["tshark", "--version"], check=True, capture_output=True, text=True).stdout.split()[2]
    return (
        f"{processors()} processors ({models[0] if models else platform.machine()}), {memory / 1e6:.0f} GB of memory; "
        f"Python {platform.python_version()}, NumPy {version('numpy')}, Scapy {version('scapy')}, "
        f"tshark {tshark.rstrip('.')}"
    )


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


HEADING = (
    "capture",
    "command",
    "seconds",
    "CPU s",
    "max/min",
    "MB/s",
    "frames/s",
    "peak MB",
    "x tshark",
    "x Scapy",
    "x 1 job",
)
NOTES = (
    "Seconds are those of a clock, CPU those of all processors that a command used; max/min is its slowest run over",
    "its fastest one. Peak memory is that of all processes of a command together, in a run that is not timed: watching",
    "it takes time from several processes, not from one. `rdstool validate` decodes every header and checks every",
    "rule. tshark and Scapy do less: tshark has no dissector for RDS, Scapy's reader only builds packets.",
    f"*Scapy reads the first {SCAPY_FRAMES:,} frames, once; its time is scaled to the whole.",
)
START_LIMITS = {"--version": 0.15, "--help": 0.3}
"""Seconds that these may take."""


def report(arguments: argparse.Namespace) -> str:
    """Measure all that was asked for and describe it in Markdown."""
    rows: list[Row] = []
    counts = []
    load = os.getloadavg()[0]
    for size in arguments.sizes:
        for kind in arguments.captures:
            capture = grown(kind, size)
            counts.append(f"{kind} {size}: {capture.frames:,} frames, {capture.path.stat().st_size:,} bytes")
            others = bytes_of(size) <= bytes_of(arguments.compare_up_to)
            for row in measure(capture, arguments.runs, others):
                sys.stderr.write(" ".join(row) + "\n")
                rows.append(row)
    options = medians({option: [RDSTOOL, option] for option in START_LIMITS}, max(5, arguments.runs))
    starts = [(f"rdstool {name}", f"{options[name].seconds:.3f}", f"{limit}") for name, limit in START_LIMITS.items()]
    command = shlex.join(["python", "-m", "benchmarks.decode", *sys.argv[1:]])
    return "\n".join(
        [
            "# Measurements",
            "",
            f"Made by `{command}` on {datetime.now(UTC):%Y-%m-%d}. Medians of {arguments.runs} runs.",
            f"Machine: {machine()}; load at the start {load:.1f}.",
            "",
            f"Captures grown by benchmarks/grow.py from {' and '.join(SOURCES[kind] for kind in arguments.captures)}:",
            "; ".join(counts) + ".",
            "",
            table(HEADING, rows),
            "",
            *NOTES,
            "",
            table(("start-up", "", "limit"), [(name, seconds, limit) for name, seconds, limit in starts]),
            "",
        ]
    )


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description="Measure rdstool against tshark and Scapy on grown captures.")
    parser.add_argument("--sizes", nargs="+", default=["300M"], metavar="SIZE")
    parser.add_argument("--captures", nargs="+", default=list(SOURCES), choices=SOURCES)
    parser.add_argument("--runs", type=int, default=3, metavar="N")
    parser.add_argument("--compare-up-to", default="300M", metavar="SIZE", help="no tshark and Scapy above this size")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    text = report(arguments)
    arguments.output.write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
