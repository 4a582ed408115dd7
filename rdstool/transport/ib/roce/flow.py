"""One direction between two UDP ports: everything in front of the BTH, and the ICRC that covers it.

Between two ports nothing but the length of the IP and UDP headers changes (what routers may change, the ICRC takes as
ones), and in IPv4 the identification. So the CRC of what stands in front of the BTH is computed once for each length of
datagram and kept; then one CRC over the datagram as it is does. A CRC is linear: what identification and masked bits
make of it is a difference that depends on their distance from the end alone.
:func:`dissectors.wire.icrc.icrc` computes the same from a whole packet; a test holds the two together.

Where the system cuts a burst into datagrams (UDP_SEGMENT), it counts their identifications from that of the whole,
which is 0 (``inet_gso_segment``; seen on veth). So the ICRC of a datagram depends on its place in the burst.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from zlib import crc32

from dissectors.wire.encapsulation import ICRC_BYTES, ROCE_UDP_PORT
from dissectors.wire.icrc import IPV4_BYTES, MAX_PACKET_BYTES, UDP_BYTES
from dissectors.wire.infiniband import LRH
from rdstool.protocol.addresses import parsed
from rdstool.transport.ib.roce.crc_shift import difference_of, unknown_word

UDP_PROTOCOL = 17
_HOPS = 64
"""Time to live of made-up headers."""
DONT_FRAGMENT = 0x40
"""The don't-fragment bit, in the first byte behind the identification."""
MAX_BURST = 64
"""Datagrams that Linux cuts from one burst at most (``UDP_MAX_SEGMENTS``, before 6.9), so identifications they have."""
_ID_DISTANCE = IPV4_BYTES + UDP_BYTES - 4
"""Bytes from an IPv4 header's identification to the BTH."""
_LATER_FRAGMENT = 0xFFBF_0000
"""Bits of the unknown word, as ``unknown_word`` gives it, that are not zero in any packet that is no fragment."""
_MOST_ZEROS = 16
"""Packets with another identification after which it is believed."""
_MASKED_LINK = b"\xff" * LRH.size
_MARKS_AT = 4
"""Where the BTH has congestion marks and reserved bits. All are 0 in what we send, the ICRC takes them as ones."""
PADDING = (b"", b"\0", b"\0\0", b"\0\0\0")
_LENGTHS = MAX_PACKET_BYTES // 4
"""Number of different lengths that a datagram can have."""
_RESIDUE = 0x2144_DF1C
"""CRC of anything with its own CRC behind it."""

_IPV4 = struct.Struct(">BBHHBBBBH4s4s")
_IPV6 = struct.Struct(">IHBB16s16s")
_UDP = struct.Struct(">HHHH")
ICRC = struct.Struct("<I")


ETHERNET_BYTES = 14

Seals = tuple[int, list[int], dict[int, int]]
"""For one length of datagram: the CRC of everything before the BTH, and what ``_of_length`` returns."""


class Flow:
    """From one UDP port to port 4791 of another address."""

    __slots__ = ("_ipv4", "_lengths", "_zeros", "destination", "source", "source_port")

    def __init__(self, source: str, source_port: int, destination: str) -> None:
        self.source = source
        self.source_port = source_port
        self.destination = destination
        self._ipv4 = parsed(source).version == 4
        self._lengths: dict[int, Seals] = {}
        self._zeros = 0
        """How sure it is that the identification is 0, or a place in a burst."""

    def seal(self, head: bytes, payload: bytes | bytearray | memoryview, pad: int, place: int = 0) -> bytes:
        """The datagram: BTH and extended headers, payload, ``pad`` bytes of padding, ICRC; ``place``: in its burst."""
        body = head + payload + PADDING[pad]
        before, changes, _ = self.seals(len(body) + ICRC_BYTES)
        covered = _unmarked(body) if head[_MARKS_AT] else body
        return body + ICRC.pack(crc32(covered, before) ^ changes[place])

    def seals(self, length: int) -> Seals:
        """What the ICRCs of datagrams of this length are made, and checked, with."""
        return self._lengths.get(length) or self._length(length)

    def identification(self, datagram: bytes) -> int | None:
        """Verify the ICRC of what has come on this flow: the IPv4 identification, or None where it is not good.

        Where the identification is unknown, seventeen bits of the ICRC are needed to find it and the don't-fragment
        flag, and fifteen are left to check. So a flow that is seen to have 0 there again and again, as this package
        sends it, has to keep to it, or to places in a burst, and six bits are needed: another value is taken for
        damage, many for a change. With IPv6 nothing is unknown.
        """
        length = len(datagram)
        before, _, known = self._lengths.get(length) or self._length(length)  # as seals
        crc = crc32(datagram, before)
        identification = known.get(crc)
        if identification is None:
            if datagram[_MARKS_AT]:
                crc = crc32(_unmarked(datagram), before)
            identification = known.get(crc)
            if identification is None:
                return self._unusual(crc ^ next(iter(known)), length) if self._ipv4 else None
        if not identification and self._zeros < _MOST_ZEROS:
            self._zeros += 1
        return identification

    def _unusual(self, difference: int, length: int) -> int | None:
        """The identification that makes such a difference to 0, where this flow may have it."""
        word = unknown_word(difference, length + _ID_DISTANCE)
        if word & _LATER_FRAGMENT:
            return None
        if self._zeros > 1:
            self._zeros -= 1
            return None
        self._zeros = 0  # a sender that counts passes 0, too, but once
        return (word & 0xFF) << 8 | (word >> 8 & 0xFF)

    def _length(self, length: int) -> Seals:
        before = crc32(headers(self, length, masked=True), crc32(_MASKED_LINK))
        entry = self._lengths[length] = before, *_of_length(length, self._ipv4)
        return entry


