"""IP headers: from where the link leaves off to what IP carries, and fragments.

Sources: RFC 791 and 8200 (IP), 4302 (authentication header), 6946 (fragment header on a whole packet).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdstool.capture.columns import Bytes, Fragments, FrameBatch, Ints
from rdstool.capture.counts import FrameCounts
from rdstool.capture.gather import gather
from rdstool.capture.packets.cursor import Cursor, Mask
from rdstool.capture.packets.links import any_of

MAX_OFFLOAD_BYTES = 1 << 20
"""The largest packet that is believed where IP gives no length; Linux sends 512 KiB at most (BIG TCP)."""
MAX_EXTENSION_HEADERS = 8
"""Extension headers of an IPv6 packet that are read."""

AUTHENTICATION = 51
"""The extension header that IPv4 has too."""
ROUTING = 43
_HOP_BY_HOP, _FRAGMENT, _DESTINATION = 0, 44, 60
_IPV4_MIN_BYTES = 20
_MORE, _PLACE = 0x2000, 0x1FFF
"""More fragments, and the fragment's place in units of 8 bytes."""
_IPV6_MORE, _IPV6_PLACE = 0x0001, 0xFFF8
"""More fragments, and the place in bytes, of IPv6."""
_V4_MAPPED = np.uint64(0xFFFF_0000_0000)

_IPV4 = np.dtype({
    "names": ["version", "total", "ident", "fragment", "protocol"],
    "formats": ["u1", ">u2", ">u2", ">u2", "u1"],
    "offsets": [0, 2, 4, 6, 9],
    "itemsize": _IPV4_MIN_BYTES,
})  # fmt: skip
IPV6 = np.dtype({
    "names": ["version", "payload", "next"],
    "formats": ["u1", ">u2", "u1"],
    "offsets": [0, 4, 6],
    "itemsize": 40,
})  # fmt: skip
"""GRH is laid out alike."""
_EXTENSION = np.dtype([("next", "u1"), ("size", "u1"), ("fragment", ">u2"), ("ident", ">u4")])
_V4_ADDRESSES = np.dtype([("src", ">u4"), ("dst", ">u4")])
_V6_ADDRESSES = np.dtype([("src_hi", ">u8"), ("src_lo", ">u8"), ("dst_hi", ">u8"), ("dst_lo", ">u8")])

Addresses = tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]
"""Source and destination, each in two halves."""


@dataclass(slots=True)
class Carried:
    """Rows that stand behind their network header, which is at ``network`` and names what comes next."""

    cursor: Cursor
    network: Ints
    protocol: NDArray[np.uint8]
    addresses: Callable[[Bytes, Ints], Addresses]

    def __len__(self) -> int:
        return len(self.network)

    def pick(self, mask: Mask) -> Carried:
        """The rows where ``mask`` holds."""
        if mask.all():
            return self
        return Carried(self.cursor.pick(mask), self.network[mask], self.protocol[mask], self.addresses)

    def at(self, cursor: Cursor) -> Carried:
        """The same rows at other places."""
        return Carried(cursor, self.network, self.protocol, self.addresses)


def ipv4(cursor: Cursor, frames: FrameBatch, counts: FrameCounts) -> tuple[Carried, list[Fragments]]:
    """What IPv4 packets carry, and those that are fragments."""
    cursor, headers = cursor.headers(_IPV4, counts)
    size = (headers["version"] & 15).astype(np.int64) * 4
    total = headers["total"].astype(np.int64)
    wire_end = np.where(total == 0, cursor.wire_end, cursor.at + total)
    good = (headers["version"] >> 4 == 4) & (size >= _IPV4_MIN_BYTES) & (wire_end - cursor.at >= size)
    good &= (total != 0) | (wire_end - cursor.at <= MAX_OFFLOAD_BYTES)
    packets = Carried(cursor.ending(wire_end).behind(size), cursor.at, headers["protocol"], v4_addresses)
    if not good.all():
        packets, headers = counted_malformed(packets, good, counts), headers[good]
    bits = headers["fragment"]
    apart = (bits & (_MORE | _PLACE)) != 0
    pieces: list[Fragments] = []
    if apart.any():
        place = (bits[apart] & _PLACE).astype(np.int64) * 8
        more = (bits[apart] & _MORE) != 0
        pieces = [_fragments(packets.pick(apart), frames, counts, headers["ident"][apart], place, more)]
        packets = packets.pick(~apart)
    authenticated = packets.protocol == AUTHENTICATION
    if authenticated.any():
        packets, _ = _pass_extension(packets, authenticated, frames, counts)
    return packets, pieces


