"""``python -m benchmarks.host_guest``: RDS over RoCE, rdstool on the host and a kernel in a guest, beside bare UDP.

The guest boots by ``rdstool.lab``, with Soft-RoCE on its network device; benchmarks/guest_programs.py is what speaks
RDS on both sides. Results go to benchmarks/host_guest.md.

    send OWN PEER SECONDS SIZE...    the bare program, one datagram after the other, of these sizes in turn
    receive OWN PEER                 its other side: counts what arrives, and prints packets a second
"""

from __future__ import annotations

import argparse
import os
import platform
import socket
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import date
from itertools import cycle
from pathlib import Path
from time import perf_counter

from benchmarks.guest_programs import PORT as RDS_PORT
from benchmarks.measure import processors
from dissectors.wire.rds import FRAGMENT_BYTES, HEADER_BYTES
from rdstool.lab import Guest, Network, find_kernel

RESULTS = Path(__file__).with_name("host_guest.md")
COUNTS = {64: 8000, 4096: 2000, 65_536: 200, 1 << 20: 16}
"""Messages of each size, in bytes."""
MTU = 1024
"""Path MTU over the guest's network device, which has 1,500 bytes."""
TRANSPORT_BYTES = 16
"""BTH and ICRC."""
PORT = 4790
SECONDS = 1.0
AHEAD, TELL_EVERY = 128, 32
"""Datagrams on their way at most, and after how many the receiver tells of them: a flooded guest does nothing else."""
LOST_AFTER_S = 0.2
LIMIT_S = 300.0
BUFFER = 4 << 20
WAYS = {
    "rdstool > kernel": ("roce", "kernel"),
    "kernel > rdstool": ("kernel", "roce"),
}
"""Sender and receiver: rdstool is on the host."""

TEXT = """# RDS over RoCE, host and guest

Made by `{command}` on {today}. Medians of {runs} runs, which took turns.
Guest: Linux {release}, 1 processor, by QEMU with {accelerator}, RDS over Soft-RoCE. Machine: {processors} processors,
Python {python}; load at the start {before:.1f}, at the end {after:.1f}.

rdstool on the host, the kernel's RDS and a Python program on AF_RDS in the guest, a tap device between them, path MTU
{mtu}. "UDP": a bare Python program on the same two sides, and the same way, with datagrams of the same sizes as the
packets, one call for each, {ahead} on their way at most. Packets are those that carry messages, once.

| way | bytes | messages/s | MB/s | packets/s | UDP, packets/s | x |
|-----|------:|-----------:|-----:|----------:|---------------:|--:|
{rows}

With tcg, QEMU translates each instruction of the guest, and the guest bounds all of this: "x" tells what RDS and
Soft-RoCE cost in its kernel, beside a program that has nothing of the kind, more than what rdstool costs. Where the
load is above the number of processors, single runs differ by a factor of two.
"""


def packets(size: int) -> list[int]:
    """Payloads of the UDP datagrams that carry one message."""
    frames = [HEADER_BYTES + min(FRAGMENT_BYTES, size - at) for at in range(0, size, FRAGMENT_BYTES)]
    return [TRANSPORT_BYTES + min(MTU, frame - at) for frame in frames for at in range(0, frame, MTU)]


def bare_socket(own: str) -> socket.socket:
    """With as much room as the others have."""
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    made.bind((own, PORT))
    return made


def send(own: str, peer: str, seconds: float, sizes: Sequence[int]) -> None:
    """Datagrams until the time is over; then an empty one until it is answered."""
    with bare_socket(own) as sock:
        sock.settimeout(LOST_AFTER_S)
        to = peer, PORT
        turns = cycle([bytes(size) for size in sizes])
        meet(sock, to, b"?", b"!")
        ahead = 0
        end = perf_counter() + seconds
        while perf_counter() < end:
            while ahead < AHEAD:
                sock.sendto(next(turns), to)
                ahead += 1
            try:
                sock.recv(1)
                ahead -= TELL_EVERY
            except TimeoutError:
                ahead = 0
        meet(sock, to, b"", b"end")


def meet(sock: socket.socket, to: tuple[str, int], question: bytes, answer: bytes) -> None:
    """Ask until the answer comes: the other program may take seconds to start, and datagrams get lost."""
    deadline = perf_counter() + LIMIT_S
    while perf_counter() < deadline:
        sock.sendto(question, to)
        try:
            while sock.recv(4) != answer:
                pass
        except TimeoutError:
            continue
        return
    raise SystemExit("the other program does not answer")


