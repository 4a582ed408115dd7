"""The userspace RoCE provider as a peer of programs in the guest: rping, ibv_rc_pingpong, and plain verbs."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from random import Random
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Self

from dissectors.wire.cm import SERVICE_ID_TCP, RejectReason
from rdstool.lab import Guest, Network
from rdstool.lab.completed import Completed as GuestCompleted
from rdstool.protocol.ib.memory import Access
from rdstool.transport.ib.provider import (
    Broken,
    Completed,
    ConnectFailed,
    Connection,
    ConnectionOptions,
    ConnectRequested,
    Disconnected,
    Established,
    Event,
    Operation,
    Refused,
    Segment,
    Status,
)
from rdstool.transport.ib.roce.connection import RoceConnection
from rdstool.transport.ib.roce.flow import UDP_PROTOCOL
from rdstool.transport.ib.roce.numbers import gid_of
from rdstool.transport.ib.roce_udp import RoceProvider

FAULTS = 0.02
"""Part of the datagrams that something happens to."""
TIMEOUT_S = 120.0
"""For a step that takes a second on an idle machine."""
DIAL_AGAIN_S = 0.1
"""Between attempts to connect: to refuse one takes the guest time, which it needs to come to where it listens."""
RPING = SERVICE_ID_TCP | 7174
ADVERT = struct.Struct(">QII")
"""What rping's ends tell each other: address, key and size of their memory."""
ALL = Access.LOCAL_WRITE | Access.REMOTE_WRITE | Access.REMOTE_READ | Access.REMOTE_ATOMIC
PINGPONG_PORT = 18515
OPTIONS = ConnectionOptions(ack_timeout=19)
"""A busy machine holds a guest up for seconds: 8 times 2 s."""


class FaultySocket(socket.socket):
    """Loses, doubles, reorders or damages one datagram in fifty of those that it sends, and one burst in fifty.

    Of a burst, the end is lost or doubled, or one datagram is damaged.
    """

    fault = ""
    random: Random
    late: bytes | None = None
    """Held back until after the next one."""

    @classmethod
    def make(cls, network: Network, fault: str, family: int, kind: int) -> Self:
        """One on the host's side of the network."""
        made = cls(family, kind, fileno=network.socket(family, kind).detach())
        made.fault, made.random = fault, Random(family)
        return made

    def sendto(self, data: bytes, address: Any) -> int:  # type: ignore[override]
        """Send, or not."""
        if self.fault and self.random.random() < FAULTS:
            if self.fault == "loss":
                return len(data)
            if self.fault == "duplicate":
                super().sendto(data, address)
            elif self.fault == "corrupt":
                place = self.random.randrange(len(data))
                data = data[:place] + bytes([data[place] ^ 1 << self.random.randrange(8)]) + data[place + 1 :]
            elif self.late is None:
                self.late = data
                return len(data)
        sent = super().sendto(data, address)
        self._catch_up(address)
        return sent

    def sendmsg(self, datagrams: Any, ancillary: Any = (), flags: int = 0, address: Any = None) -> int:
        """Send a burst, or not all of it."""
        if self.fault and self.random.random() < FAULTS:
            place = self.random.randrange(len(datagrams))
            if self.fault == "corrupt":
                byte = self.random.randrange(len(datagrams[place]))
                datagrams = list(datagrams)
                content = bytearray(datagrams[place])
                content[byte] ^= 1 << self.random.randrange(8)
                datagrams[place] = bytes(content)
            elif self.fault == "duplicate":
                super().sendmsg(datagrams[: place + 1], ancillary, flags, address)
            elif self.fault == "loss":
                datagrams = datagrams[: place + 1]
        sent = super().sendmsg(datagrams, ancillary, flags, address)
        self._catch_up(address)
        return sent

    def _catch_up(self, address: Any) -> None:
        if self.late is not None:
            late, self.late = self.late, None
            super().sendto(late, address)


class Program:
    """A program in the guest that does not outlive its test."""

    def __init__(self, guest: Guest, arguments: list[str]) -> None:
        self._process = guest.popen(arguments)
        self._done: GuestCompleted | None = None

    def wait(self, *, check: bool = True) -> GuestCompleted:
        """Wait for its end."""
        self._done = self._process.wait(TIMEOUT_S, check=check)
        return self._done

    def end(self) -> None:
        """End it, if it has not ended."""
        if self._done is None:
            self._done = self._process.kill("SIGKILL")


