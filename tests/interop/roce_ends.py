"""The other ends of programs that come with rdma-core: rping and ibv_rc_pingpong."""

from __future__ import annotations

import socket
import struct
from dataclasses import replace

from dissectors.wire.cm import SERVICE_ID_TCP, RejectReason
from rdstool.transport.ib.provider import (
    Broken,
    Completed,
    ConnectFailed,
    Connection,
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
from rdstool.transport.ib.roce.numbers import gid_of
from tests.interop.roce import ALL, OPTIONS, Peer

RPING = SERVICE_ID_TCP | 7174
ADVERT = struct.Struct(">QII")
"""What rping's ends tell each other: address, key and size of their memory."""
PINGPONG_PORT = 18515


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
