"""The programs that benchmarks/endpoint.py lets run against each other; each one tells what it took.

``python -m benchmarks.endpoint_programs KIND ROLE SIZE COUNT TRIPS PATHS`` with KIND one of

``bare``      PATHS TCP connections, blocking sockets, a 48-byte header before each payload, no protocol
``socket``    ``rdstool.Socket``
``node``      ``rdstool.Node``, asyncio
``crowd``     a node with COUNT sockets, and PATHS peers (nodes of another process) that talk to all of them

The receiver prints a line when it listens. Both print a JSON object at their end. TCP's congestion control is what the
environment says in CONGESTION, or the system's.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import selectors
import socket
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from time import perf_counter

import rdstool
from rdstool.endpoint.core import keep_memory
from rdstool.endpoint.node import AsyncSocket
from rdstool.endpoint.stack import Stack
from rdstool.protocol.pathhash import path_of_port

SENDER, RECEIVER = "127.77.0.1", "127.77.0.2"
PORT = 4000
BUFFER = 8 << 20
"""Receive buffer, and send buffers of all sockets together, in bytes: room for eight of the longest messages. What is
under way fits into the processor's cache then, as does what the system takes of the bare program."""
SMALLEST_SNDBUF = 2 << 20
"""Each socket has room for two."""
HEADER = struct.Struct(">QQIIHHBB2x16x")
"""What the bare program sends before each payload: as long as the header of RDS."""
RECV_BYTES = 1 << 16
LAST = b"last"
"""What the receiver answers when it has everything."""


class Meter:
    """What sending or receiving the messages takes of this process."""

    def __init__(self) -> None:
        self._began, self._used = perf_counter(), _processor_seconds()

    def stop(self) -> None:
        """All messages have gone, or come."""
        self.seconds, self.cpu = perf_counter() - self._began, _processor_seconds() - self._used

    def report(self, trips: Sequence[float] = ()) -> None:
        """Tell the benchmark, with the seconds that each message took to and fro."""
        peak = next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
        told = {"seconds": self.seconds, "cpu": self.cpu, "peak": int(peak) * 1024, "trips": sorted(trips)}
        sys.stdout.write(json.dumps(told) + "\n")


def _processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def listening() -> None:
    """Tell the benchmark that the sender may start."""
    sys.stdout.write("listening\n")
    sys.stdout.flush()


def make_socket(family: int, kind: int) -> socket.socket:
    """A socket as every program uses them."""
    sock = socket.socket(family, kind)
    name = os.environ.get("CONGESTION")
    if name:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())
    return sock


# ---- Without protocol


def bare_socket(address: str, port: int) -> socket.socket:
    """A TCP socket of that address."""
    sock = make_socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.bind((address, port))
    return sock


