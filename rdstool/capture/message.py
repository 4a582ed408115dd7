"""One RDS message as an object, for people: what iterating over a capture gives.

The bulk path works on the columns of :class:`~rdstool.capture.columns.MessageBatch`; nothing here is used there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from dissectors.wire.congestion import BITMAP_BYTES, congested_ports
from dissectors.wire.extensions import Extension, Unknown, parse_extensions
from dissectors.wire.rds import RDS_HEADER, Flags, RdsHeader
from rdstool.capture.columns import NS_PER_S, RDS_DTYPE, ChecksumStatus, MessageBatch
from rdstool.capture.streams import StreamTable
from rdstool.protocol.kinds import MessageKind, Transport


@dataclass(frozen=True, slots=True)
class Message:
    """One RDS message of a capture."""

    number: int
    """Counted from 1, in capture order of the last byte."""
    frame: int
    """The frame that completed the message."""
    first_frame: int
    """The frame that holds the first byte of its header."""
    time_ns: int
    """Time of ``frame``, ns since 1970."""
    transport: Transport
    kind: MessageKind
    src: str
    """Source address as text."""
    dst: str
    """Destination address as text."""
    stream: int
    """Number of the TCP connection or queue-pair pair."""
    direction: int
    """0: from the stream's end ``a`` to ``b``; 1: back."""
    path: int | None
    """Path of the RDS connection, None where not known."""
    header: RdsHeader
    """All fields of the header."""
    extensions: tuple[Extension | Unknown, ...]
    """The extension headers in their order."""
    extensions_problem: str | None
    """What is wrong with the extension headers, in words."""
    checksum_status: str
    """``absent``, ``good`` or ``bad``."""
    fragments: int
    """InfiniBand frames; 1 over TCP."""
    seen: int
    """Payload bytes that the capture holds."""
    complete: bool
    """The capture holds all of the payload."""
    inferred: bool
    """Its boundary was found by search, not known from the stream."""
    position: int
    """TCP: stream offset of the header; InfiniBand: unwrapped PSN of the first packet."""
    payload: bytes | None = field(default=None, repr=False)
    """The payload bytes seen: always for congestion bitmaps, for others where asked for."""
    sha256: str | None = None
    """SHA-256 of a complete payload in hexadecimal, where asked for."""

    @property
    def time(self) -> float:
        """Seconds since 1970."""
        return self.time_ns / NS_PER_S

    @property
    def sequence(self) -> int:
        """Message number on its path."""
        return self.header.sequence

    @property
    def ack(self) -> int:
        """Highest sequence completely received (InfiniBand)."""
        return self.header.ack

    @property
    def length(self) -> int:
        """Payload bytes that the header announces."""
        return self.header.length

    @property
    def sport(self) -> int:
        """RDS source port."""
        return self.header.sport

    @property
    def dport(self) -> int:
        """RDS destination port."""
        return self.header.dport

    @property
    def flags(self) -> Flags:
        """Flags of the header."""
        return Flags(self.header.flags)

    @property
    def congested(self) -> list[int] | None:
        """Congested ports of the sender, for a congestion bitmap that was seen whole; else None."""
        if self.kind is not MessageKind.CONGESTION or self.payload is None or len(self.payload) != BITMAP_BYTES:
            return None
        return congested_ports(self.payload)


def header_bytes_at(batch: MessageBatch, index: int) -> bytes:
    """The 48 header bytes of row ``index`` as they were on the wire."""
    # NumPy turns fields to the machine's byte order where it joins arrays, so the order is put right here.
    return bytes(batch.rows["header"][index : index + 1].astype(RDS_DTYPE).tobytes())


def message_at(batch: MessageBatch, index: int, streams: StreamTable) -> Message:
    """The message of row ``index``. Raises ``IndexError`` outside the batch."""
    row = batch.rows[index]
    header = RDS_HEADER.unpack_from(header_bytes_at(batch, index))
    parsed = parse_extensions(header.exthdr)
    source, destination = streams[int(row["stream"])].ends(int(row["direction"]))
    path = int(row["path"])
    return Message(
        number=int(row["number"]),
        frame=int(row["frame"]),
        first_frame=int(row["first_frame"]),
        time_ns=int(row["time"]),
        transport=Transport(int(row["transport"])),
        kind=MessageKind(int(row["kind"])),
        src=source.host,
        dst=destination.host,
        stream=int(row["stream"]),
        direction=int(row["direction"]),
        path=None if path < 0 else path,
        header=header,
        extensions=parsed.items,
        extensions_problem=parsed.problem,
        checksum_status=ChecksumStatus.LABELS[int(row["checksum_status"])],
        fragments=int(row["fragments"]),
        seen=int(row["seen"]),
        complete=bool(row["complete"]),
        inferred=bool(row["inferred"]),
        position=int(row["position"]),
        payload=batch.payloads.get(index),
        sha256=batch.digests.get(index),
    )


def messages_of(batch: MessageBatch, streams: StreamTable) -> Iterator[Message]:
    """Yield all messages of a batch in their order."""
    for index in range(len(batch)):
        yield message_at(batch, index, streams)
