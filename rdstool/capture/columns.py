"""The columns that capture reading hands from stage to stage. All arrays of one batch have the same length.

Stages: files -> :class:`FrameBatch` -> links and network -> :class:`Segments` (TCP) and :class:`IbPackets`
-> streams -> :class:`MessageBatch`. A batch holds what one chunk of the file brought, so memory does not
grow with the file. ``frame`` is always the number of a frame in the whole capture, counted from 1 over all files.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from dissectors.wire.rds import RdsHeader
from dissectors.wire.table import Table, table_of
from rdstool.capture.events import RdmaOperation

NS_PER_S = 1_000_000_000
"""Times are ns since 1970."""
NO_PACKET = 0xFFFF
"""In place of the link type of a frame that holds nothing: it only has a number. LINKTYPE values are far below."""
NO_TIME = -(1 << 63)
"""In place of the time of such a frame, where it tells none."""
Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]


def dtype_of(table: Table) -> np.dtype[Any]:
    """The big-endian NumPy structure of a table whose fields are whole bytes."""
    formats = [(f.name, f"V{f.size}" if isinstance(f.default, bytes) else f">u{f.size}") for f in table.fields]
    return np.dtype(formats)


RDS_DTYPE = dtype_of(table_of(RdsHeader))

MESSAGE = np.dtype(
    [
        ("number", "i8"),  # 1-based, in capture order of the last byte
        ("frame", "i8"),  # the frame that completed the message, or ended it before it was complete
        ("first_frame", "i8"),  # the frame that holds the first byte of its header
        ("time", "i8"),  # of `frame`, ns since 1970
        ("stream", "i4"),  # index into the stream table
        ("direction", "u1"),  # 0: from stream.a to stream.b, 1: back
        ("transport", "u1"),  # rdstool.protocol.kinds.Transport
        ("kind", "u1"),  # rdstool.protocol.kinds.MessageKind
        ("path", "i1"),  # -1: not known
        ("fragments", "i4"),  # InfiniBand frames; 1 over TCP
        ("seen", "i8"),  # payload bytes that the capture holds
        ("complete", "?"),  # all payload bytes were seen
        ("checksum_status", "u1"),  # ChecksumStatus
        ("inferred", "?"),  # its boundary was found by search, not known from the stream
        ("position", "i8"),  # TCP: stream offset of the header; IB: unwrapped PSN of the first packet
        ("end", "i8"),  # what an acknowledgement must reach: TCP: stream offset behind it; IB: its sequence
        ("header", RDS_DTYPE),
    ]
)
"""One row for each message."""

ACK = np.dtype(
    [
        ("stream", "i4"),
        ("direction", "u1"),  # direction of the messages that are acknowledged
        ("position", "i8"),  # everything whose `end` is at most this is acknowledged
        ("frame", "i8"),
        ("time", "i8"),
    ]
)
"""One row each time that the acknowledged position of a stream's direction advances."""

FRAGMENT = np.dtype(
    [
        ("stream", "i4"),
        ("direction", "u1"),
        ("frame", "i8"),  # the frame that completed the fragment
        ("message", "i8"),  # index of its message in the rows of the same batch; -1: of no message
        ("index", "i4"),  # 0 for the first fragment seen of the message
        ("data", "i8"),  # bytes behind the RDS header, on the wire; below 0: too short to be a header
        ("joined", "?"),  # no packet is missing between it and the frame before
        ("solicited", "?"),  # SE bit of the last packet
        ("opcode", "u1"),  # BTH opcode of the last packet
        ("checksum_status", "u1"),  # ChecksumStatus
        ("header_match", "u1"),  # HeaderMatch: this header against the first fragment's
        ("credit", "u1"),  # h_credit
        ("ack", "u8"),  # h_ack
    ]
)
"""One row a fragment: an RDS frame, that is an InfiniBand SEND."""


class HeaderMatch:
    """Values of the column ``header_match`` (protocol.md §7.4)."""

    SAME = 0
    CREDIT = 1
    """Only credit and checksum differ, as flow control makes them."""
    OTHER = 2
    """Something else differs that a receiver does not look at."""
    FOREIGN = 3
    """Sequence, length or a port differs: a receiver drops the connection."""


class ChecksumStatus:
    """Values of the column ``checksum_status``."""

    ABSENT = 0
    GOOD = 1
    BAD = 2
    LABELS = ("absent", "good", "bad")


@dataclass(slots=True)
class FrameBatch:
    """Frames of one chunk of one file."""

    data: Bytes
    """The bytes that the frames lie in; valid until the next batch is asked for."""
    frame: Ints
    """Number in the capture."""
    offset: Ints
    """Offset of the frame's first byte in ``data``."""
    captured: Ints
    """Bytes in ``data``."""
    wire: Ints
    """Bytes that the frame had."""
    time: Ints
    """ns since 1970; NO_TIME only of frames without packet."""
    link: NDArray[np.uint16]
    """LINKTYPE_* of the frame's interface, or NO_PACKET."""
    file: int
    """Index of the file among those that were opened."""
    consumed: int
    """Bytes of the file, as it lies on disk, that were read up to the end of this batch."""

    def __len__(self) -> int:
        return len(self.frame)


