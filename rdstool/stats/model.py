"""The results: plain values, ready for tables and JSON.

Times are seconds since 1970, latencies and durations seconds, rates per second, shares 0..1. Every figure that
depends on how much of the traffic was captured stands beside ``coverage``, the share that was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, overload

SECTIONS = (
    "capture",
    "connections",
    "sides",
    "streams",
    "paths",
    "sockets",
    "ports",
    "pings",
    "congestion",
    "reconnects",
    "rdma",
)
"""Names of the parts of :class:`CaptureStats`, in the order in which they are shown."""


R = TypeVar("R")


class Records(Sequence[R]):
    """Records of a section that are made when they are asked for, and not kept: there can be a hundred thousand."""

    def __init__(self, count: int, make: Callable[[int], R]) -> None:
        self._count = count
        self._make = make

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> R: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[R]: ...
    def __getitem__(self, index: int | slice) -> R | Sequence[R]:
        """The items, as a list has them."""
        chosen = range(self._count)[index]
        return [self._make(one) for one in chosen] if isinstance(chosen, range) else self._make(chosen)


@dataclass(slots=True)
class Seen:
    """How much of a lane, or of several, the capture holds: bytes (TCP) or packets (InfiniBand)."""

    unit: str
    seen: int
    missing: int
    gaps: int
    unassigned: int
    """Seen, but not part of a message whose boundaries are known."""
    retransmitted: int
    """Came again, on the level of TCP or of packet numbers."""
    coverage: float | None
    """Share that was seen; None where nothing was expected."""


@dataclass(slots=True)
class LatencyStats:
    """Time from a message to its acknowledgement, in seconds; None where nothing could be measured."""

    measured: int
    minimum: float | None
    mean: float | None
    p50: float | None
    p90: float | None
    p99: float | None
    maximum: float | None
    not_measured: dict[str, int]
    """Messages without a latency, by reason."""


@dataclass(slots=True)
class FlightStats:
    """Bytes of headers and payload that were sent and not yet acknowledged."""

    max_bytes: int
    mean_bytes: float | None
    """Over time, from the first message to the last acknowledgement; of measured messages only."""


@dataclass(slots=True)
class SizeCount:
    """Data messages with ``low`` to ``high`` payload bytes."""

    low: int
    high: int
    messages: int


@dataclass(slots=True)
class CaptureSummary:
    """The capture as a whole."""

    frames: int
    bytes: int
    tcp_frames: int
    ib_frames: int
    tunnelled_frames: int
    """Frames whose packet was in a tunnel."""
    passed_over: dict[str, int]
    """Frames without RDS, by what they were."""
    passed_over_kinds: dict[str, dict[str, int]]
    """The same of those of other IP protocols, EtherTypes and link types, one by one."""
    streams: int
    messages: int
    kinds: dict[str, int]
    data_bytes: int
    first_time: float | None
    last_time: float | None
    duration: float | None
    sizes: list[SizeCount]
    sockets_beyond_limit: int
    """Messages sent by sockets that were not told apart any more."""
    bitmaps: int
    bitmaps_unusable: int
    notes: list[str]


@dataclass(slots=True)
class PathShare:
    """One path's part of what was sent in one direction of a connection."""

    path: int | None
    messages: int
    bytes: int
    share: float
    """Share of the bytes, or of the messages where there are no bytes."""


@dataclass(slots=True)
class Balance:
    """How one direction of a connection is spread over its paths."""

    src: str
    dst: str
    paths: list[PathShare]
    imbalance: float | None
    """Bytes of the fullest path by the mean over all agreed paths: 1 is even, the number of paths is all on one."""


@dataclass(slots=True)
class ConnectionStats:
    """An address pair; ``a`` is the smaller address, the one that dials."""

    a: str
    b: str
    transport: str
    npaths: int | None
    """Paths agreed; None where no handshake was seen or the transport has none."""
    streams: int
    messages: int
    bytes: int
    """Payload of data messages."""
    a_to_b_messages: int
    a_to_b_bytes: int
    b_to_a_messages: int
    b_to_a_bytes: int
    reconnects: int
    restarts: int
    first_time: float | None
    last_time: float | None
    coverage: float | None
    balance: list[Balance]