class BareReader:
    """Payloads off a connection."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._kept = b""

    def read(self) -> list[bytes]:
        """Those that one call of the system brings, and the rest of the last of them; none at the end."""
        payloads: list[bytes] = []
        while not payloads and (data := self._sock.recv(RECV_BYTES)):
            kept = self._kept + data if self._kept else data
            at, size = 0, len(kept)
            while size - at >= HEADER.size:
                end = at + HEADER.size + HEADER.unpack_from(kept, at)[2]
                if end > size:
                    payloads.append(self._rest(kept[at:], end - size))
                    at = size
                    break
                payloads.append(kept[at + HEADER.size : end])
                at = end
            self._kept = kept[at:]
        return payloads

    def _rest(self, begun: bytes, missing: int) -> bytes:
        parts = [begun]
        while missing:
            part = self._sock.recv(min(missing, RECV_BYTES))
            if not part:
                raise SystemExit("the connection ended within a message")
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)[HEADER.size :]


def bare_messages(socks: Sequence[socket.socket]) -> Iterator[bytes]:
    """The payloads that come on connections; of several, on those that are ready, one after the other."""
    if len(socks) == 1:
        reader = BareReader(socks[0])
        while payloads := reader.read():
            yield from payloads
        return
    with selectors.DefaultSelector() as selector:
        for sock in socks:
            selector.register(sock, selectors.EVENT_READ, BareReader(sock))
        while True:
            for key, _ in selector.select():
                payloads = key.data.read()
                if not payloads:
                    return
                yield from payloads


def bare_send(sock: socket.socket, sequence: int, payload: bytes) -> None:
    """One message."""
    sock.sendall(HEADER.pack(sequence, 0, len(payload), 0, PORT, PORT, 0, 0) + payload)


def bare_sender(size: int, count: int, trips: int, connections: int) -> None:
    """Send on all connections in turn, wait for the end, then go to and fro on the first."""
    keep_memory()
    socks = [bare_socket(SENDER, 0) for _ in range(connections)]
    for sock in socks:
        sock.connect((RECEIVER, PORT))
    first = socks[0]
    answers = bare_messages([first])
    payload = bytes(size)
    bare_send(first, 0, payload)
    next(answers)
    meter = Meter()
    for sequence in range(count):
        bare_send(socks[sequence % connections], sequence, payload)
    assert next(answers) == LAST
    meter.stop()
    times = []
    for sequence in range(trips):
        began = perf_counter()
        bare_send(first, sequence, payload)
        next(answers)
        times.append(perf_counter() - began)
    meter.report(times)


def bare_receiver(_size: int, count: int, trips: int, connections: int) -> None:
    """Take everything, say so, then answer."""
    keep_memory()
    with bare_socket(RECEIVER, PORT) as server:
        server.listen(connections)
        listening()
        socks = [server.accept()[0] for _ in range(connections)]
    first = socks[0]
    messages = bare_messages(socks)
    bare_send(first, 0, next(messages))
    meter = Meter()
    for _ in range(count):
        next(messages)
    bare_send(first, 0, LAST)
    meter.stop()
    for sequence in range(trips):
        bare_send(first, sequence, next(messages))
    meter.report()


# ---- rdstool's sockets


def ports(paths: int) -> list[int]:
    """A port of the sender for each path. Eight that the node chose would hash to five of eight paths, on average."""
    by_path = {path_of_port(port, paths): port for port in range(PORT, PORT + 100)}
    return [by_path[path] for path in range(paths)]


def options(paths: int) -> rdstool.NodeOptions:
    """The number of paths, and buffers for long messages; there is a socket for each path."""
    sndbuf = max(BUFFER // paths, SMALLEST_SNDBUF)
    settings = rdstool.Settings(paths=paths, sndbuf=sndbuf, rcvbuf=BUFFER)
    return rdstool.NodeOptions(settings, make_socket=make_socket)


def socket_sender(size: int, count: int, trips: int, paths: int) -> None:
    """The same with ``rdstool.Socket``, one for each path."""
    to = RECEIVER, PORT
    with Stack(options(paths)) as stack:
        sockets = [rdstool.Socket(stack) for _ in range(paths)]
        for sock, port in zip(sockets, ports(paths), strict=True):
            sock.bind((SENDER, port))
        first = sockets[0]
        first.sendto(b"", to)
        first.recv()
        payload = bytes(size)
        meter = Meter()
        for number in range(count):
            sockets[number % paths].sendto(payload, to)
        assert first.recv() == LAST
        meter.stop()
        times = []
        for _ in range(trips):
            began = perf_counter()
            first.sendto(payload, to)
            first.recv()
            times.append(perf_counter() - began)
        meter.report(times)
        first.drain()


def socket_receiver(_size: int, count: int, trips: int, paths: int) -> None:
    """The same with ``rdstool.Socket``."""
    with Stack(options(paths)) as stack, rdstool.Socket(stack) as sock:
        sock.bind((RECEIVER, PORT))
        listening()
        _, sender = sock.recvfrom()
        sock.sendto(b"", sender)
        meter = Meter()
        for _ in range(count):
            sock.recv()
        sock.sendto(LAST, sender)
        meter.stop()
        for _ in range(trips):
            data, sender = sock.recvfrom()
            sock.sendto(data, sender)
        sock.drain()
        meter.report()


# ---- rdstool's nodes


async def node_sender(size: int, count: int, trips: int, paths: int) -> None:
    """The same with ``rdstool.Node``, one socket for each path."""
    to = RECEIVER, PORT
    async with rdstool.Node(SENDER, options=options(paths)) as node:
        sockets = [node.socket(port) for port in ports(paths)]
        first = sockets[0]
        await first.sendto(b"", to)
        await first.recv()
        payload = bytes(size)
        meter = Meter()
        for number in range(count):
            await sockets[number % paths].sendto(payload, to)
        assert await first.recv() == LAST
        meter.stop()
        times = []
        for _ in range(trips):
            began = perf_counter()
            await first.sendto(payload, to)
            await first.recv()
            times.append(perf_counter() - began)
        meter.report(times)
        await first.drain()


async def node_receiver(_size: int, count: int, trips: int, paths: int) -> None:
    """The same with ``rdstool.Node``."""
    async with rdstool.Node(RECEIVER, options=options(paths)) as node:
        sock = node.socket(PORT)
        listening()
        _, sender = await sock.recvfrom()
        await sock.sendto(b"", sender)
        meter = Meter()
        for _ in range(count):
            await sock.recv()
        await sock.sendto(LAST, sender)
        meter.stop()
        for _ in range(trips):
            data, sender = await sock.recvfrom()
            await sock.sendto(data, sender)
        await sock.drain()
        meter.report()


# ---- Many sockets, many peers


def crowd_addresses(number: int) -> list[str]:
    """Addresses of peers, all below that of the receiver."""
    return [f"127.76.{1 + each // 200}.{1 + each % 200}" for each in range(number)]


async def crowd_sender(_size: int, count: int, _trips: int, peers: int) -> None:
    """A node for each peer; each sends a message to every socket, one after the other, and reads what comes back."""
    async with AsyncExitStack() as opened:
        nodes = [await opened.enter_async_context(rdstool.Node(each)) for each in crowd_addresses(peers)]
        meter = Meter()

        async def talk(node: rdstool.Node) -> None:
            sock = node.socket(0)
            for number in range(count):
                await sock.sendto(b"hello", (RECEIVER, PORT + number))
                await sock.recv()
            await sock.drain()

        await asyncio.gather(*(talk(node) for node in nodes))
        meter.stop()
        meter.report()


async def crowd_receiver(_size: int, count: int, _trips: int, peers: int) -> None:
    """One node, whose memory is the question."""
    async with rdstool.Node(RECEIVER) as node:
        sockets = [node.socket(PORT + number) for number in range(count)]
        listening()
        meter = Meter()

        async def answer(sock: AsyncSocket) -> None:
            for _ in range(peers):
                data, sender = await sock.recvfrom()
                await sock.sendto(data, sender)
            await sock.drain()

        await asyncio.gather(*map(answer, sockets))
        meter.stop()
        meter.report()


def main() -> None:
    """Run one program."""
    kind, role, *numbers = sys.argv[1:]
    program = globals()[f"{kind}_{role}"]
    done = program(*map(int, numbers))
    if done is not None:
        asyncio.run(done)


if __name__ == "__main__":
    main()
