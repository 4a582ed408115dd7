"""Bursts of RoCE packets that a capture shows as one UDP datagram.

A sender that has its system cut a burst apart (Linux: UDP_SEGMENT) is captured before that is done where the device
does it, or where nobody does: on loopback, between namespaces of a machine, in front of some adapters. All packets of a
burst but the last are of one length, which no header tells; but all are for one queue pair, and the first one's ICRC is
good for a datagram of its length. A burst has a UDP checksum, other RoCE packets seldom do.
"""

from __future__ import annotations

from dissectors.wire.icrc import IPV6_BYTES, MAX_PACKET_BYTES, MIN_PACKET_BYTES, UDP_BYTES, icrc_good

_TRIES = 16
"""Places in a packet that look like the begin of the next one: each costs an ICRC, and payload can be full of them."""
_SAME = slice(2, 8)
"""Of the BTH: partition key and queue pair, the same in all of a burst."""


def packet_bytes(datagram: bytes, bth: int) -> int:
    """Length, from its BTH on, of each packet but the last of a burst; where it is one packet, of that.

    ``datagram`` begins with its IP header and has its first BTH at ``bth``.
    """
    length = len(datagram) - bth
    same = datagram[bth + _SAME.start : bth + _SAME.stop]
    found = bth + MIN_PACKET_BYTES
    for _ in range(_TRIES):
        found = datagram.find(same, found, bth + MAX_PACKET_BYTES + _SAME.stop)
        if found < 0:
            break
        size = found - _SAME.start - bth
        whole = not 0 < length % size < MIN_PACKET_BYTES
        if not size % 4 and size >= MIN_PACKET_BYTES and whole and icrc_good(_first(datagram, bth, size), bth=bth):
            return size
        found += 1
    return length


def _first(datagram: bytes, bth: int, size: int) -> bytearray:
    """The first packet of a burst as it is when it has been cut off."""
    packet = bytearray(datagram[: bth + size])
    packet[bth - 4 : bth - 2] = (size + UDP_BYTES).to_bytes(2)
    if packet[0] >> 4 == 4:
        packet[2:4] = len(packet).to_bytes(2)
    else:
        packet[4:6] = (len(packet) - IPV6_BYTES).to_bytes(2)
    return packet
