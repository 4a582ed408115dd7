"""``python -m benchmarks.host_guest``: RDS over RoCE, rdstool on the host and a kernel in a guest, beside bare UDP.

Guests boot by ``rdstool.lab``, with Soft-RoCE on their network devices. On both sides runs
benchmarks/host_guest_programs.py. Two guests do the same among themselves. Results go to benchmarks/host_guest.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from time import sleep

from benchmarks.guest_programs import LIMIT_S
from benchmarks.guest_programs import PORT as RDS_PORT
from benchmarks.host_guest_programs import AHEAD, BUFFER, MTU, packets
from benchmarks.measure import processors
from rdstool.lab import Guest, Network, find_kernel
from rdstool.lab.annex import Annex

RESULTS = Path(__file__).with_name("host_guest.md")
COUNTS = {64: 6000, 4096: 1200, 65_536: 100, 1 << 20: 8}
"""Messages of each size, in bytes."""
SECONDS = 0.4
"""How long bare datagrams go."""
POLL_S = 0.3
"""A guest that is asked all the time does nothing else."""
PROGRAM = "benchmarks.host_guest_programs"
ENVIRONMENT = {"PYTHONPATH": str(Path(__file__).parent.parent)}
HOST = ("192.0.2.2", "192.0.2.3")
"""An address for each way: a kernel keeps what it has with an address. All are smaller than those of guests."""

Lines = list[dict[str, float]]
"""Of each run: size, rates of ``bare`` and RDS, and what part of the time ``sender`` and ``receiver`` were idle."""

TEXT = """# RDS over RoCE, host and guest

Made by `{command}` on {today}. Medians of {runs} runs, each beside a run of the bare program.
Guest: Linux {release}, 1 processor, by QEMU with {accelerator}, RDS over Soft-RoCE. Machine: {processors} processors,
Python {python}; load at the start {before:.1f}, at the end {after:.1f}.

rdstool on the host, the kernel's RDS and a Python program on AF_RDS in the guest, a tap device between them, path MTU
{mtu}. "UDP": a bare Python program on the same two sides, and the same way, with datagrams of the same sizes as the
packets, one call for each, {ahead} on their way at most. Packets are those that carry messages, once. "x": of RDS, in
packets of UDP; the least and the most of single runs behind it. "idle": what part of the time the guest's processor had
nothing to do while messages went (of two guests, the receiver's).

| way | bytes | messages/s | MB/s | packets/s | UDP, packets/s | x | of runs | idle |
|-----|------:|-----------:|-----:|----------:|---------------:|--:|--------:|-----:|
{rows}

The guest's Linux spends most of the time of a small message on RDS, Soft-RoCE and their checksums, in instructions that
QEMU translates one by one under tcg: "kernel > kernel" has no rdstool in it, and tells what that costs beside the bare
program of two guests. A packet that asks for an acknowledgement costs the guest another packet, so rdstool asks
with one in sixteen (docs/infiniband.md). Where the load is above the number of processors, single runs differ much.
"""


def set_up(guest: Guest) -> None:
    """Soft-RoCE, and room for what the programs ask for."""
    guest.allow_buffers(BUFFER)
    guest.add_rxe()


def arguments(kind: str, role: str, own: str, peer: str, rest: Sequence[str]) -> list[str]:
    """A program of a pair."""
    return [sys.executable, "-m", PROGRAM, kind, role, own, peer, *rest]


def read(printed: str) -> Lines:
    """What the sender has printed."""
    return [json.loads(line) for line in printed.splitlines()]


def await_socket(guest: Guest) -> None:
    """The larger address first: who says hello does so once."""
    while not any(each["port"] == RDS_PORT for each in guest.rds.table("sockets")):
        sleep(POLL_S)


def with_host(guest: Guest, network: Network, own: str, *, sends: bool, rest: Sequence[str]) -> Lines:
    """A kernel in the guest, and rdstool on the host; ``sends``: the host does."""
    network.add_address(own)
    roles = ("sender", "receiver") if sends else ("receiver", "sender")
    inside = guest.popen(arguments("kernel", roles[1], guest.address, own, rest), environment=ENVIRONMENT)
    await_socket(guest)
    command = arguments("roce", roles[0], own, guest.address, rest)
    program = network.popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | ENVIRONMENT)
    printed, _ = program.communicate(timeout=LIMIT_S)
    printed += inside.wait(LIMIT_S).stdout
    if program.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {program.returncode}")
    return read(printed)


def of_kernels(one: Guest, other: Guest, rest: Sequence[str]) -> Lines:
    """Two guests."""
    command = arguments("kernel", "receiver", other.address, one.address, rest)
    receiver = other.popen(command, environment=ENVIRONMENT)
    await_socket(other)
    sender = one.popen(arguments("kernel", "sender", one.address, other.address, rest), environment=ENVIRONMENT)
    printed = sender.wait(LIMIT_S).stdout
    receiver.wait(LIMIT_S)
    return read(printed)


def rows(way: str, guest_is: str, lines: Lines) -> list[str]:
    """The lines of the table for one way."""
    made = []
    for size in COUNTS:
        runs = [line for line in lines if line["size"] == size]
        count = len(packets(size))
        rate, bare, idle = (statistics.median(run[name] for run in runs) for name in ("rate", "bare", guest_is))
        parts = [run["rate"] * count / run["bare"] for run in runs]
        made.append(
            f"| {way} | {size:,} | {rate:,.0f} | {rate * size / 1e6:,.1f} | {rate * count:,.0f} | {bare:,.0f} "
            f"| {statistics.median(parts):.2f} | {min(parts):.2f} to {max(parts):.2f} | {idle:.0%} |"
        )
        sys.stderr.write(made[-1] + "\n")
    return made


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.host_guest", description=__doc__)
    parser.add_argument("--kernel", default="newest", help="as rdstool lab names it (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="of each (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of messages (default: %(default)s)")
    options = parser.parse_args()
    before = os.getloadavg()[0]
    counts = [f"{size}:{max(1, int(count * options.scale))}" for size, count in COUNTS.items()]
    rest = [str(options.runs), str(SECONDS), *counts]
    kernel = find_kernel(options.kernel)
    measured: list[str] = []
    with Network() as network, Guest(kernel, network) as guest:
        set_up(guest)
        for way, own, sends, guest_is in (
            ("rdstool > kernel", HOST[0], True, "receiver"),
            ("kernel > rdstool", HOST[1], False, "sender"),
        ):
            measured += rows(way, guest_is, with_host(guest, network, own, sends=sends, rest=rest))
        with Annex(network) as annex, Guest(kernel, annex) as other:
            set_up(other)
            measured += rows("kernel > kernel", "receiver", of_kernels(guest, other, rest))
        release, accelerator = guest.run(["uname", "-r"]).stdout.strip(), guest.accelerator
    RESULTS.write_text(
        TEXT.format(
            command=" ".join(["python -m benchmarks.host_guest", *sys.argv[1:]]),
            today=date.today(),
            runs=options.runs,
            release=release,
            accelerator=accelerator,
            processors=processors(),
            python=platform.python_version(),
            before=before,
            after=os.getloadavg()[0],
            mtu=f"{MTU:,}",
            ahead=AHEAD,
            rows="\n".join(measured),
        )
    )


if __name__ == "__main__":
    main()
