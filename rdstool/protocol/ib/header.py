"""The 48 bytes in front of every frame, with their checksum (protocol.md §1.1, §7.4)."""

from __future__ import annotations

from typing import NamedTuple

from dissectors.wire.checksum import ones_complement_sum
from dissectors.wire.rds import FRAGMENT_BYTES, HEADER_BYTES, RDS_HEADER
from rdstool.protocol.framing import NO_EXTENSIONS

FRAME_BYTES = HEADER_BYTES + FRAGMENT_BYTES
"""What a receive has to hold."""

_FIELDS = ("sequence", "ack", "length", "sport", "dport", "flags", "credit", "checksum", "exthdr")
_CODEC = RDS_HEADER.partial(*_FIELDS)


class FrameHeader(NamedTuple):
    """A frame's header as received."""

    sequence: int
    ack: int
    """Highest sequence that the sender has completely received."""
    length: int
    """Payload bytes of the whole message."""
    sport: int
    dport: int
    flags: int
    credit: int
    """Receives that the sender has posted in addition."""
    checksum: int
    exthdr: bytes


def pack_frame_header(
    sequence: int,
    ack: int,
    length: int,
    sport: int,
    dport: int,
    flags: int,
    credit: int = 0,
    exthdr: bytes = NO_EXTENSIONS,
) -> bytes:
    """The 48 bytes, checksum made."""
    fields = sequence, ack, length, sport, dport, flags, credit
    checksum = ~ones_complement_sum(_CODEC.pack(*fields, 0, exthdr)) & 0xFFFF
    return _CODEC.pack(*fields, checksum, exthdr)


def read_frame_header(frame: bytes) -> FrameHeader:
    """The header of a frame, which has 48 bytes at least."""
    return FrameHeader._make(_CODEC.unpack_from(frame))


def checksum_fits(header: FrameHeader, frame: bytes) -> bool:
    """Without a checksum, or with the right one."""
    return not header.checksum or ones_complement_sum(frame[:HEADER_BYTES]) == 0xFFFF
