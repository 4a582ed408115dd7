"""What both ends of a connection tell each other when it is made: RDMA-CM's private data (protocol.md §7.1, §7.2)."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from ipaddress import ip_address

from dissectors.wire.cm import RDS_PRIVATE_V4, RDS_PRIVATE_V6, SERVICE_ID_TCP, RdsPrivateV4, RdsPrivateV6, reject_code
from dissectors.wire.rds import IB_CM_PORT, TCP_PORT
from rdstool.protocol.addresses import canonical, parsed

Version = tuple[int, int]
COMPATIBLE: Version = (3, 1)
"""What mainline kernels propose, and the least that is taken."""
_MINORS = 0x0003
"""Minor versions of major 4 that are supported, by bit."""
INCOMPATIBLE = (1).to_bytes(4, sys.byteorder)
"""A REJ's data: an incompatible version, or crossing requests. A native int, as kernels have it."""


@dataclass(frozen=True, slots=True)
class Greeting:
    """The private data of a REQ or REP."""

    source: str
    """The sender's address."""
    destination: str
    version: Version = COMPATIBLE
    minor_mask: int = _MINORS
    tos: int = 0
    ack_seq: int = 0
    """Last sequence received; 0 for none, and from mainline kernels always."""
    credit: int = 0
    """Receives posted; 0 without flow control."""

    def pack(self) -> bytes:
        """32 bytes between IPv4 addresses, 56 between IPv6 addresses."""
        ends = ip_address(self.source).packed, ip_address(self.destination).packed
        rest = self.minor_mask, self.tos, 0, 0, self.ack_seq, self.credit, 0
        if parsed(self.source).version == 4:
            return RDS_PRIVATE_V4.pack(RdsPrivateV4(*ends, *self.version, *rest))
        return RDS_PRIVATE_V6.pack(RdsPrivateV6(*ends, *self.version, *rest))


def read_greeting(data: bytes, local: str) -> Greeting | None:
    """The private data that came to ``local``, filled up with zeros as RDMA-CM does; None where there is none."""
    codec = RDS_PRIVATE_V4 if parsed(local).version == 4 else RDS_PRIVATE_V6
    data = data[: codec.size].ljust(codec.size, b"\0")
    if not any(data):
        return None
    found = codec.unpack_from(data)
    return Greeting(
        canonical(str(ip_address(found.saddr))),
        canonical(str(ip_address(found.daddr))),
        (found.major, found.minor),
        found.minor_mask,
        found.tos,
        found.ack_seq,
        found.credit,
    )


def agree_on_version(offered: Greeting) -> Version | None:
    """The version that a passive side answers with; None where it refuses (``rds_ib_protocol_compatible``)."""
    major, _ = offered.version
    common = offered.minor_mask & _MINORS
    if major == 0:
        return 4, 0
    if major == 4 and common:
        return 4, common.bit_length() - 1
    return COMPATIBLE if offered.version == COMPATIBLE else None


def service_id(address: str) -> int:
    """The RDMA-CM service that RDS listens on at an address: another port for IPv6."""
    return SERVICE_ID_TCP | (IB_CM_PORT if parsed(address).version == 4 else TCP_PORT)


def why_refused(data: bytes) -> str:
    """What a REJ's data says, for people."""
    code = reject_code(data[:4].ljust(4, b"\0"))
    if code == 1:
        return "the peer refused: another version, or its own request crossed ours"
    return f"the peer refused (code {code:#x})" if code else "the peer refused"
