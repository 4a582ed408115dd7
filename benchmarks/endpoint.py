"""``python -m benchmarks.endpoint``: what speaking RDS costs, beside a bare program over TCP in the same run.

Two processes on loopback; the programs are in benchmarks/endpoint_programs.py. They take turns, so that a busy minute
of the machine meets all of them. Results go to benchmarks/endpoint.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from benchmarks.measure import processors

RESULTS = Path(__file__).with_name("endpoint.md")
COUNTS = {64: 100_000, 1024: 100_000, 8192: 40_000, 65_536: 8_000, 1 << 20: 600}
"""Messages of each size, in bytes."""
TRIPS = 300
"""Messages to and fro, after those."""
BARE = "bare TCP", "bare TCP, 8 connections"
"""What is compared with."""
PROGRAMS = {
    BARE[0]: ("bare", 1),
    BARE[1]: ("bare", 8),
    "Socket, 1 path": ("socket", 1),
    "Socket, 8 paths": ("socket", 8),
    "Node, 1 path": ("node", 1),
    "Node, 8 paths": ("node", 8),
}
SOCKETS, PEERS = 1000, 100
CROWD_LIMIT_BYTES = 200_000_000

TEXT = """# Speaking RDS: measurements

Made by `{command}` on {today}. Medians of {runs} runs, which took turns.
Machine: {processors} processors, Python {python}; load at the start {before:.1f}, at the end {after:.1f}.
Congestion control of all programs: {congestion}. BBR, which some systems use, paces by timers on loopback too: up to
six interrupts for each MiB were counted.

Two processes on loopback, one connection. The bare program sends the same payloads over one TCP connection, each behind
a 48-byte header, with blocking sockets and no protocol: nothing is acknowledged, kept or sent again. It joins header
and payload, reads 64 KiB at a time, and gives each payload as bytes of its own. Over eight TCP connections it sends on
one after the other, and reads those that are ready. rdstool's send buffers have 8 MiB together, and 2 MiB each at
least; over eight paths it has eight sockets, one for each path, which send one after the other.

| bytes | program | messages/s | MB/s | x bare | x bare, 8 | CPU us, both | x bare, CPU | trip us | p99 us | peak MB |
|------:|---------|-----------:|-----:|-------:|----------:|-------------:|------------:|--------:|-------:|--------:|
{rows}

CPU us: a message's processor time, of sender and receiver. A trip is a message to and fro, in the median. "x bare"
compares rates by the clock with the bare program over one connection, "x bare, 8" with that over eight; "x bare, CPU"
the processor time of the busier side with that over one, which what else the machine does changes less. Where the load
is above the number of processors, the clock tells of the machine and not of the programs.

One node with {sockets:,} sockets and {peers} peers, each peer having talked to each socket: {peak:.0f} MB at most
(limit {limit:.0f} MB).
"""


@dataclass(frozen=True)
class Run:
    """One run of a pair of programs."""

    sender: dict[str, Any]
    receiver: dict[str, Any]
    count: int

    @property
    def rate(self) -> float:
        """Messages a second."""
        return self.count / float(self.sender["seconds"])

    @property
    def cpu_us(self) -> tuple[float, float]:
        """Processor time of a message, in microseconds: of sender and receiver."""
        return tuple(1e6 * each["cpu"] / self.count for each in (self.sender, self.receiver))

    @property
    def busier_us(self) -> float:
        """The greater of both: on an idle machine with two processors, it bounds the rate."""
        return max(self.cpu_us)

    def trip_us(self, share: float) -> float:
        """The time to and fro that ``share`` of the messages stay below, in microseconds."""
        trips = self.sender["trips"]
        return 1e6 * float(trips[min(int(share * len(trips)), len(trips) - 1)])


def run(kind: str, size: int, count: int, trips: int, paths: int) -> Run:
    """Let a sender and a receiver run, with the congestion control that the environment says."""
    command = [sys.executable, "-m", "benchmarks.endpoint_programs", kind]
    numbers = list(map(str, (size, count, trips, paths)))
    with subprocess.Popen([*command, "receiver", *numbers], stdout=subprocess.PIPE, text=True) as receiver:
        assert receiver.stdout is not None
        if receiver.stdout.readline() != "listening\n":
            raise SystemExit(f"the receiver of {kind} does not listen")
        sender = subprocess.run([*command, "sender", *numbers], stdout=subprocess.PIPE, text=True, check=True)
        told = receiver.stdout.read()
    return Run(json.loads(sender.stdout), json.loads(told), count)


def compare(size: int, count: int, runs: int) -> list[str]:
    """Rows of the table for one size: medians of runs that took turns."""
    taken: dict[str, list[Run]] = {name: [] for name in PROGRAMS}
    for _ in range(runs):
        for name, (kind, paths) in PROGRAMS.items():
            taken[name].append(run(kind, size, count, TRIPS, paths))
    one, eight = (statistics.median(each.rate for each in taken[name]) for name in BARE)
    bare_cpu = statistics.median(each.busier_us for each in taken[BARE[0]])
    rows = []
    for name, several in taken.items():
        rate = statistics.median(each.rate for each in several)
        sender, receiver = (statistics.median(each.cpu_us[side] for each in several) for side in (0, 1))
        busier = statistics.median(each.busier_us for each in several)
        p50, p99 = (statistics.median(each.trip_us(share) for each in several) for share in (0.5, 0.99))
        peak = max(max(each.sender["peak"], each.receiver["peak"]) for each in several) // 1_000_000
        cells = (
            str(size),
            name,
            f"{rate:,.0f}",
            f"{rate * size / 1e6:,.0f}",
            f"{rate / one:.2f}",
            f"{rate / eight:.2f}",
            f"{sender:.1f} + {receiver:.1f}",
            f"{bare_cpu / busier:.2f}",
            f"{p50:,.0f}",
            f"{p99:,.0f}",
            str(peak),
        )
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.endpoint", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(COUNTS), choices=list(COUNTS), help="in bytes")
    parser.add_argument("--runs", type=int, default=3, help="of each program (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of messages (default: %(default)s)")
    parser.add_argument("--congestion", default="cubic", help="TCP's congestion control (default: %(default)s)")
    options = parser.parse_args()
    os.environ["CONGESTION"] = options.congestion
    load = os.getloadavg()[0]
    rows = []
    for size in options.sizes:
        for row in compare(size, max(1, int(COUNTS[size] * options.scale)), options.runs):
            sys.stderr.write(row + "\n")
            rows.append(row)
    crowd = run("crowd", 0, SOCKETS, 0, PEERS)
    peak = crowd.receiver["peak"]
    sys.stderr.write(f"{SOCKETS} sockets, {PEERS} peers: {peak / 1e6:.0f} MB\n")
    RESULTS.write_text(
        TEXT.format(
            command=" ".join(["python -m benchmarks.endpoint", *sys.argv[1:]]),
            today=date.today(),
            runs=options.runs,
            congestion=options.congestion,
            processors=processors(),
            python=platform.python_version(),
            before=load,
            after=os.getloadavg()[0],
            rows="\n".join(rows),
            sockets=SOCKETS,
            peers=PEERS,
            peak=peak / 1e6,
            limit=CROWD_LIMIT_BYTES / 1e6,
        )
    )
    if peak > CROWD_LIMIT_BYTES:
        raise SystemExit("more memory than allowed")


if __name__ == "__main__":
    main()
