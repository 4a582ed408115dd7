"""RDS over TCP as a script of steps, rendered to a capture.

A script is a list of steps that a test may change before it is rendered. Connections have names; direction 0 is
from the end that dialled.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dissectors.wire.extensions import Extension
from dissectors.wire.rds import RDS_HEADER, TCP_PORT, RdsHeader
from tests.kit.pcap import IP_TCP, Pcap
from tests.kit.rds import MODERN, bitmap, header, text

SMALL, LARGE = "10.0.0.1", "10.0.0.2"
SEGMENT_BYTES = 1448
FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
_INITIAL = (1_000_000, 2_000_000)


@dataclass(slots=True)
class Open:
    """Three-way handshake."""

    name: str
    port: int
    client: str = SMALL
    server: str = LARGE
    server_port: int = TCP_PORT


@dataclass(slots=True)
class Send:
    """One message; ``acked`` False leaves it without TCP acknowledgement."""

    name: str
    direction: int
    header: RdsHeader
    payload: bytes = b""
    label: str = ""
    acked: bool = True


@dataclass(slots=True)
class Raw:
    """Stream bytes that are no whole message."""

    name: str
    direction: int
    data: bytes


@dataclass(slots=True)
class Ack:
    """Acknowledge all that ``direction`` has sent."""

    name: str
    direction: int


@dataclass(slots=True)
class End:
    """FIN or RST of one direction."""

    name: str
    direction: int
    flag: int = FIN


@dataclass(slots=True)
class Wait:
    """Let time pass."""

    seconds: float


@dataclass(slots=True)
class Lose:
    """Move the stream on by bytes that the capture does not hold."""

    name: str
    direction: int
    size: int


Step = Open | Send | Raw | Ack | End | Wait | Lose


@dataclass(slots=True)
class _Half:
    next: int
    acked: int


@dataclass(slots=True)
class _Connection:
    step: Open
    halves: tuple[_Half, _Half]


@dataclass(slots=True)
class Script:
    """Steps in order."""

    steps: list[Step] = field(default_factory=list)

    def __getitem__(self, label: str) -> Send:
        """The message of that label."""
        return next(step for step in self.steps if isinstance(step, Send) and step.label == label)

    def index(self, label: str) -> int:
        """Place of the message of that label."""
        return next(i for i, step in enumerate(self.steps) if isinstance(step, Send) and step.label == label)

    def change(self, label: str, **fields: Any) -> None:
        """Set header fields of a message."""
        step = self[label]
        step.header = replace(step.header, **fields)

    def after(self, label: str, *steps: Step) -> None:
        """Insert steps behind a message."""
        at = self.index(label) + 1
        self.steps[at:at] = steps

    def drop(self, label: str) -> None:
        """Take a message out."""
        del self.steps[self.index(label)]

    def opening(self, name: str) -> Open:
        """The step that opens a connection."""
        return next(step for step in self.steps if isinstance(step, Open) and step.name == name)

    def write(self, path: Path) -> Path:
        """Render to a pcap file."""
        return _Renderer().render(self.steps).write(path)


class _Renderer:
    def __init__(self) -> None:
        self.pcap = Pcap()
        self.connections: dict[str, _Connection] = {}

    def render(self, steps: Sequence[Step]) -> Pcap:
        for step in steps:
            handler: Callable[[Any], None] = getattr(self, type(step).__name__.lower())
            handler(step)
        return self.pcap

    def open(self, step: Open) -> None:
        halves = (_Half(_INITIAL[0], _INITIAL[0]), _Half(_INITIAL[1], _INITIAL[1]))
        connection = self.connections[step.name] = _Connection(step, halves)
        self._segment(connection, 0, SYN, b"")
        halves[0].next += 1
        self._segment(connection, 1, SYN | ACK, b"")
        halves[1].next += 1
        for half in halves:
            half.acked = half.next
        self._segment(connection, 0, ACK, b"")

    def send(self, step: Send) -> None:
        self._stream(step.name, step.direction, RDS_HEADER.pack(step.header) + step.payload)
        if step.acked:
            self.ack(Ack(step.name, step.direction))

    def raw(self, step: Raw) -> None:
        self._stream(step.name, step.direction, step.data)

    def ack(self, step: Ack) -> None:
        connection = self.connections[step.name]
        half = connection.halves[step.direction]
        half.acked = half.next
        self._segment(connection, 1 - step.direction, ACK, b"")

    def end(self, step: End) -> None:
        connection = self.connections[step.name]
        self._segment(connection, step.direction, step.flag | ACK, b"")
        if step.flag & FIN:
            connection.halves[step.direction].next += 1

    def wait(self, step: Wait) -> None:
        self.pcap.wait(step.seconds)

    def lose(self, step: Lose) -> None:
        self.connections[step.name].halves[step.direction].next += step.size

    def _stream(self, name: str, direction: int, data: bytes) -> None:
        connection = self.connections[name]
        for start in range(0, len(data), SEGMENT_BYTES):
            piece = data[start : start + SEGMENT_BYTES]
            self._segment(connection, direction, PSH | ACK, piece)
            connection.halves[direction].next += len(piece)

    def _segment(self, connection: _Connection, direction: int, flags: int, payload: bytes) -> None:
        step = connection.step
        ends = ((step.client, step.port), (step.server, step.server_port))
        (source, sport), (destination, dport) = (ends[1], ends[0]) if direction else ends
        own, other = connection.halves[direction], connection.halves[1 - direction]
        ack = other.acked if flags & ACK else 0
        tcp = struct.pack(">HHIIBBHHH", sport, dport, own.next & 0xFFFFFFFF, ack & 0xFFFFFFFF, 0x50, flags, 65535, 0, 0)
        self.pcap.ip(source, destination, IP_TCP, tcp + payload)


class Side:
    """Numbers what one end sends on one path."""

    def __init__(self, direction: int) -> None:
        self.direction = direction
        self.next = 1

    def data(
        self, name: str, label: str, sport: int, dport: int, size: int, *, acked: bool = True, **fields: Any
    ) -> Send:
        """The next message."""
        step = Send(name, self.direction, header(self.next, size, sport, dport, **fields), text(size, self.next), label)
        step.acked = acked
        self.next += 1
        return step

    def control(self, name: str, label: str, sport: int, dport: int, extensions: Sequence[Extension] = ()) -> Send:
        """A ping, a pong, or part of the handshake."""
        return self.data(name, label, sport, dport, 0, extensions=extensions)

    def bitmap(self, name: str, label: str, *ports: int) -> Send:
        """A congestion bitmap."""
        head, payload = bitmap(*ports)
        return Send(name, self.direction, head, payload, label)


def opening(name: str, port: int, a: Side, b: Side, extensions: Sequence[Extension] = MODERN) -> list[Step]:
    """First contact of two kernels on path 0: bitmaps, probes both ways and their answers."""
    return [
        Open(name, port),
        a.bitmap(name, "a.bitmap"),
        a.control(name, "a.probe", 1, 0, extensions),
        b.bitmap(name, "b.bitmap"),
        b.control(name, "b.probe", 1, 0, extensions),
        b.control(name, "b.reply", 0, 1, extensions),
        a.control(name, "a.reply", 0, 1, extensions),
    ]


def conversation(extensions: Sequence[Extension] = MODERN) -> Script:
    """A faultless conversation over path 0 and two more, with data, a ping and its answer.

    RDS ports 4001 and 4002 hash to paths 2 and 6 (protocol.md §5.4).
    """
    a, b = Side(0), Side(1)
    a2, b2, a6 = Side(0), Side(1), Side(0)
    steps: list[Step] = opening("p0", 32776, a, b, extensions)
    steps += [Open("p2", 32778), Open("p6", 32782)]
    steps += [
        a.control("p0", "a.ping", 5000, 0),
        b.control("p0", "b.pong", 0, 5000),
        a2.data("p2", "a2.1", 4001, 7000, 2000),
        b2.data("p2", "b2.1", 4001, 7000, 64),
        a2.data("p2", "a2.2", 4001, 7000, 100),
        a6.data("p6", "a6.1", 4002, 7000, 300),
        a6.data("p6", "a6.2", 4002, 7000, 0),
        Wait(3.0),
        a2.data("p2", "a2.3", 4001, 7001, 500),
        b2.data("p2", "b2.2", 4001, 7000, 10),
        a.control("p0", "a.ping2", 5000, 0),
        b.control("p0", "b.pong2", 0, 5000),
        a2.data("p2", "a2.4", 4001, 7000, 700),
    ]
    return Script(steps)


def single_path() -> tuple[Script, Side, Side]:
    """One connection without multipath: what follows may go on with the two sides' numbers."""
    a, b = Side(0), Side(1)
    steps: list[Step] = [
        Open("one", 40000),
        a.bitmap("one", "a.bitmap"),
        b.bitmap("one", "b.bitmap"),
        a.data("one", "a1", 4001, 7000, 400),
        b.data("one", "b1", 7000, 4001, 50),
        a.data("one", "a2", 4001, 7000, 600),
        a.data("one", "a3", 4001, 7000, 80),
    ]
    return Script(steps), a, b