def receive(own: str, peer: str) -> None:
    """Count until an empty datagram comes."""
    with bare_socket(own) as sock:
        to = peer, PORT
        sock.settimeout(LIMIT_S)
        began, count = 0.0, 0
        while data := sock.recv(4096):
            if data == b"?":
                sock.sendto(b"!", to)
                began, count = perf_counter(), 0
                continue
            count += 1
            if not count % TELL_EVERY:
                sock.sendto(b"+", to)
        sys.stdout.write(f"{count / (perf_counter() - began)}\n")
        # An answer that is lost is asked for again.
        sock.settimeout(5 * LOST_AFTER_S)
        with suppress(TimeoutError):
            while True:
                sock.sendto(b"end", to)
                sock.recv(4096)


class Sides:
    """Runs a program on either side; each prints what it has measured, or nothing."""

    def __init__(self, guest: Guest, network: Network) -> None:
        self._guest, self._network = guest, network
        self._environment = {"PYTHONPATH": str(Path(__file__).parent.parent)}
        self._made = 0

    def run(self, here: Sequence[str], there: Sequence[str], *, fresh: bool) -> float:
        """A program on the host and one in the guest: what either prints. ``{host}``, ``{guest}`` are the addresses.

        With ``fresh`` the host has an address of its own for it: kernels keep what they have with an address.
        """
        network = self._network
        own = network.smaller
        if fresh:
            self._made += 1
            own = f"192.0.2.{1 + self._made}"
            network.add_address(own)

        def command(words: Sequence[str]) -> list[str]:
            named = [word.format(host=own, guest=network.guest) for word in words]
            return [sys.executable, "-m", *named]

        inside = self._guest.popen(command(there), environment=self._environment)
        while fresh and not any(each["port"] == RDS_PORT for each in self._guest.rds.table("sockets")):
            pass  # what says hello does so once
        program = network.popen(command(here), stdout=subprocess.PIPE, text=True, env=os.environ | self._environment)
        printed, _ = program.communicate(timeout=LIMIT_S)
        printed += inside.wait(LIMIT_S).stdout
        if program.returncode:
            raise SystemExit(f"{' '.join(here)} ended with {program.returncode}")
        return float(printed)


def rds(sides: Sides, kinds: tuple[str, str], size: int, count: int) -> float:
    """Messages a second."""
    rest = str(size), str(count)
    host = "sender" if kinds[0] == "roce" else "receiver"
    guest = "receiver" if host == "sender" else "sender"
    program = "benchmarks.guest_programs"
    here = [program, "roce", host, "{host}", "{guest}", *rest]
    there = [program, "kernel", guest, "{guest}", "{host}", *rest]
    return sides.run(here, there, fresh=True)


def bare(sides: Sides, kinds: tuple[str, str], size: int) -> float:
    """Packets a second of the bare program."""
    program = "benchmarks.host_guest"
    sizes = [str(each) for each in packets(size)]
    from_host = kinds[0] == "roce"
    sender, receiver = ("{host}", "{guest}") if from_host else ("{guest}", "{host}")
    sending = [program, "send", sender, receiver, str(SECONDS), *sizes]
    receiving = [program, "receive", receiver, sender]
    return sides.run(*((sending, receiving) if from_host else (receiving, sending)), fresh=False)


def rows(sides: Sides, runs: int, scale: float) -> list[str]:
    """Measure all."""
    lines = []
    for way, kinds in WAYS.items():
        for size, count in COUNTS.items():
            rates, bares = [], []
            for _ in range(runs):
                bares.append(bare(sides, kinds, size))
                rates.append(rds(sides, kinds, size, max(1, int(count * scale))))
            rate, other = statistics.median(rates), statistics.median(bares)
            mine = rate * len(packets(size))
            lines.append(
                f"| {way} | {size:,} | {rate:,.0f} | {rate * size / 1e6:,.1f} | {mine:,.0f} | {other:,.0f} "
                f"| {mine / other:.2f} |"
            )
            sys.stderr.write(lines[-1] + "\n")
    return lines


def main() -> None:
    """Measure, and write the results; or be one side of the bare program."""
    if sys.argv[1:2] == ["send"]:
        own, peer, seconds, *sizes = sys.argv[2:]
        send(own, peer, float(seconds), [int(each) for each in sizes])
        return
    if sys.argv[1:2] == ["receive"]:
        receive(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks.host_guest", description=__doc__)
    parser.add_argument("--kernel", default="newest", help="as rdstool lab names it (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="of each (default: %(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of messages (default: %(default)s)")
    options = parser.parse_args()
    before = os.getloadavg()[0]
    with Network() as network, Guest(find_kernel(options.kernel), network) as guest:
        for name in ("wmem_max", "rmem_max"):
            guest.sysctl(f"net.core.{name}", BUFFER)
        guest.add_rxe()
        measured = rows(Sides(guest, network), options.runs, options.scale)
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