@dataclass(slots=True)
class SideStats:
    """What an address says of itself."""

    address: str
    kernel: str
    npaths: int | None
    gen_num: int | None
    sport_idx: bool | None
    probes: int


@dataclass(slots=True)
class StreamStats:
    """A TCP connection or queue-pair pair, and which path it is."""

    stream: int
    transport: str
    a: str
    a_port: int
    b: str
    b_port: int
    from_start: bool
    path: int | None
    confidence: float
    basis: str
    first_frame: int
    messages: int
    clocks_comparable: bool
    a_to_b: Seen
    b_to_a: Seen


@dataclass(slots=True)
class PathStats:
    """One direction of one path of a connection; ``path`` is null where it is not known."""

    src: str
    dst: str
    transport: str
    path: int | None
    streams: list[int]
    messages: int
    """Messages of all kinds."""
    data_messages: int
    data_bytes: int
    kinds: dict[str, int]
    flagged_retransmitted: int
    incomplete: int
    first_time: float | None
    last_time: float | None
    message_rate: float | None
    byte_rate: float | None
    sizes: list[SizeCount]
    latency: LatencyStats
    in_flight: FlightStats
    seen: Seen


@dataclass(slots=True)
class SocketStats:
    """An RDS socket. Latency and bytes in flight are of what it sent."""

    address: str
    port: int
    sent_messages: int
    """Data and pings."""
    sent_bytes: int
    received_messages: int
    """Data and pongs."""
    received_bytes: int
    first_time: float | None
    last_time: float | None
    send_rate: float | None
    """Payload bytes."""
    latency: LatencyStats
    in_flight: FlightStats
    coverage: float | None
    """Share that was seen of all that the socket's address sent."""


@dataclass(slots=True)
class PortStats:
    """All sockets of one port number, whatever their address."""

    port: int
    sockets: int
    sent_messages: int
    sent_bytes: int
    received_messages: int
    received_bytes: int
    latency: LatencyStats
    max_in_flight: int
    """Most that one of the sockets had in flight."""
    coverage: float | None


@dataclass(slots=True)
class PingStats:
    """Pings in one direction of a stream's address pair, with probes."""

    src: str
    dst: str
    transport: str
    path: int | None
    sent: int
    answered: int
    round_trip: LatencyStats


@dataclass(slots=True)
class CongestionStats:
    """A time during which ``port`` on ``address`` was congested for ``peer``."""

    address: str
    port: int
    peer: str
    begin_frame: int
    begin: float
    end_frame: int | None
    end: float | None
    """None: still congested at the end of the capture."""
    duration: float | None
    sent_during: int
    """Messages that still went to the port while its bit was set."""
    held_back_at_most: int
    """Messages that went to the port within 0.1 s after its bit was cleared, before it was set again."""
    certain: bool
    """False where something is missing of what the congested side sent meanwhile."""


@dataclass(slots=True)
class ReconnectStats:
    """A path that was connected again."""

    a: str
    b: str
    path: int | None
    stream: int
    before: int
    """The stream that it follows."""
    frame: int
    time: float | None
    kind: str
    """``reconnect``, ``restart`` or ``unknown``."""
    restarted: list[str]
    """The addresses whose kernel started anew."""
    basis: str


@dataclass(slots=True)
class RdmaStats:
    """Operations on remote memory of one kind."""

    requester: str
    responder: str
    kind: str
    operations: int
    bytes: int
    seen: int
    unanswered: int
    failed: int


@dataclass(slots=True)
class CaptureStats:
    """All that :func:`rdstool.stats.collect` finds."""

    capture: CaptureSummary
    connections: Sequence[ConnectionStats] = ()
    sides: Sequence[SideStats] = ()
    streams: Sequence[StreamStats] = ()
    paths: Sequence[PathStats] = ()
    sockets: Sequence[SocketStats] = ()
    ports: Sequence[PortStats] = ()
    pings: Sequence[PingStats] = ()
    congestion: Sequence[CongestionStats] = ()
    reconnects: Sequence[ReconnectStats] = ()
    rdma: Sequence[RdmaStats] = ()

    def section(self, name: str) -> Sequence[Any]:
        """The records of a section, by its name; the capture as a whole is one record."""
        part = getattr(self, name)
        return part if isinstance(part, Sequence) else (part,)
