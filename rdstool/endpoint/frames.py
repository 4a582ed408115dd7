"""Ethernet, IP and TCP headers around bytes that went through a socket, as if they had been captured."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntFlag
from ipaddress import ip_address

SEGMENT_BYTES = 45 * 1448
"""Bytes of one frame: as many as a network card with segmentation offload is given, and fewer than an IP header can
tell."""
WINDOW = 0xFFFF
SEQUENCES = 1 << 32
"""TCP sequence numbers."""

_TCP = 6
_TCP_HEADER_BYTES = 20
_IPV4_BYTES = 4
_HOP_LIMIT = 64
_DONT_FRAGMENT = 0x4000
_IPV4, _IPV6 = 0x0800, 0x86DD


class TcpFlag(IntFlag):
    """Bits of the TCP header."""

    FIN = 0x01
    SYN = 0x02
    RST = 0x04
    PSH = 0x08
    ACK = 0x10


@dataclass(slots=True)
class Host:
    """One end of a TCP connection."""

    address: str
    port: int
    next_sequence: int = 0
    """TCP sequence number of what it sends next."""
    acknowledges: int = 0
    """What it has of the other side: the acknowledgement number of what it sends next."""
    packed: bytes = field(init=False)
    mac: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.packed = ip_address(self.address.partition("%")[0]).packed
        # Locally administered, and told apart by the address.
        self.mac = b"\x02\x00" + self.packed[-4:]

    def advance(self, count: int) -> None:
        """Count what was sent: ``count`` more sequence numbers."""
        self.next_sequence = (self.next_sequence + count) % SEQUENCES


def tcp_frame(source: Host, destination: Host, flags: TcpFlag, data: bytes = b"") -> bytes:
    """The next frame of ``source``, with correct checksums."""
    acknowledgement = source.acknowledges if flags & TcpFlag.ACK else 0
    size = _TCP_HEADER_BYTES + len(data)
    header = struct.pack(
        ">HHIIBBHHH", source.port, destination.port, source.next_sequence, acknowledgement, 0x50, flags, WINDOW, 0, 0
    )
    pseudo = source.packed + destination.packed + struct.pack(">II", size, _TCP)
    checksum = _checksum(pseudo + header + data)
    header = header[:16] + checksum.to_bytes(2, "big") + header[18:]
    version4 = len(source.packed) == _IPV4_BYTES
    network = (
        _ipv4(source.packed, destination.packed, size) if version4 else _ipv6(source.packed, destination.packed, size)
    )
    kind = _IPV4 if version4 else _IPV6
    return b"".join((destination.mac, source.mac, kind.to_bytes(2, "big"), network, header, data))


def _ipv4(source: bytes, destination: bytes, size: int) -> bytes:
    header = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 20 + size, 0, _DONT_FRAGMENT, _HOP_LIMIT, _TCP, 0, source, destination
    )
    return header[:10] + _checksum(header).to_bytes(2, "big") + header[12:]


def _ipv6(source: bytes, destination: bytes, size: int) -> bytes:
    return struct.pack(">IHBB16s16s", 0x6000_0000, size, _TCP, _HOP_LIMIT, source, destination)


def _checksum(data: bytes) -> int:
    """The Internet checksum. A number of many digits modulo 65,535 is the ones' complement sum of its words."""
    total = int.from_bytes(data + bytes(len(data) % 2), "big") % 0xFFFF
    # 0 and 0xFFFF are the same sum; of data that is not all zero it is the latter.
    return ~(total or 0xFFFF) & 0xFFFF
