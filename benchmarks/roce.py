"""Userspace RoCE, and RDS over it, beside a bare UDP program with packets of the same sizes, on loopback.

    python -m benchmarks.roce --messages 64 4096 65536 1048576 --mtu 1024 4096

The bare program does nothing but ``sendto`` in one process and ``recvfrom`` in the other, without any order, check or
answer, and one system call a datagram; what counts is what arrives. RoCE has the system cut bursts into packets where
it can. Of its packets those count that carry messages, once: acknowledgements, frames of RDS that only acknowledge, and
what is sent again cost time and do not count.

Both take turns, and ratios are those of medians: of packets a second by the clock, and of what the busier one of the
two processes spends on a packet, which other load on the machine hardly changes.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import select
import socket
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from multiprocessing.connection import Connection as Pipe
from time import monotonic, perf_counter, process_time

from dissectors.wire.rds import FRAGMENT_BYTES
from rdstool.endpoint.core import NodeOptions
from rdstool.endpoint.node import Node
from rdstool.protocol.config import Settings
from rdstool.protocol.kinds import Transport
from rdstool.transport.ib.provider import (
    Completed,
    ConnectionOptions,
    ConnectRequested,
    Established,
    Event,
    Operation,
    Status,
)
from rdstool.transport.ib.roce_udp import RoceProvider

SERVICE = 0x0106_1C06
IN_FLIGHT = 64
"""Messages that are posted ahead."""
HEADERS_BYTES = 16
"""BTH and ICRC: what a bare datagram is longer than its payload, to be as long as a RoCE one."""
PING_PONGS = 2_000
RDS_MTU = 4096
"""Path MTU of RDS on loopback: a whole fragment with its header takes two packets."""
RDS_HEADER_BYTES = 48
RDS_PORT = 4000
BUFFER_BYTES = 4 << 20
ANSWER = b"?"
FIN = b"end"
COLUMNS = (
    "", "message", "path MTU", "messages/s", "MB/s", "packets/s", "bare UDP", "ratio", "us/packet", "bare UDP", "ratio",
    "round trip, us",
)  # fmt: skip


@dataclass(frozen=True)
class Rate:
    """What arrived."""

    seconds: float
    packets: int
    messages: int
    processor: float
    """Seconds of processor of the busier one of the two processes: what other load on the machine hardly changes."""

    @property
    def packet_rate(self) -> float:
        """Packets a second."""
        return self.packets / self.seconds

    @property
    def cost(self) -> float:
        """Microseconds of processor for a packet."""
        return self.processor / self.packets * 1e6


def address(number: int) -> str:
    """A loopback address of this run alone."""
    pid = os.getppid() if multiprocessing.parent_process() else os.getpid()
    return f"127.{20 + pid % 70}.{pid // 70 % 250}.{number}"


def in_two_processes(
    other: Callable[[Pipe, str, str], None], here: Callable[[Pipe, str, str], Rate], first: str, second: str
) -> Rate:
    """Run ``other`` in a process of its own and ``here`` in this one; the result is that of ``here``.

    Each keeps to a processor of its own: the system likes to put both on one, as they wake each other, and does so in
    some runs and not in others.
    """
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=other, args=(theirs, first, second))
    process.start()
    theirs.close()
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(process.pid or 0, {allowed[-1]})
    os.sched_setaffinity(0, {allowed[0]})
    try:
        return here(ours, first, second)
    finally:
        os.sched_setaffinity(0, allowed)
        process.join()


# ---- The bare program


def bare(sizes: Sequence[int], seconds: float) -> Rate:
    """Datagrams of these sizes of payload in turn, for ``seconds``."""

    def send(pipe: Pipe, _here: str, target: str) -> None:
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        turns = [bytes(size + HEADERS_BYTES) for size in sizes] * max(1, IN_FLIGHT // len(sizes))
        pipe.recv()
        began = process_time()
        end = perf_counter() + seconds
        while perf_counter() < end:
            for data in turns:
                sender.sendto(data, (target, 4791))
        pipe.send(process_time() - began)

    def receive(pipe: Pipe, _peer: str, here: str) -> Rate:
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        receiver.bind((here, 4791))
        receiver.setblocking(False)
        pipe.send(FIN)
        count, longest = 0, max(sizes) + HEADERS_BYTES
        start, began = perf_counter(), process_time()
        while True:
            try:
                while True:
                    receiver.recvfrom(longest)
                    count += 1
            except BlockingIOError:
                if pipe.poll():
                    break
                select.select([receiver.fileno(), pipe.fileno()], [], [])
        took, used = perf_counter() - start, process_time() - began
        receiver.close()
        return Rate(took, count, count, max(used, pipe.recv()))

    return in_two_processes(send, receive, address(1), address(2))


# ---- RoCE


def turn(provider: RoceProvider, pipe: Pipe) -> list[Event]:
    """Events; waits for some, or for the other process."""
    events = provider.process(monotonic())
    if not events:
        due = provider.next_timer()
        wait = None if due is None else max(0.0, due - monotonic())
        select.select([*provider.filenos(), pipe.fileno()], [], [], wait)
    return events


def receive_all(size: int) -> Callable[[Pipe, str, str], None]:
    """A process that takes messages until the peer disconnects, and answers those that ask for it."""

    def run(pipe: Pipe, _peer: str, here: str) -> None:
        provider = RoceProvider(here)
        provider.listen(SERVICE)
        pipe.send(FIN)
        began = process_time()
        while not pipe.poll():
            for event in turn(provider, pipe):
                if isinstance(event, ConnectRequested):
                    for _ in range(4 * IN_FLIGHT):
                        event.connection.post_receive(0, size)
                    event.connection.accept()
                elif isinstance(event, Completed) and event.data and event.status is Status.SUCCESS:
                    event.connection.post_receive(0, size)
                    if event.solicited:
                        event.connection.post_send(0, event.data, solicited=True)
        pipe.send(process_time() - began)
        provider.close()

    return run


def roce(size: int, mtu: int, seconds: float, *, latency: bool = False) -> Rate:
    """SENDs of ``size`` bytes for ``seconds``; with ``latency``, one at a time and back, ``PING_PONGS`` times."""

    def send(pipe: Pipe, here: str, target: str) -> Rate:
        provider = RoceProvider(here)
        pipe.recv()
        connection = provider.connect(target, SERVICE, options=ConnectionOptions(path_mtu=mtu))
        data = bytes(size)
        while not any(isinstance(event, Established) for event in turn(provider, pipe)):
            pass
        done = posted = 0
        start, began = perf_counter(), process_time()
        if latency:
            for _ in range(4):
                connection.post_receive(0, size)
        while done < PING_PONGS if latency else perf_counter() < start + seconds or done < posted:
            ahead = 1 if latency else IN_FLIGHT
            if latency or perf_counter() < start + seconds:
                while posted < done + ahead:
                    connection.post_send(0, data, solicited=latency)
                    posted += 1
            wanted = Operation.RECEIVE if latency else Operation.SEND
            for event in turn(provider, pipe):
                assert isinstance(event, Completed)
                assert event.status is Status.SUCCESS
                done += event.operation is wanted
                if event.operation is Operation.RECEIVE:
                    connection.post_receive(0, size)
        took, used = perf_counter() - start, process_time() - began
        packets = done * -(-size // mtu or -1)
        connection.disconnect()
        provider.process(monotonic())
        pipe.send(FIN)
        used = max(used, pipe.recv())
        provider.close()
        return Rate(took, packets, done, used)

    return in_two_processes(receive_all(size), send, address(1), address(2))


# ---- RDS over RoCE


def fragments(size: int) -> list[int]:
    """Payloads of the packets that carry one RDS message where the path MTU is that of loopback."""
    frames = [RDS_HEADER_BYTES + min(FRAGMENT_BYTES, size - at) for at in range(0, size, FRAGMENT_BYTES)]
    return [min(RDS_MTU, frame - at) for frame in frames for at in range(0, frame, RDS_MTU)]


def rds_node(address: str) -> Node:
    """A node over InfiniBand with room for what is sent ahead."""
    return Node(
        address, options=NodeOptions(Settings(sndbuf=BUFFER_BYTES, rcvbuf=BUFFER_BYTES), transport=Transport.IB)
    )


def rds_receive(pipe: Pipe, _peer: str, here: str) -> None:
    """Take messages until the other process has done; answer those that begin with ``ANSWER``."""

    async def run() -> None:
        async with rds_node(here) as node:
            sock = node.socket(RDS_PORT)
            ended = asyncio.Event()
            asyncio.get_running_loop().add_reader(pipe.fileno(), ended.set)

            async def read() -> None:
                while True:
                    data, sender = await sock.recvfrom()
                    if data[:1] == ANSWER:
                        await sock.sendto(data, sender)

            pipe.send(FIN)
            began = process_time()
            reader = asyncio.create_task(read())
            await ended.wait()
            reader.cancel()
            pipe.send(process_time() - began)

    asyncio.run(run())


def rds(size: int, seconds: float, *, latency: bool = False) -> Rate:
    """RDS messages for ``seconds``; with ``latency``, one at a time and back, ``PING_PONGS`` at most."""

    async def run(pipe: Pipe, here: str, target: str) -> Rate:
        async with rds_node(here) as node:
            sock, to = node.socket(RDS_PORT), (target, RDS_PORT)
            await sock.sendto(ANSWER, to)
            await sock.recv()
            data = (ANSWER if latency else bytes(1)) + bytes(size - 1)
            done = 0
            start, began = perf_counter(), process_time()
            while perf_counter() < start + seconds and (not latency or done < PING_PONGS):
                await sock.sendto(data, to)
                done += 1
                if latency:
                    await sock.recv()
            await sock.drain()
            took, used = perf_counter() - start, process_time() - began
            pipe.send(FIN)
            return Rate(took, done * len(fragments(size)), done, max(used, pipe.recv()))

    def send(pipe: Pipe, here: str, target: str) -> Rate:
        pipe.recv()
        return asyncio.run(run(pipe, here, target))

    return in_two_processes(rds_receive, send, address(1), address(2))


# ---- The command


def median(several: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(several)


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description="Measure userspace RoCE beside a bare UDP program.")
    parser.add_argument("--messages", type=int, nargs="+", default=[64, 4096, 65_536, 1 << 20], metavar="BYTES")
    parser.add_argument("--mtu", type=int, nargs="+", default=[1024, 4096], metavar="BYTES", help="path MTUs")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", choices=["roce", "rds"], help="one of both")
    options = parser.parse_args()
    print(f"| {' | '.join(COLUMNS)} |")
    print(f"| --- | {' | '.join('-' * (len(column) - 1) + ':' for column in COLUMNS[1:])} |")
    if options.only != "rds":
        for mtu, size in product(options.mtu, options.messages):
            compare("RoCE", size, mtu, [min(size, mtu)], partial(roce, size, mtu, options.seconds), options)
    if options.only != "roce":
        for size in options.messages:
            compare("RDS", size, RDS_MTU, fragments(size), partial(rds, size, options.seconds), options)


def compare(
    what: str, size: int, mtu: int, packets: Sequence[int], program: Callable[..., Rate], options: argparse.Namespace
) -> None:
    """Print a row: a program beside the bare one with packets of the same sizes, in turns."""
    ours, bares, trips = [], [], []
    for _ in range(options.runs):
        bares.append(bare(packets, options.seconds))
        ours.append(program())
        trip = program(latency=True)
        trips.append(trip.seconds / trip.messages * 1e6)
    rate, bare_rate = (median([one.packet_rate for one in several]) for several in (ours, bares))
    cost, bare_cost = (median([one.cost for one in several]) for several in (ours, bares))
    messages = median([one.messages / one.seconds for one in ours])
    print(
        f"| {what} | {size:,} | {mtu} | {messages:,.0f} | {messages * size / 1e6:,.1f} | {rate:,.0f} "
        f"| {bare_rate:,.0f} | {rate / bare_rate:.2f} | {cost:.1f} | {bare_cost:.1f} "
        f"| {bare_cost / cost:.2f} | {median(trips):,.0f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
