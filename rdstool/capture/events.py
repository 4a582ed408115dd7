"""What happens on streams besides messages: rare enough to be objects. All carry the frame that they stand on.

``time`` is in ns since 1970; ``direction`` 0 is from ``stream.a`` to ``stream.b``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dissectors.wire.cm import CmDrep, CmDreq, CmMra, CmRej, CmRep, CmReq, CmRtu, IpCm, RdsPrivateV4, RdsPrivateV6

    CmMessageBody = CmReq | CmMra | CmRej | CmRep | CmRtu | CmDreq | CmDrep


@dataclass(frozen=True, slots=True)
class Event:
    """Common to all events."""

    frame: int
    time: int
    stream: int
    """Number of the stream; -1 for RDMA-CM messages of no known stream."""

    def __reduce__(self) -> tuple[Any, ...]:
        # What dataclasses do by themselves takes processes that hand events on ten times as long.
        return type(self), tuple(getattr(self, name) for name in self.__match_args__)


@dataclass(frozen=True, slots=True)
class StreamOpened(Event):
    """A SYN (TCP), or the reply of RDMA-CM that made a queue pair; ``direction`` is the initiator's."""

    direction: int


class Closing(Enum):
    """How a direction of a TCP connection, or an InfiniBand connection, ended."""

    FIN = "FIN"
    RST = "RST"
    DREQ = "DREQ"


@dataclass(frozen=True, slots=True)
class StreamClosed(Event):
    """``direction`` sent the end. ``pending`` payload or header bytes of an unfinished message were lost with it."""

    direction: int
    how: Closing
    pending: int


class GapReason(Enum):
    """Why bytes (TCP) or packets (InfiniBand) are missing from what was seen."""

    NOT_CAPTURED = "not captured"
    SNAPPED = "cut short by the snapshot length"
    BUFFER_LIMIT = "given up, too much was waiting behind it"
    END = "missing at the end, and not acknowledged: lost on the way, or not captured"


@dataclass(frozen=True, slots=True)
class Gap(Event):
    """A hole in what the capture shows of a stream. Never a fault of the protocol."""

    direction: int
    position: int
    """Stream offset (TCP) or unwrapped PSN (InfiniBand) of the first thing missing."""
    size: int
    """Bytes (TCP) or packets (InfiniBand)."""
    reason: GapReason


@dataclass(frozen=True, slots=True)
class Resynchronised(Event):
    """Message boundaries were found again after a gap or a start in mid-stream."""

    direction: int
    position: int
    skipped: int
    """Bytes (TCP) or frames (InfiniBand) between the loss of the boundary and here."""
    chain: int
    """Headers that agree with each other."""


@dataclass(frozen=True, slots=True)
class CmMessage(Event):
    """A message of RDMA-CM that belongs to RDS."""

    src: bytes
    dst: bytes
    """IP addresses or GIDs, 16 bytes."""
    transaction_id: int
    body: CmMessageBody
    ip: IpCm | None = None
    private: RdsPrivateV4 | RdsPrivateV6 | None = None
    """RDS private data, where the message carries them whole."""
    problem: str | None = None
    cut: bool = False
    """The capture holds only part of the body; the rest is zeros here."""

    @property
    def name(self) -> str:
        """``REQ``, ``REP`` and so on."""
        return type(self.body).__name__.removeprefix("Cm").upper()


class RdmaKind(Enum):
    """Operations on remote memory."""

    READ = "rdma-read"
    WRITE = "rdma-write"
    COMPARE_SWAP = "compare-swap"
    FETCH_ADD = "fetch-add"


@dataclass(frozen=True, slots=True)
class RdmaOperation(Event):
    """One operation on remote memory, when its last packet (or response, or refusal) was seen."""

    direction: int
    """Direction of the request."""
    kind: RdmaKind
    va: int
    rkey: int
    length: int
    """Bytes that the request names."""
    seen: int
    """Payload bytes that the capture holds."""
    first_frame: int
    psn: int
    """Unwrapped."""
    status: str = "ok"
    """``ok``, ``unknown`` (no answer seen) or the NAK's name."""
    operands: tuple[int, ...] = field(default=())
    """Atomics: (compare, swap) or (add,), and the original value where the response was seen."""
    cut: bool = False
    """The capture lacks the header that names memory and length: they are 0 here."""


@dataclass(frozen=True, slots=True)
class Nak(Event):
    """A responder refused a request packet: to be sent again, or for good."""

    direction: int
    """Direction of the request."""
    psn: int
    """Unwrapped."""
    reason: str