def ipv6(cursor: Cursor, frames: FrameBatch, counts: FrameCounts) -> tuple[Carried, list[Fragments]]:
    """What IPv6 packets carry behind their extension headers, and those that are fragments."""
    cursor, headers = cursor.headers(IPV6, counts)
    payload = headers["payload"].astype(np.int64)
    start = cursor.at + IPV6.itemsize
    # Nothing stands for what the field cannot hold: jumbograms, and segmentation offload before the length is set.
    wire_end = np.where(payload == 0, cursor.wire_end, start + payload)
    good = (headers["version"] >> 4 == 6) & ((payload != 0) | (wire_end - start <= MAX_OFFLOAD_BYTES))
    packets = Carried(cursor.ending(wire_end).behind(IPV6.itemsize), cursor.at, headers["next"], v6_addresses)
    packets = counted_malformed(packets, good, counts)
    fragments: list[Fragments] = []
    for _ in range(MAX_EXTENSION_HEADERS):
        extended = any_of(packets.protocol, (_HOP_BY_HOP, ROUTING, _FRAGMENT, AUTHENTICATION, _DESTINATION))
        if not extended.any():
            break
        packets, pieces = _pass_extension(packets, extended, frames, counts)
        fragments += pieces
    return packets, fragments


def _pass_extension(
    packets: Carried, extended: Mask, frames: FrameBatch, counts: FrameCounts
) -> tuple[Carried, list[Fragments]]:
    """Go behind one extension header where there is one (RFC 8200 §4, RFC 4302 §2); fragments go no further."""
    cut = extended & (packets.cursor.at + _EXTENSION.itemsize > packets.cursor.end)
    counts.cut += int(cut.sum())
    packets, extended = packets.pick(~cut), extended[~cut]
    kind = packets.protocol[extended]
    _, headers = packets.cursor.pick(extended).headers(_EXTENSION, counts)
    size = (headers["size"].astype(np.int64) + 1) * 8
    size[kind == _FRAGMENT] = _EXTENSION.itemsize
    authentication = kind == AUTHENTICATION
    size[authentication] = (headers["size"][authentication].astype(np.int64) + 2) * 4
    advance = np.zeros(len(packets), np.int64)
    advance[extended] = size
    protocol = packets.protocol.copy()
    protocol[extended] = headers["next"]
    passed = Carried(packets.cursor.behind(advance), packets.network, protocol, packets.addresses)
    # A fragment header on a whole packet is allowed (RFC 6946).
    pieces = (kind == _FRAGMENT) & ((headers["fragment"] & (_IPV6_MORE | _IPV6_PLACE)) != 0)
    if not pieces.any():
        return passed, []
    headers = headers[pieces]
    place, more = (headers["fragment"] & _IPV6_PLACE).astype(np.int64), (headers["fragment"] & _IPV6_MORE) != 0
    apart = np.zeros(len(packets), np.bool_)
    apart[extended] = pieces
    return passed.pick(~apart), [_fragments(passed.pick(apart), frames, counts, headers["ident"], place, more)]


def _fragments(
    packets: Carried, frames: FrameBatch, counts: FrameCounts, ident: NDArray[Any], place: Ints, more: Mask
) -> Fragments:
    """Rows that stand behind the headers of their fragments; lost, as far as is known here."""
    counts.fragments_lost += len(packets)
    cursor = packets.cursor
    return Fragments(
        frames.data,
        frames.frame[cursor.row],
        frames.time[cursor.row],
        *packets.addresses(frames.data, packets.network),
        network=packets.network,
        ident=ident.astype(np.uint32),
        protocol=packets.protocol,
        place=place,
        more=more,
        payload=np.minimum(cursor.at, cursor.end),
        captured=np.maximum(cursor.end - cursor.at, 0),
        length=np.maximum(cursor.wire_end - cursor.at, 0),
    )


def counted_malformed(packets: Carried, good: Mask, counts: FrameCounts) -> Carried:
    """The rows where ``good`` holds; the others are counted as malformed."""
    if good.all():
        return packets
    counts.malformed += len(packets) - int(good.sum())
    return packets.pick(good)


def v4_addresses(data: Bytes, network: Ints) -> Addresses:
    """Source and destination addresses of IPv4 headers."""
    pairs = gather(data, network + 12, _V4_ADDRESSES)
    zeros = np.zeros(len(network), np.uint64)
    return zeros, pairs["src"] | _V4_MAPPED, zeros, pairs["dst"] | _V4_MAPPED


def v6_addresses(data: Bytes, network: Ints) -> Addresses:
    """Source and destination addresses of IPv6 headers, or GRHs."""
    pairs = gather(data, network + 8, _V6_ADDRESSES)
    src_hi, src_lo, dst_hi, dst_lo = (pairs[name].astype(np.uint64) for name in pairs.dtype.names or ())
    return src_hi, src_lo, dst_hi, dst_lo
