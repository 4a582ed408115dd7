"""The 48 bytes in front of every frame, with their checksum (protocol.md §1.1, §7.4)."""

from __future__ import annotations

from typing import NamedTuple

from dissectors.wire.rds import FRAGMENT_BYTES, HEADER_BYTES, RDS_HEADER
from rdstool.protocol.framing import NO_EXTENSIONS

FRAME_BYTES = HEADER_BYTES + FRAGMENT_BYTES
"""What a receive has to hold."""

_FIELDS = ("sequence", "ack", "length", "sport", "dport", "flags", "credit", "checksum", "exthdr")
_CODEC = RDS_HEADER.partial(*_FIELDS)
_pack, _unpack = _CODEC.pack, _CODEC.unpack_from


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
    # The remainder of a number on division by 2^16 - 1 is that of the sum of its words (``ones_complement_sum``), so
    # the fields need not be packed twice.
    total = sequence + ack + length + sport + dport + (flags << 8 | credit)
    if exthdr is not NO_EXTENSIONS:
        total += int.from_bytes(exthdr)
    checksum = 0xFFFE - (total - 1) % 0xFFFF if total else 0xFFFF
    return _pack(sequence, ack, length, sport, dport, flags, credit, checksum, exthdr)


def read_frame_header(frame: bytes) -> FrameHeader:
    """The header of a frame, which has 48 bytes at least."""
    return tuple.__new__(FrameHeader, _unpack(frame))  # what _make does, and checks


def checksum_fits(header: FrameHeader, frame: bytes) -> bool:
    """Without a checksum, or with the right one."""
    # As in pack_frame_header.
    return not header.checksum or not int.from_bytes(frame[:HEADER_BYTES]) % 0xFFFF