_DTYPES: dict[str, type[np.generic]] = {
    **dict.fromkeys(("src_hi", "src_lo", "dst_hi", "dst_lo"), np.uint64),
    **dict.fromkeys(("sport", "dport"), np.uint16),
    **dict.fromkeys(("seq", "ack", "ident"), np.uint32),
    **dict.fromkeys(("flags", "protocol"), np.uint8),
    "more": np.bool_,
}
"""Types of the columns of packets that are not int64."""


@dataclass(slots=True)
class Packets:
    """What was parsed of a batch of frames. Addresses are 128-bit numbers in two halves, IPv4 as ::ffff:a.b.c.d."""

    data: Bytes
    frame: Ints
    time: Ints
    src_hi: NDArray[np.uint64]
    src_lo: NDArray[np.uint64]
    dst_hi: NDArray[np.uint64]
    dst_lo: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.frame)

    @classmethod
    @cache
    def dtypes(cls) -> dict[str, np.dtype[Any]]:
        """The columns, that is all but ``data``, in their order."""
        names = [column.name for column in fields(cls) if column.name != "data"]
        return {name: np.dtype(_DTYPES.get(name, np.int64)) for name in names}

    def columns(self) -> list[NDArray[Any]]:
        """The values, in the order of ``dtypes``."""
        return [getattr(self, name) for name in self.dtypes()]

    @classmethod
    def none(cls, data: Bytes | None = None) -> Self:
        """No rows at all."""
        return cls(np.empty(0, np.uint8) if data is None else data, *(np.empty(0, of) for of in cls.dtypes().values()))

    def pick(self, mask: NDArray[np.bool_]) -> Self:
        """The rows where ``mask`` holds."""
        return type(self)(self.data, *(column[mask] for column in self.columns()))


@dataclass(slots=True)
class Segments(Packets):
    """TCP segments, one in each row."""

    sport: NDArray[np.uint16]
    dport: NDArray[np.uint16]
    seq: NDArray[np.uint32]
    ack: NDArray[np.uint32]
    flags: NDArray[np.uint8]
    """TCP flags: FIN 1, SYN 2, RST 4, PSH 8, ACK 16."""
    payload: Ints
    """Offset of the payload in ``data``."""
    captured: Ints
    """Payload bytes in ``data``; less than ``length`` where the frame was cut."""
    length: Ints
    """Payload bytes on the wire."""


@dataclass(slots=True)
class IbPackets(Packets):
    """Packets of the InfiniBand transport: RoCE v2, RoCE v1 and native InfiniBand.

    Addresses may be GIDs; without GRH, ``hi`` is 0 and ``lo`` the LID.
    """

    network: Ints
    """Offset of the IP header or GRH in ``data``, -1 without one (ICRC covers from there)."""
    bth: Ints
    """Offset of the BTH in ``data``; at least 12 bytes are captured from there."""
    captured: Ints
    """Bytes behind the BTH that are captured, without ICRC."""
    length: Ints
    """Bytes behind the BTH on the wire, without ICRC; pad bytes included."""


@dataclass(slots=True)
class Fragments(Packets):
    """Fragments of IP datagrams (RFC 791 §3.2, RFC 8200 §4.5)."""

    network: Ints
    """Offset of the IP header in ``data``."""
    ident: NDArray[np.uint32]
    """Identification: the same in all fragments of a datagram."""
    protocol: NDArray[np.uint8]
    """What the datagram carries."""
    place: Ints
    """Where in the datagram, behind its headers, these bytes belong."""
    more: NDArray[np.bool_]
    """More fragments follow: this is not the datagram's end."""
    payload: Ints
    """Offset of the bytes in ``data``."""
    captured: Ints
    """Bytes in ``data``; less than ``length`` where the frame was cut."""
    length: Ints
    """Bytes on the wire."""


def pair_key(rows: Packets) -> NDArray[np.uint64]:
    """A number for each row that is the same for both directions between two addresses."""
    return rows.src_hi + rows.dst_hi + rows.src_lo + rows.dst_lo


@dataclass(slots=True)
class MessageBatch:
    """Messages in the order of their numbers, with what cannot be a column."""

    rows: NDArray[Any]
    """Structured array of :data:`MESSAGE`."""
    payloads: dict[int, bytes] = field(default_factory=dict)
    """Row index -> payload bytes seen, for congestion bitmaps and, where asked for, all messages."""
    digests: dict[int, str] = field(default_factory=dict)
    """Row index -> SHA-256 of the payload in hexadecimal, for complete messages, where asked for."""
    rdma: dict[int, tuple[RdmaOperation, ...]] = field(default_factory=dict)
    """Row index -> the RDMA operations that the message announces."""

    def __len__(self) -> int:
        return len(self.rows)
