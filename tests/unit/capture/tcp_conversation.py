"""A TCP connection made by hand: segments as columns, for tests of the reassembly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dissectors.wire.congestion import bitmap_of
from dissectors.wire.extensions import NPaths, build_extensions
from dissectors.wire.rds import RDS_HEADER, TCP_PORT, RdsHeader
from rdstool.capture.columns import Segments
from rdstool.capture.events import Event
from rdstool.capture.part import Part, PayloadOptions
from rdstool.capture.streams import StreamTable
from rdstool.capture.tcp.connection import ACK_FLAG, FIN, RST, SYN
from rdstool.capture.tcp.streams import TcpStreams

__all__ = ["ACK_FLAG", "FIN", "RST", "SYN", "Conversation", "Result", "columns", "data", "decode", "handshake"]

CLIENT, SERVER = 0x0A000001, 0x0A000002
_MAPPED = 0xFFFF << 32


def data(sequence: int, payload: bytes, sport: int = 4001, dport: int = 4002, **fields: Any) -> bytes:
    """Return a message with header."""
    header = RdsHeader(sequence=sequence, length=len(payload), sport=sport, dport=dport, **fields)
    return RDS_HEADER.pack(header) + payload


def handshake() -> bytes:
    """Return what a kernel sends first: an empty congestion bitmap and a probe."""
    bitmap = RDS_HEADER.pack(RdsHeader(length=8192, flags=1)) + bitmap_of([])
    return bitmap + RDS_HEADER.pack(RdsHeader(sequence=1, sport=1, exthdr=build_extensions([NPaths(8)])))


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment; ``offset`` counts payload bytes of its direction from 0."""

    backward: bool
    seq: int
    ack: int
    flags: int
    payload: bytes
    captured: int
    sport: int
    dport: int


@dataclass(slots=True)
class Conversation:
    """Segments in capture order. ``isn`` are the initial sequence numbers of client and server."""

    isn: tuple[int, int] = (1000, 2_000_000)
    port: int = 33000
    segments: list[Segment] = field(default_factory=list)

    def syn(self) -> Conversation:
        """Open: SYN and its answer."""
        self._add(False, self.isn[0], 0, SYN, b"")
        return self._add(True, self.isn[1], self.isn[0] + 1, SYN | ACK_FLAG, b"")

    def send(
        self, offset: int, payload: bytes, *, backward: bool = False, flags: int = ACK_FLAG, captured: int | None = None
    ) -> Conversation:
        """Add one segment with the bytes that begin at ``offset`` of its direction."""
        seq = self.isn[backward] + 1 + offset
        return self._add(backward, seq, self.isn[not backward] + 1, flags, payload, captured)

    def stream(self, stream: bytes, size: int, *, backward: bool = False, start: int = 0) -> Conversation:
        """Add ``stream`` from ``start`` on in segments of ``size`` bytes."""
        for at in range(start, len(stream), size):
            self.send(at, stream[at : at + size], backward=backward)
        return self

    def ack(self, offset: int, *, of_backward: bool = False) -> Conversation:
        """Acknowledge everything before ``offset`` of the other direction."""
        back = not of_backward
        return self._add(back, self.isn[back] + 1, self.isn[of_backward] + 1 + offset, ACK_FLAG, b"")

    def end(self, offset: int, flags: int, *, backward: bool = False) -> Conversation:
        """Add a FIN or RST."""
        return self.send(offset, b"", backward=backward, flags=flags | ACK_FLAG)

    def _add(
        self, backward: bool, seq: int, ack: int, flags: int, payload: bytes, captured: int | None = None
    ) -> Conversation:
        ports = (TCP_PORT, self.port) if backward else (self.port, TCP_PORT)
        kept = len(payload) if captured is None else captured
        self.segments.append(Segment(backward, seq % 2**32, ack % 2**32, flags, payload, kept, *ports))
        return self


@dataclass(slots=True)
class Result:
    """What came out, all chunks together."""

    streams: StreamTable
    rows: list[NDArray[Any]]
    payloads: list[bytes]
    events: list[Event]
    acks: list[NDArray[Any]]

    @property
    def sequences(self) -> list[int]:
        """Sequence of each message."""
        return [int(row["header"]["sequence"]) for row in self.rows]

    @property
    def complete(self) -> list[bool]:
        """Completeness of each message."""
        return [bool(row["complete"]) for row in self.rows]

    def of(self, kind: type[Event]) -> list[Any]:
        """Return the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]


def decode(segments: Sequence[Segment], chunk: int | None = None, ports: frozenset[int] | None = None) -> Result:
    """Run the reassembly over ``segments``, ``chunk`` of them at a time. Frames are numbered from 1."""
    table = StreamTable()
    streams = TcpStreams(table, PayloadOptions(keep_payloads=True), *([ports] if ports else []))
    size = chunk or max(1, len(segments))
    parts = [
        streams.feed(columns(segments[at : at + size], first_frame=at + 1)) for at in range(0, len(segments), size)
    ]
    parts.append(streams.finish())
    result = Result(table, [], [], [], [])
    for part in parts:
        _collect(result, part)
    return result


def _collect(result: Result, part: Part) -> None:
    for index, row in enumerate(part.rows):
        result.rows.append(row)
        result.payloads.append(part.payloads.get(index, b""))
    result.events += part.events
    result.acks += list(part.acks)


def columns(segments: Sequence[Segment], first_frame: int) -> Segments:
    """Return segments as the reassembly takes them, a microsecond apart."""
    count = len(segments)
    places = np.cumsum([0] + [item.captured for item in segments])[:-1]
    raw = b"".join(item.payload[: item.captured] for item in segments)
    backward = np.array([item.backward for item in segments], bool)
    zeros = np.zeros(count, np.uint64)
    client, server = np.uint64(_MAPPED | CLIENT), np.uint64(_MAPPED | SERVER)
    return Segments(
        data=np.frombuffer(raw, np.uint8),
        frame=np.arange(first_frame, first_frame + count),
        time=np.arange(first_frame, first_frame + count) * 1000,
        src_hi=zeros,
        src_lo=np.where(backward, server, client),
        dst_hi=zeros,
        dst_lo=np.where(backward, client, server),
        sport=np.array([item.sport for item in segments], np.uint16),
        dport=np.array([item.dport for item in segments], np.uint16),
        seq=np.array([item.seq for item in segments], np.uint32),
        ack=np.array([item.ack for item in segments], np.uint32),
        flags=np.array([item.flags for item in segments], np.uint8),
        payload=places,
        captured=np.array([item.captured for item in segments], np.int64),
        length=np.array([len(item.payload) for item in segments], np.int64),
    )
