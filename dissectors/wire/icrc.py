"""The invariant CRC that ends every packet of the InfiniBand transport.

It covers what no switch or router may change: from the link header to the pad bytes, with the fields that may
change taken as ones. InfiniBand Architecture vol. 1, §7.8; for RoCE, its Annexes A16 (v1) and A17 (v2).
Seen right on every frame of the RoCE v2 captures of kernels 6.1 and 7.3, and on the sample packet of the
specification for native InfiniBand; RoCE v1 and IPv6 were not seen.
"""

from __future__ import annotations

from zlib import crc32

from dissectors.wire.encapsulation import ICRC_BYTES, NextHeader
from dissectors.wire.errors import CodecError
from dissectors.wire.infiniband import BTH, GRH, LRH

MIN_PACKET_BYTES = BTH.size + ICRC_BYTES
"""Least length of a packet from its BTH to its ICRC."""
MAX_PACKET_BYTES = 4096 + 64
"""The largest path MTU, and more than the headers of any packet and its ICRC."""

UDP_BYTES = 8
IPV4_BYTES = 20
IPV6_BYTES = 40
_UDP_PROTOCOL = 17

_ABSENT_LINK = b"\xff" * LRH.size
"""RoCE has no LRH: its place is taken by ones."""


def icrc(network: bytes | bytearray | memoryview, *, lrh: bytes | None = None, bth: int | None = None) -> bytes:
    """The four ICRC bytes as they stand on the wire, behind ``network``.

    ``network`` runs from the IPv4 or IPv6 header (RoCE v2), the GRH (RoCE v1, native InfiniBand) or, on native
    InfiniBand without GRH, the BTH to the end of the payload with its pad bytes. ``lrh`` is the link header of
    native InfiniBand, None for RoCE. ``bth`` is the offset of the BTH, found from the network header where it is None.
    Raises ``CodecError`` where the bytes are too short or begin with no such header.
    """
    if lrh is not None and len(lrh) != LRH.size:
        raise CodecError(f"a link header has {LRH.size} bytes, got {len(lrh)}")
    at = _find_bth(network, lrh) if bth is None else bth
    if at < 0 or len(network) < at + BTH.size:
        raise CodecError(f"a packet of {len(network)} bytes has no room for a BTH at {at}: it has no ICRC")
    covered = bytearray(network)
    routed = lrh is None or LRH.unpack_from(lrh).lnh in {NextHeader.GRH, NextHeader.IPV6}
    if routed:
        _mask_network(covered, at)
    covered[at + 4] = 0xFF  # congestion marks and the reserved bits beside them
    link = _ABSENT_LINK if lrh is None else bytes((lrh[0] | 0xF0,)) + lrh[1:]  # the virtual lane may change
    # The CRC's least significant byte goes first on the wire.
    return crc32(covered, crc32(link)).to_bytes(ICRC_BYTES, "little")


def icrc_good(packet: bytes | bytearray | memoryview, *, lrh: bytes | None = None, bth: int | None = None) -> bool:
    """True where the last four bytes of ``packet`` are the ICRC of those before; arguments as :func:`icrc`."""
    view = memoryview(packet)
    return icrc(view[:-ICRC_BYTES], lrh=lrh, bth=bth) == bytes(view[-ICRC_BYTES:])


def _find_bth(network: bytes | bytearray | memoryview, lrh: bytes | None) -> int:
    """Offset of the BTH behind the network header."""
    if lrh is not None and LRH.unpack_from(lrh).lnh == NextHeader.BTH:
        return 0
    version = network[0] >> 4 if len(network) else 0
    if version == 4:
        return (network[0] & 0xF) * 4 + UDP_BYTES
    if version == 6 and len(network) >= GRH.size:
        return IPV6_BYTES + UDP_BYTES if network[6] == _UDP_PROTOCOL else GRH.size
    raise CodecError("an ICRC covers a packet that begins with IPv4, IPv6, GRH or (behind an LRH) BTH; this has none")


def _mask_network(covered: bytearray, bth: int) -> None:
    """Set to ones what routers may change in the header that begins at 0 and in the UDP header before the BTH."""
    version = covered[0] >> 4
    if version == 4:
        if bth < IPV4_BYTES + UDP_BYTES:
            raise CodecError(f"a BTH at {bth} does not lie behind IPv4 and UDP headers")
        covered[1] = 0xFF  # type of service
        covered[8] = 0xFF  # time to live
        covered[10:12] = b"\xff\xff"  # header checksum
    else:
        if bth < GRH.size:
            raise CodecError(f"a BTH at {bth} does not lie behind an IPv6 header or GRH")
        covered[0] |= 0x0F  # traffic class and flow label
        covered[1:4] = b"\xff\xff\xff"
        covered[7] = 0xFF  # hop limit
    if version == 4 or bth > GRH.size:
        covered[bth - 2 : bth] = b"\xff\xff"  # UDP checksum
