"""What benchmarks/guest.py runs in a guest, as root of it.

``all RUNS SCALE``                    sets namespaces up, runs all pairs, prints a JSON line for each
``KIND ROLE OWN PEER SIZE COUNT``     one program of a pair, as ``sender`` or ``receiver``: ``kernel``, ``rdstool``, or
                                      ``roce``, which is rdstool over InfiniBand

The side with the smaller address says hello first: over the connection that it opens all messages go, either way.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
from contextlib import ExitStack
from time import perf_counter
from typing import Protocol

import rdstool
from dissectors.wire.rds import TCP_PORT
from rdstool.afrds.numbers import AF_RDS
from rdstool.endpoint.stack import Stack
from rdstool.protocol.addresses import rank
from rdstool.protocol.kinds import Transport

COUNTS = {64: 2000, 1024: 2000, 8192: 1000, 65_536: 250, 1 << 20: 40}
"""Messages of each size, in bytes."""
PAIRS = {
    "kernel > kernel": ("kernel", "kernel"),
    "rdstool > kernel": ("rdstool", "kernel"),
    "kernel > rdstool": ("kernel", "rdstool"),
}
"""Sender and receiver."""
LARGER = "192.0.2.200"
SMALLER = (f"192.0.2.{number}" for number in range(1, 200))
"""One for each run: a kernel keeps what it has with an address, and rdstool would find its path taken."""
PORT = 4000
OTHER_TCP_PORT = TCP_PORT + 1
BUFFER = 8 << 20
"""Send and receive buffer, in bytes."""
LIMIT_S = 300.0
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
"""Of <asm-generic/socket.h>; Python does not name them."""
HELLO, LAST = b"hello", b"last"


class RdsSocket(Protocol):
    """What both kinds of sockets can."""

    def sendto(self, data: bytes, address: tuple[str, int], /) -> int:
        """Send a message."""
        ...

    def settimeout(self, seconds: float | None, /) -> None:
        """How long the others wait."""
        ...

    def recvfrom(self, size: int, /) -> tuple[bytes, tuple[str, int]]:
        """The next message, and its sender."""
        ...


class Elsewhere(socket.socket):
    """Listens on another TCP port than the kernel, which has taken that of RDS for all addresses of the namespace."""

    def bind(self, address: tuple[str, int]) -> None:  # type: ignore[override]
        """Bind, but not to the port of RDS."""
        super().bind((address[0], OTHER_TCP_PORT) if address[1] == TCP_PORT else address)


def opened(kind: str, own: str, stack: ExitStack) -> RdsSocket:
    """A socket on an address."""
    if kind != "kernel":
        settings = rdstool.Settings(sndbuf=BUFFER, rcvbuf=BUFFER)
        options = rdstool.NodeOptions(settings, make_socket=Elsewhere)
        if kind == "roce":
            options = rdstool.NodeOptions(settings, transport=Transport.IB)
        home = stack.enter_context(Stack(options))
        sock = stack.enter_context(rdstool.Socket(home))
        sock.bind((own, PORT))
        sock.settimeout(LIMIT_S)
        return sock
    theirs = stack.enter_context(socket.socket(AF_RDS, socket.SOCK_SEQPACKET))
    # Beyond net.core.wmem_max; Linux doubles what it is told.
    for option in (SO_SNDBUFFORCE, SO_RCVBUFFORCE):
        theirs.setsockopt(socket.SOL_SOCKET, option, BUFFER // 2)
    theirs.bind((own, PORT))
    theirs.settimeout(LIMIT_S)
    return theirs


def run_program(kind: str, role: str, own: str, peer: str, size: int, count: int) -> None:
    """Meet, then send or receive all messages; the sender prints its rate."""
    longest = max(size, 100)
    to = peer, PORT
    with ExitStack() as stack:
        sock = opened(kind, own, stack)
        sys.stderr.write(f"{kind} {role} on {own}\n")
        if rank(own) < rank(peer):
            sock.sendto(HELLO, to)
            assert sock.recvfrom(longest)[0] == HELLO
        else:
            assert sock.recvfrom(longest)[0] == HELLO
            sock.sendto(HELLO, to)
        if role == "sender":
            payload = bytes(size)
            began = perf_counter()
            for _ in range(count):
                sock.sendto(payload, to)
            assert sock.recvfrom(longest)[0] == LAST
            sys.stdout.write(f"{count / (perf_counter() - began)}\n")
        else:
            for _ in range(count):
                assert len(sock.recvfrom(longest)[0]) == size
            sock.sendto(LAST, to)
            if isinstance(sock, rdstool.Socket):
                sock.drain(LIMIT_S)


def set_up() -> None:
    """Two namespaces, a veth pair between them, RDS over TCP in both."""
    for command in (
        "modprobe veth",
        "modprobe rds_tcp",
        "ip netns add smaller",
        "ip netns add larger",
        "ip link add pair netns smaller type veth peer name pair netns larger",
        f"ip -n larger address add {LARGER}/24 dev pair",
        "ip -n smaller link set lo up",
        "ip -n larger link set lo up",
        "ip -n smaller link set pair up",
        "ip -n larger link set pair up",
    ):
        subprocess.run(command.split(), check=True)


def run_pair(kinds: tuple[str, str], size: int, count: int) -> float:
    """Let a sender and a receiver run; gives messages a second. rdstool has the smaller address where it takes part."""
    smaller = next(SMALLER)
    subprocess.run(f"ip -n smaller address add {smaller}/24 dev pair".split(), check=True)
    sender, receiver = (LARGER, smaller) if kinds[1] == "rdstool" else (smaller, LARGER)
    processes = {}
    # The larger address first: it waits for the smaller one's hello.
    for own, namespace in ((LARGER, "larger"), (smaller, "smaller")):
        role, peer = ("sender", receiver) if own == sender else ("receiver", sender)
        kind = kinds[role == "receiver"]
        program = [sys.executable, "-m", "benchmarks.guest_programs", kind, role, own, peer, str(size), str(count)]
        process = subprocess.Popen(
            ["ip", "netns", "exec", namespace, *program],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        first = process.stderr.readline()
        if not first.startswith(kind):
            raise SystemExit(f"{' '.join(program)}: {first}{process.stderr.read()}")
        processes[role] = process
    told = {role: process.communicate(timeout=LIMIT_S) for role, process in processes.items()}
    if any(process.returncode for process in processes.values()):
        raise SystemExit(f"{kinds}, {size} bytes: {told}")
    return float(told["sender"][0])


def run_all(runs: int, scale: float) -> None:
    """All pairs, all sizes; the pairs take turns."""
    set_up()
    sys.stdout.write(json.dumps({"release": platform.release(), "processors": os.cpu_count()}) + "\n")
    sys.stdout.flush()
    for size, count in COUNTS.items():
        for _ in range(runs):
            for name, kinds in PAIRS.items():
                rate = run_pair(kinds, size, max(1, int(count * scale)))
                sys.stdout.write(json.dumps({"pair": name, "size": size, "rate": rate}) + "\n")
                sys.stdout.flush()


def main() -> None:
    """Run everything, or one program of a pair."""
    if sys.argv[1] == "all":
        run_all(int(sys.argv[2]), float(sys.argv[3]))
    else:
        kind, role, own, peer, size, count = sys.argv[1:]
        run_program(kind, role, own, peer, int(size), int(count))


if __name__ == "__main__":
    main()
