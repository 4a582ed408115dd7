"""What RDS needs of InfiniBand, whoever provides it: the userspace stack over UDP, or libibverbs.

A provider has one local address. Its connections are reliable connections (RC) that RDMA-CM makes and ends.
Nothing here blocks and nothing calls back: the owner waits until one of ``filenos()`` is readable or until
``next_timer()``, then calls ``process(now)``, which gives what has happened as events, in order. What is posted
in between goes out with the next ``process``.

Numbers of statuses and access flags are those of libibverbs (``ibv_wc_status``, ``ibv_access_flags``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

from rdstool.errors import TransportError
from rdstool.protocol.ib.memory import Access, Region
from rdstool.protocol.ib.work import WorkStatus

Buffer = bytes | bytearray | memoryview

Tap = Callable[[float, bytes], None]
"""Gets the time and a whole Ethernet frame of each packet sent, and of each that was received well."""
MAX_MESSAGE_BYTES = 1 << 31
"""Bytes that one SEND, WRITE or READ moves at most (InfiniBand Architecture vol. 1, §9.4)."""
PATH_MTUS = (256, 512, 1024, 2048, 4096)
"""Bytes of payload that packets may be limited to."""
_LIMITS = (
    ("responder_resources", 0, 255),
    ("initiator_depth", 0, 255),
    ("retry_count", 0, 7),
    ("rnr_retry", 0, 7),
    ("min_rnr_timer", 0, 31),
    ("ack_timeout", 1, 31),
    ("traffic_class", 0, 255),
    ("service_level", 0, 15),
)
"""Options that are numbers: least and greatest value."""
ATOMIC_BYTES = 8
"""Size and alignment of what atomic operations work on."""


class Operation(Enum):
    """What a completion is of."""

    SEND = "send"
    RECEIVE = "receive"
    WRITE = "RDMA write"
    READ = "RDMA read"
    COMPARE_SWAP = "compare and swap"
    FETCH_ADD = "fetch and add"


Status = WorkStatus
"""How a work request ended."""


class Segment(NamedTuple):
    """A piece of registered local memory: a scatter-gather element."""

    address: int
    length: int
    """Bytes."""
    lkey: int


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """What one end asks for when a connection is made; where RDS has defaults (protocol.md §7.1), they are these."""

    responder_resources: int = 128
    """RDMA READs and atomics that the peer may have in flight here, 0..255."""
    initiator_depth: int = 128
    """RDMA READs and atomics that are in flight to the peer at most, 0..255."""
    retry_count: int = 7
    """Times that unanswered packets are sent again, 0..7."""
    rnr_retry: int = 7
    """Times that a send is repeated after receiver-not-ready, 0..7; 7 = no end."""
    min_rnr_timer: int = 10
    """Code of the time that the peer is to wait after receiver-not-ready; 10 = 0.32 ms, as RDS."""
    path_mtu: int = 1024
    """Bytes of payload of a packet at most, one of ``PATH_MTUS``. The active side decides."""
    ack_timeout: int = 17
    """Time to wait for an acknowledgement: 4.096 us * 2^n, n = 1..31. 17 = 0.54 s, as Linux 7.3 asks for."""
    traffic_class: int = 0
    """Type of service of the packets, where the provider can set it."""
    service_level: int = 0
    """0..15; RDS has the type of service here (§7.7)."""

    def __post_init__(self) -> None:
        """Raises ``TransportError`` where a value is not possible."""
        for name, least, most in _LIMITS:
            if not least <= getattr(self, name) <= most:
                raise TransportError(f"{name} is {getattr(self, name)}: give {least} to {most}")
        if self.path_mtu not in PATH_MTUS:
            raise TransportError(f"path_mtu is {self.path_mtu}: give one of {', '.join(map(str, PATH_MTUS))}")


class Connection(Protocol):
    """One reliable connection. Work can be posted as soon as it exists; it starts when the connection is there.

    ``wr_id`` is the caller's own number and comes back in :class:`Completed`. What ``data`` shows must not change
    until then. Work requests start, and complete, in the order in which they were posted. What is posted after the
    connection has ended is flushed. Each post raises ``TransportError`` where the queue is full or a size impossible.
    """

    @property
    def peer(self) -> str:
        """The peer's address."""

    def accept(self, private_data: bytes = b"", options: ConnectionOptions | None = None) -> None:
        """Answer :class:`ConnectRequested` with REP (at most 196 bytes); :class:`Established` follows."""

    def reject(self, private_data: bytes = b"") -> None:
        """Answer :class:`ConnectRequested` with REJ (reason 28, consumer); at most 148 bytes."""

    def disconnect(self, private_data: bytes = b"") -> None:
        """End the connection. What is posted is flushed; :class:`Disconnected` follows."""

    def post_receive(self, wr_id: int, size: int, count: int = 1) -> None:
        """Take one SEND, or ``count`` of them, of at most ``size`` bytes each. Each completion has its data."""

    def post_send(
        self, wr_id: int, data: Buffer, *, solicited: bool = False, fence: bool = False, signaled: bool = True
    ) -> None:
        """SEND. ``solicited`` wakes the receiver; ``fence`` waits for earlier READs and atomics.

        Without ``signaled`` no completion tells of success: that of later work does.
        """

    def post_write(self, wr_id: int, data: Buffer, address: int, rkey: int, *, fence: bool = False) -> None:
        """RDMA WRITE to the peer's memory."""

    def post_read(self, wr_id: int, into: Segment, address: int, rkey: int, *, fence: bool = False) -> None:
        """RDMA READ of ``into.length`` bytes of the peer's memory."""

    def post_compare_swap(
        self, wr_id: int, address: int, rkey: int, compare: int, swap: int, *, fence: bool = False
    ) -> None:
        """Put ``swap`` where the peer's 64-bit value is ``compare``. The completion has the value before."""

    def post_fetch_add(self, wr_id: int, address: int, rkey: int, add: int, *, fence: bool = False) -> None:
        """Add to the peer's 64-bit value, modulo 2^64. The completion has the value before."""


