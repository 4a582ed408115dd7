"""The streams of a capture: TCP connections and InfiniBand queue-pair pairs that carry RDS."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from rdstool.protocol.kinds import Transport

V4_PREFIX = bytes(10) + b"\xff\xff"
"""In front of an IPv4 address in its 16-byte form."""
LID_PREFIX = b"\xff" * 14
"""In front of a LID (InfiniBand's local identifier) in its 16-byte form: no address of a host begins so."""


@lru_cache(4096)
def address_text(address: bytes) -> str:
    """A 16-byte address as text; IPv4-mapped ones in dotted form, LIDs as ``lid:N``."""
    if address[:12] == V4_PREFIX:
        return ".".join(map(str, address[12:]))
    if address[:14] == LID_PREFIX:
        return f"lid:{int.from_bytes(address[14:], 'big')}"
    return str(ipaddress.IPv6Address(address))


def lid_bytes(lid: str) -> bytes:
    """The 16 bytes that ``address_text`` shows as ``lid:N``. Raises ``ValueError`` where N is none of 16 bits."""
    number = int(lid.removeprefix("lid:"))
    if not 0 <= number <= 0xFFFF:
        raise ValueError(f"{lid} has more than 16 bits")
    return LID_PREFIX + number.to_bytes(2, "big")


def address_bytes(hi: int, lo: int) -> bytes:
    """The 16 bytes of an address that columns hold in two halves."""
    return hi.to_bytes(8, "big") + lo.to_bytes(8, "big")


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """One end of a stream. Order is the kernel's: addresses as unsigned numbers."""

    address: bytes
    """16 bytes."""
    port: int
    """TCP port, or queue pair number."""

    def __reduce__(self) -> tuple[Any, ...]:
        # As for events: much faster than what dataclasses do by themselves.
        return Endpoint, (self.address, self.port)

    @property
    def host(self) -> str:
        """The address as text."""
        return address_text(self.address)


@dataclass(slots=True)
class Coverage:
    """How much of one direction of a stream was seen, in bytes of the stream (TCP) or packets (InfiniBand)."""

    seen: int = 0
    missing: int = 0
    gaps: int = 0
    unassigned: int = 0
    """Seen, but not part of a message whose boundaries are known."""
    retransmitted: int = 0
    """Bytes or packets that came again."""

    @property
    def fraction(self) -> float:
        """Share that was seen, 1.0 for an empty stream."""
        total = self.seen + self.missing
        return self.seen / total if total else 1.0


@dataclass(slots=True)
class Stream:
    """A TCP connection, or the queue pairs of an InfiniBand connection."""

    number: int
    transport: Transport
    a: Endpoint
    """The initiator where the capture shows who that is, else the smaller end."""
    b: Endpoint
    initiator_known: bool
    first_frame: int
    from_start: bool
    """The capture holds the stream's beginning (SYN, or RDMA-CM)."""
    pair: int
    """Number of the RDS connection that it serves, the same for all streams of two addresses and a transport: from 0,
    in the order of their first streams."""
    path: int = -1
    """-1: not known."""
    path_confidence: float = 0.0
    path_basis: str = "not known"
    """How the path was found, in words."""
    coverage: tuple[Coverage, Coverage] = field(default_factory=lambda: (Coverage(), Coverage()))

    def ends(self, direction: int) -> tuple[Endpoint, Endpoint]:
        """Source and destination of what travels in ``direction``."""
        return (self.b, self.a) if direction else (self.a, self.b)

    @property
    def address_pair(self) -> tuple[bytes, bytes]:
        """The two addresses, smaller first."""
        one, other = self.a.address, self.b.address
        return (one, other) if one <= other else (other, one)


Turn = tuple[int, int]
"""A step of a stage, and the frame that it is at. Streams that one chunk brings are numbered in the order of turns, so
that it does not matter which process met them."""
MAX_STREAMS = 1 << 17
"""Streams that are followed; more than a cluster makes, few enough to bound memory."""


class StreamTable:
    """All RDS streams of a capture in order of their first frame."""

    def __init__(self) -> None:
        self.began: int | None = None
        """Time of the capture's first frame, of RDS or not, in ns since 1970; relative times count from it."""
        self.streams: list[Stream] = []
        self._pairs: dict[tuple[bytes, bytes, Transport], int] = {}
        """Two addresses, smaller first, and what carries RDS between them -> ``Stream.pair``."""
        self.passed_over = False
        """There were more streams than ``MAX_STREAMS``; the later ones are not in here."""
        self.turn: Turn = (0, 0)
        """Where the stage that fills the table stands, within a chunk of the capture."""
        self.on_news: Callable[[Stream, Turn], None] | None = None
        """Is told of each new stream, and again when an end of it becomes known."""

    @property
    def full(self) -> bool:
        """Further streams are passed over."""
        return len(self.streams) >= MAX_STREAMS

    def add(
        self,
        transport: Transport,
        a: Endpoint,
        b: Endpoint,
        *,
        initiator_known: bool,
        first_frame: int,
        from_start: bool,
    ) -> Stream | None:
        """Enter a new stream and give it the next number; None where there are ``MAX_STREAMS`` already."""
        if self.full:
            self.passed_over = True
            return None
        ends = (a.address, b.address, transport) if a.address <= b.address else (b.address, a.address, transport)
        pair = self._pairs.setdefault(ends, len(self._pairs))
        stream = Stream(len(self.streams), transport, a, b, initiator_known, first_frame, from_start, pair)
        self.streams.append(stream)
        self._tell(stream)
        return stream

    def set_port(self, stream: Stream, end: int, port: int) -> None:
        """Now the port of an end is known: 0 for ``a``, 1 for ``b``."""
        if end:
            stream.b = Endpoint(stream.b.address, port)
        else:
            stream.a = Endpoint(stream.a.address, port)
        self._tell(stream)

    def _tell(self, stream: Stream) -> None:
        if self.on_news is not None:
            self.on_news(stream, self.turn)

    def __getitem__(self, number: int) -> Stream:
        return self.streams[number]

    def __len__(self) -> int:
        return len(self.streams)