def _unmarked(packet: bytes) -> bytes:
    return packet[:_MARKS_AT] + b"\0" + packet[_MARKS_AT + 1 :]


@lru_cache(maxsize=2 * _LENGTHS)
def _of_length(length: int, ipv4: bool) -> tuple[list[int], dict[int, int]]:
    """For datagrams of ``length`` bytes: what each place in a burst makes of the CRC in front of the ICRC.

    And what the CRC of a whole good datagram, ICRC and all, is; place 0 comes first.
    """
    covered = length - ICRC_BYTES
    marks = difference_of(b"\xff", covered - _MARKS_AT)
    changes = [marks] * MAX_BURST
    if ipv4:
        for place in range(1, MAX_BURST):
            bit = place & -place
            more = difference_of(bit.to_bytes(2), covered + _ID_DISTANCE) if place == bit else marks ^ changes[bit]
            changes[place] = changes[place - bit] ^ more
    whole = {_RESIDUE ^ difference_of(ICRC.pack(change), ICRC_BYTES): place for place, change in enumerate(changes)}
    return changes, whole if ipv4 else {next(iter(whole)): 0}


def headers(flow: Flow, length: int, *, masked: bool = False, identification: int = 0) -> bytes:
    """The IP and UDP headers in front of ``length`` bytes; ``masked``: with ones where the ICRC has them.

    The UDP checksum is 0, as RoCE allows. IPv4 has don't-fragment set.
    """
    udp = _UDP.pack(flow.source_port, ROCE_UDP_PORT, length + UDP_BYTES, 0xFFFF if masked else 0)
    source, destination = parsed(flow.source).packed, parsed(flow.destination).packed
    total = length + UDP_BYTES
    if len(source) == 16:
        first, hops = (0x6FFF_FFFF, 0xFF) if masked else (6 << 28, _HOPS)
        return _IPV6.pack(first, total, UDP_PROTOCOL, hops, source, destination) + udp
    total += IPV4_BYTES
    rest = (total, identification, DONT_FRAGMENT, 0)
    if masked:
        return _IPV4.pack(0x45, 0xFF, *rest, 0xFF, UDP_PROTOCOL, 0xFFFF, source, destination) + udp
    bare = _IPV4.pack(0x45, 0, *rest, _HOPS, UDP_PROTOCOL, 0, source, destination)
    return _IPV4.pack(0x45, 0, *rest, _HOPS, UDP_PROTOCOL, _checksum(bare), source, destination) + udp


def _checksum(header: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(header) // 2}H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


def header_bytes(address: str) -> int:
    """Bytes of IP and UDP headers in front of the BTH, between addresses of this family."""
    return UDP_BYTES + (IPV4_BYTES if parsed(address).version == 4 else _IPV6.size)


@lru_cache(maxsize=256)
def hardware_address(address: str) -> bytes:
    """An Ethernet address for an IP address: locally administered, made of its last four bytes."""
    return b"\x02\x00" + parsed(address).packed[-4:]


def ethernet_frame(flow: Flow, datagram: bytes, identification: int) -> bytes:
    """The frame that carries a datagram, for writing to a capture. What a socket does not show is made up.

    Made up are Ethernet addresses, type of service 0, time to live 64 and UDP checksum 0; none is under the ICRC.
    """
    kind = b"\x86\xdd" if parsed(flow.source).version == 6 else b"\x08\x00"
    link = hardware_address(flow.destination) + hardware_address(flow.source) + kind
    return link + headers(flow, len(datagram), identification=identification) + datagram