class Provider(Protocol):
    """InfiniBand at one local address."""

    @property
    def address(self) -> str:
        """The local IP address."""

    def listen(self, service_id: int) -> None:
        """Take requests for a service, each as :class:`ConnectRequested`. ``TransportError`` where it is taken."""

    def stop_listening(self, service_id: int) -> None:
        """Refuse further requests for a service."""

    def connect(
        self, peer: str, service_id: int, private_data: bytes = b"", options: ConnectionOptions | None = None
    ) -> Connection:
        """Ask for a connection. :class:`Established`, :class:`Refused` or :class:`ConnectFailed` follows.

        At most 56 bytes of private data where the service is one of RDMA-CM's IP services, which put the IP CM
        header in front of it; else 92.
        """

    def path_mtu(self, peer: str) -> int:
        """The largest path MTU on the way to a peer, 256 to 4096. Raises ``TransportError`` where there is no way."""

    def register(self, memory: bytearray | memoryview, access: Access) -> Region:
        """Let local work requests, and peers as ``access`` says, use this memory, which must be writable."""

    def deregister(self, region: Region) -> None:
        """Its keys are of no use from now on."""

    def filenos(self) -> Sequence[int]:
        """What to wait for to become readable."""

    def next_timer(self) -> float | None:
        """When ``process`` has to be called at the latest, on the clock of ``now``; None = no need."""

    def process(self, now: float) -> list[Event]:
        """Receive what has come, do what is due, send what can go; ``now`` in seconds, never going back."""

    def set_tap(self, tap: Tap | None) -> None:
        """Give each packet to ``tap`` from now on, or none. Raises ``TransportError`` where no program sees them."""

    def close(self) -> None:
        """Let go of everything."""


class Completed(NamedTuple):
    """A work request is done. Of a connection's requests those that failed are followed by flushed ones only."""

    connection: Connection
    wr_id: int
    operation: Operation
    status: Status
    data: bytes = b""
    """What a RECEIVE got."""
    original: int = 0
    """The number that an atomic operation found."""
    solicited: bool = False
    """The sender of what a RECEIVE got asked to wake us, where the provider can tell."""


@dataclass(frozen=True, slots=True)
class ConnectRequested:
    """A peer asks for a connection: answer with ``accept`` or ``reject``. Post receives before."""

    connection: Connection
    service_id: int
    private_data: bytes
    """Private data of the REQ, filled up with zeros; without the IP CM header where the service has one."""
    source_port: int
    """Port of the IP CM header; 0 without one."""


@dataclass(frozen=True, slots=True)
class Established:
    """Both ends are ready."""

    connection: Connection
    private_data: bytes
    """Private data of the peer's REP or RTU, filled up with zeros."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The peer answered with REJ. The connection has ended."""

    connection: Connection
    reason: int
    """``RejectReason``; 28 = the peer's program refused."""
    private_data: bytes


@dataclass(frozen=True, slots=True)
class ConnectFailed:
    """The peer did not answer in time. The connection has ended."""

    connection: Connection
    detail: str


@dataclass(frozen=True, slots=True)
class Disconnected:
    """An established connection has ended, by ``disconnect``, by the peer, or because the peer has forgotten it."""

    connection: Connection
    by_peer: bool
    private_data: bytes
    """Private data of the peer's DREQ."""


@dataclass(frozen=True, slots=True)
class Broken:
    """The queue pair failed; everything posted is flushed. ``disconnect`` is the only thing left to do."""

    connection: Connection
    detail: str


Event = Completed | ConnectRequested | Established | Refused | ConnectFailed | Disconnected | Broken
