"""The RDS message header (protocol.md §1; kernel ``net/rds/rds.h``, ``struct rds_header``)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag

from dissectors.wire.codec import Codec
from dissectors.wire.table import Bit, Kind, header, octets, u8, u16, u32, u64

TCP_PORT = 16385
"""TCP port of RDS (``RDS_TCP_PORT``); also the RDMA-CM port of RDS over IPv6."""
IB_CM_PORT = 18634
"""RDMA-CM port of RDS over IPv4 (``RDS_PORT``)."""
PING_PORT = 0
"""Destination port of a ping (protocol.md §1.2)."""
PROBE_PORT = 1
"""Source port of the multipath handshake's ping (``RDS_FLAG_PROBE_PORT``)."""
MAX_MESSAGE_BYTES = 1 << 20
"""Longest payload that a kernel sends (``RDS_MAX_MSG_SIZE``, protocol.md §4.1)."""
FRAGMENT_BYTES = 4096
"""Payload bytes of every InfiniBand fragment but the last (``RDS_FRAG_SIZE``, protocol.md §7.4)."""
MAX_PATHS = 8
"""Most paths of one connection (``RDS_MPATH_WORKERS``)."""


class Flags(IntFlag):
    """Bits of ``h_flags`` (protocol.md §1). The heartbeat bits are of Oracle's kernel (UEK) only."""

    CONG_BITMAP = 0x01
    ACK_REQUIRED = 0x02
    RETRANSMITTED = 0x04
    HB_PING = 0x08
    HB_PONG = 0x10
    EXTHDR_EXTENSION = 0x20


FLAG_BITS = (
    Bit("cong_bitmap", Flags.CONG_BITMAP, "Payload is a congestion bitmap"),
    Bit("ack_required", Flags.ACK_REQUIRED, "Receiver must acknowledge this message (InfiniBand only)"),
    Bit("retransmitted", Flags.RETRANSMITTED, "Message may have been sent before"),
    Bit("hb_ping", Flags.HB_PING, "Heartbeat request (UEK only)"),
    Bit("hb_pong", Flags.HB_PONG, "Heartbeat answer (UEK only)"),
    Bit("exthdr_extension", Flags.EXTHDR_EXTENSION, "Several extension headers: RDMA_BYTES is present (7.0 and later)"),
)


@header("rds", size=48, title="RDS header", source="net/rds/rds.h struct rds_header; protocol.md §1")
@dataclass(slots=True)
class RdsHeader:
    """The 48 bytes in front of every message (TCP) or fragment (InfiniBand)."""

    sequence: int = u64(0, "Message number on its path; 0 for congestion bitmaps and ack-only frames")
    ack: int = u64(8, "Highest sequence completely received (InfiniBand); always 0 over TCP")
    length: int = u32(16, "Payload bytes of the whole message, header excluded")
    sport: int = u16(20, "RDS source port; 0 for a pong, 1 for a handshake probe")
    dport: int = u16(22, "RDS destination port; 0 for a ping")
    flags: int = u8(24, "Flags", kind=Kind.HEX, bits=FLAG_BITS)
    credit: int = u8(25, "Receive credits granted to the peer (InfiniBand flow control)")
    padding: bytes = octets(26, 4, "Unused, zero")
    checksum: int = u16(30, "Internet checksum of the 48 header bytes; 0 = none", kind=Kind.HEX)
    exthdr: bytes = octets(32, 16, "Extension headers, zero-filled")


RDS_HEADER = Codec(RdsHeader)
HEADER_BYTES = RDS_HEADER.size
