"""What many RDS headers at once tell: the column form of ``classify`` and ``checksum_good``, and plausibility."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dissectors.wire.extensions import parse_extensions
from dissectors.wire.rds import MAX_MESSAGE_BYTES, PING_PORT, PROBE_PORT, RDS_HEADER, Flags
from rdstool.capture.columns import ChecksumStatus
from rdstool.protocol.kinds import HEARTBEAT_FLAGS, MessageKind, Transport

TCP_FLAGS = (0, Flags.CONG_BITMAP.value, Flags.RETRANSMITTED.value)
"""The flags that a kernel sends over TCP (protocol.md §1)."""
_CHECKSUM_WORD = RDS_HEADER.table["checksum"].offset // 2


def kinds_of(headers: NDArray[Any], transport: Transport) -> NDArray[np.uint8]:
    """Return the :class:`MessageKind` of each header; agrees with ``classify`` (protocol.md §1.3)."""
    sport, dport, flags = headers["sport"], headers["dport"], headers["flags"]
    kinds = np.full(len(headers), MessageKind.DATA, np.uint8)
    no_sport, to_ping = sport == 0, dport == PING_PORT
    tcp = transport is Transport.TCP
    # Written from the last test of `classify` to its first, so that the first one that applies stays.
    answers = no_sport & ~to_ping
    kinds[answers] = MessageKind.PONG
    pings = to_ping & ~no_sport
    kinds[pings] = MessageKind.PING
    if tcp:
        kinds[answers & (dport == PROBE_PORT)] = MessageKind.PROBE_REPLY
        kinds[pings & (sport == PROBE_PORT)] = MessageKind.PROBE
    kinds[flags == Flags.CONG_BITMAP] = MessageKind.CONGESTION
    no_ports = no_sport & to_ping
    if not tcp:
        kinds[no_ports & (headers["length"] == 0)] = MessageKind.ACK
    kinds[no_ports & ((flags & HEARTBEAT_FLAGS.value) != 0)] = MessageKind.HEARTBEAT
    return kinds


def checksum_status(headers: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the :class:`ChecksumStatus` of each header (protocol.md §1.1)."""
    status = np.full(len(headers), ChecksumStatus.ABSENT, np.uint8)
    given = np.flatnonzero(headers["checksum"] != 0)
    if len(given):
        words = headers.take(given).view(">u2").reshape(len(given), -1).astype(np.uint32)
        total = words.sum(axis=1)
        total = (total & 0xFFFF) + (total >> 16)
        total = (total & 0xFFFF) + (total >> 16)
        status[given] = np.where(total == 0xFFFF, ChecksumStatus.GOOD, ChecksumStatus.BAD)
    return status


def oddities(header: bytes) -> int:
    """Count what in 48 bytes no kernel sends over TCP; 0 for every header that it may send (protocol.md §1, §2)."""
    parsed = RDS_HEADER.unpack_from(header)
    congestion = parsed.flags == Flags.CONG_BITMAP
    return (
        (parsed.ack != 0)
        + (parsed.credit != 0)
        + any(parsed.padding)
        + (parsed.checksum != 0)
        + (parsed.flags not in TCP_FLAGS)
        + (parsed.length > MAX_MESSAGE_BYTES)
        + ((parsed.sequence == 0) != congestion)
        + ((parsed.sport == 0 and parsed.dport == 0) != congestion)
        + (parse_extensions(parsed.exthdr).problem is not None)
    )