class Peer:
    """The provider at one address of the host's side; a context manager. ``on`` is called with each event."""

    def __init__(self, network: Network, address: str, fault: str = "") -> None:
        self.provider = RoceProvider(address, make_socket=partial(FaultySocket.make, network, fault))
        self.on: Callable[[Event], None] = self.seen
        self.events: list[Event] = []

    def seen(self, event: Event) -> None:
        """Keep an event."""
        self.events.append(event)

    def turn(self) -> None:
        """Wait a moment for datagrams, and handle what happens."""
        provider = self.provider
        events = provider.process(monotonic())
        for event in events:
            self.on(event)
        if not events:
            due = provider.next_timer()
            wait = 0.1 if due is None else min(max(due - monotonic(), 0.0), 0.1)
            select.select(provider.filenos(), [], [], wait)

    def until(self, done: Callable[[], object]) -> None:
        """Go on until ``done``."""
        deadline = monotonic() + TIMEOUT_S
        while not done():
            assert monotonic() < deadline, f"nothing more after {self.events[-3:]}, {self.counted()}"
            self.turn()

    def counted(self) -> dict[str, int]:
        """What is not 0."""
        return {name: count for name, count in self.provider.device.counters.as_dict().items() if count}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.provider.close()


def add_rxe(guest: Guest) -> None:
    """A Soft-RoCE device in the guest that programs can use, without RDS on top."""
    guest.add_rxe()
    guest.unload_modules("rds_rdma")
    guest.load_modules("ib_uverbs", "rdma_ucm")


def has_rxe(guest: Guest) -> bool:
    """Whether it has that device."""
    return not guest.run(["test", "-d", "/sys/class/infiniband/rxe0"], check=False).status


def remove_rxe(guest: Guest) -> None:
    """As before."""
    guest.run(["rdma", "link", "delete", "rxe0"])


def gid_index(guest: Guest) -> str:
    """Where the device has the GID of the guest's IPv4 address."""
    wanted = gid_of(guest.address).hex()
    folder = "/sys/class/infiniband/rxe0/ports/1/gids"
    found = guest.run(["grep", "-H", "", "-r", folder]).stdout
    for line in found.splitlines():
        path, _, gid = line.partition(":")
        if gid.replace(":", "") == wanted:
            return path.rpartition("/")[2]
    raise AssertionError(f"rxe0 has no GID {wanted}: {found}")


class Rping:
    """What both ends of rping have: memory that they offer, and messages that offer it."""

    def __init__(self, peer: Peer, size: int) -> None:
        self.peer = peer
        self.memory = bytearray(size)
        self.region = peer.provider.register(self.memory, ALL)
        self.connection: Connection | None = None
        self.rounds = 0
        self.ended = False
        self.broken: str | None = None
        self.failed: list[Status] = []
        peer.on = self.on

    def advertise(self, key: int = 0) -> None:
        """Tell the other end where the memory is; ``key`` makes its key wrong."""
        assert self.connection is not None
        self.connection.post_send(1, ADVERT.pack(self.region.address, self.region.rkey ^ key, len(self.memory)))

    def on(self, event: Event) -> None:
        """Take an event."""
        self.peer.seen(event)
        if isinstance(event, Disconnected | ConnectFailed):
            self.ended = True
        elif isinstance(event, Broken):
            self.broken = event.detail
        elif isinstance(event, Completed) and event.status is not Status.SUCCESS:
            self.failed.append(event.status)
        elif isinstance(event, Completed):
            if event.operation is Operation.RECEIVE:
                event.connection.post_receive(0, ADVERT.size)
            self.completed(event)

    def completed(self, event: Completed) -> None:
        """Take the next step."""
        raise NotImplementedError


class RpingClient(Rping):
    """Offers memory that the server reads, then memory that the server writes, and compares."""

    def __init__(self, peer: Peer, server: str, size: int, rounds: int, wrong_key: int = 0) -> None:
        super().__init__(peer, size)
        self.server, self.left, self.wrong_key = server, rounds, wrong_key
        self.reads = True
        self.equal = 0
        self.dial()

    def dial(self) -> None:
        """Try to connect."""
        self.connection = self.peer.provider.connect(self.server, RPING, options=OPTIONS)
        for number in range(4):
            self.connection.post_receive(number, ADVERT.size)

    def on(self, event: Event) -> None:
        """As rping, but a server that does not listen yet is called again."""
        if isinstance(event, Refused) and event.reason == RejectReason.INVALID_SERVICE_ID:
            self.failed.clear()
            self.dial()
            return
        super().on(event)
        if isinstance(event, Established):
            self.begin()

    def begin(self) -> None:
        """Fill the memory with text that ends with a zero, as rping copies it as text."""
        text = f"rdma-ping-{self.rounds}: ".encode()
        self.wanted = text + bytes(65 + (index + self.rounds) % 58 for index in range(len(self.memory) - len(text) - 1))
        self.memory[:] = self.wanted + b"\0"
        self.reads = True
        self.advertise(self.wrong_key)

    def completed(self, event: Completed) -> None:
        """The server has read, or written."""
        if event.operation is not Operation.RECEIVE:
            return
        if self.reads:
            self.memory[:] = bytes(len(self.memory))
            self.reads = False
            self.advertise()
            return
        self.equal += self.memory == self.wanted + b"\0"
        self.rounds += 1
        self.left -= 1
        if self.left:
            self.begin()
        else:
            event.connection.disconnect()


class RpingServer(Rping):
    """Reads what the client offers, and writes it back."""

    READ, WRITE = 2, 3

    def __init__(self, peer: Peer, size: int, wrong_key: int = 0, waits: bool = False) -> None:
        super().__init__(peer, size)
        self.wrong_key, self.waits = wrong_key, waits
        self.confirmed = 0
        """Rounds whose end the client's kernel has confirmed."""
        peer.provider.listen(RPING)

    def on(self, event: Event) -> None:
        """As rping."""
        super().on(event)
        if isinstance(event, ConnectRequested):
            self.connection = event.connection
            if not self.waits:
                self.accept()

    def accept(self) -> None:
        """Answer the client."""
        assert self.connection is not None
        for number in range(4):
            self.connection.post_receive(number, ADVERT.size)
        self.connection.accept(options=OPTIONS)

    def completed(self, event: Completed) -> None:
        """An offer has come, or what it was for is done."""
        connection = event.connection
        self.confirmed += event.operation is Operation.SEND
        if event.operation is Operation.RECEIVE:
            address, key, size = ADVERT.unpack(event.data)
            if not self.rounds % 2:
                into = Segment(self.region.address, size, self.region.lkey)
                connection.post_read(self.READ, into, address, key ^ self.wrong_key)
            else:
                connection.post_write(self.WRITE, memoryview(self.memory)[:size], address, key)
        elif event.operation in {Operation.READ, Operation.WRITE}:
            self.rounds += 1
            connection.post_send(1, bytes(ADVERT.size))


class PingPong:
    """ibv_rc_pingpong: no communication management, but a line of text over TCP with the numbers of both ends."""

    LINE_BYTES = len("0000:000000:000000:") + 32 + 1

    def __init__(self, peer: Peer, other: str, size: int, rounds: int, mtu: int) -> None:
        self.peer, self.size, self.rounds = peer, size, rounds
        options = replace(OPTIONS, path_mtu=mtu)
        self.connection: RoceConnection = peer.provider.device.queue_pair(other, options)
        self.psn = self.connection.receive_psn
        self.got = self.sent = self.confirmed = 0
        peer.on = self.on
        for number in range(rounds):
            self.connection.post_receive(number, size)

    def line(self) -> bytes:
        """Our own numbers."""
        gid = gid_of(self.peer.provider.address).hex()
        text = f"0000:{self.connection.number:06x}:{self.psn:06x}:{gid}"
        return text.encode() + b"\0"

    def join(self, line: bytes) -> None:
        """Begin to talk to the other end: both use the number of their own for what they send."""
        _, number, psn, _ = line.rstrip(b"\0").split(b":")
        self.peer.provider.device.join(self.connection, int(number, 16), self.psn, int(psn, 16))

    def send(self) -> None:
        """The next ping or pong."""
        self.sent += 1
        self.connection.post_send(self.sent, bytes([self.sent & 0xFF]) * self.size)

    def on(self, event: Event) -> None:
        """Answer."""
        self.peer.seen(event)
        assert isinstance(event, Completed), event
        assert event.status is Status.SUCCESS, event
        if event.operation is Operation.SEND:
            self.confirmed += 1
        elif event.operation is Operation.RECEIVE:
            assert len(event.data) == self.size
            self.got += 1
            if self.sent < self.rounds:
                self.send()

    @property
    def done(self) -> bool:
        """Everything has gone both ways."""
        return self.got == self.confirmed == self.rounds

    def exchange(self, wire: socket.socket, *, first: bool) -> None:
        """Exchange lines as client (first) or server."""
        if first:
            wire.sendall(self.line())
        line = b""
        while len(line) < self.LINE_BYTES:
            line += wire.recv(self.LINE_BYTES - len(line))
        self.join(line)
        if not first:
            wire.sendall(self.line())


def dial(network: Network, address: str, port: int) -> socket.socket:
    """A TCP connection to a program that may not listen yet."""
    deadline = monotonic() + TIMEOUT_S
    while True:
        wire = network.socket(socket.AF_INET, socket.SOCK_STREAM)
        wire.settimeout(TIMEOUT_S)
        with suppress(ConnectionRefusedError):
            wire.connect((address, port))
            return wire
        wire.close()
        sleep(DIAL_AGAIN_S)
        assert monotonic() < deadline, f"nothing listens on {address} port {port}"


def roce_packets(path: Path, source: str | None = None) -> Iterator[bytes]:
    """All RoCE v2 packets of a pcap, from their IP headers on, or those from one address."""
    content = path.read_bytes()
    address = None if source is None else ip_address(source).packed
    at = 24
    while at < len(content):
        (length,) = struct.unpack_from("=I", content, at + 8)
        packet = content[at + 16 + 14 : at + 16 + length]
        at += 16 + length
        if packet[:1] not in {b"\x45", b"\x60"}:
            continue
        addresses, size, protocol, udp = (12, 4, 9, 20) if packet[0] == 0x45 else (8, 16, 6, 40)
        if packet[protocol] != UDP_PROTOCOL or packet[udp + 2 : udp + 4] != b"\x12\xb7":
            continue
        if address is None or packet[addresses : addresses + size] == address:
            yield packet
