"""Network headers: from IP, GRH and LRH to TCP segments and InfiniBand packets.

Sources: RFC 791 and 8200 (IP), 9293 (TCP), 768 (UDP); InfiniBand Architecture vol. 1 §7.7 (LRH), §8.3 (GRH), annexes
A16 and A17 (RoCE).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dissectors.wire.encapsulation import ICRC_BYTES, ROCE_UDP_PORT, NextHeader
from rdstool.capture.columns import Bytes, Fragments, FrameBatch, IbPackets, Ints, Segments
from rdstool.capture.counts import FrameCounts
from rdstool.capture.gather import gather
from rdstool.capture.packets.checksums import intact
from rdstool.capture.packets.cursor import Cursor, Mask
from rdstool.capture.packets.links import (
    ETHERTYPE_ARP,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    ETHERTYPE_ROCE,
    LINKTYPE_INFINIBAND,
    MIN_ETHERTYPE,
    NATIVE_INFINIBAND,
    UNKNOWN,
    any_of,
    network_layer,
)

RDS_TCP_PORT = 16385
RDS_TCP_PORTS = frozenset({RDS_TCP_PORT})
PROTOCOL_TCP = 6
PROTOCOL_UDP = 17
MAX_OFFLOAD_BYTES = 1 << 20
"""The largest packet that is believed where IP gives no length; Linux sends 512 KiB at most (BIG TCP)."""
MAX_FRAME_BYTES = 9216
"""The largest jumbo frame of common Ethernet switches."""
MAX_EXTENSION_HEADERS = 8
"""Of an IPv6 packet."""

_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _DESTINATION = 0, 43, 44, 51, 60
_IPV4_MIN_BYTES = 20
_MORE, _PLACE = 0x2000, 0x1FFF
"""More fragments, and the fragment's place in units of 8 bytes."""
_IPV6_MORE, _IPV6_PLACE = 0x0001, 0xFFF8
"""The same of IPv6, whose place is in bytes."""
_GRH_BYTES = 40
_GRH_NEXT_BTH = 0x1B
_LRH_BYTES = 8
_UDP_BYTES = 8
_BTH_BYTES = 12
_TCP_MIN_BYTES = 20
_V4_MAPPED = np.uint64(0xFFFF_0000_0000)

_IPV4 = np.dtype({
    "names": ["version", "total", "ident", "fragment", "protocol"],
    "formats": ["u1", ">u2", ">u2", ">u2", "u1"],
    "offsets": [0, 2, 4, 6, 9],
    "itemsize": _IPV4_MIN_BYTES,
})  # fmt: skip
_IPV6 = np.dtype({
    "names": ["version", "payload", "next"],
    "formats": ["u1", ">u2", "u1"],
    "offsets": [0, 4, 6],
    "itemsize": 40,
})  # fmt: skip
"""GRH is laid out alike."""
_EXTENSION = np.dtype([("next", "u1"), ("size", "u1"), ("fragment", ">u2"), ("ident", ">u4")])
_TCP = np.dtype([
    ("sport", ">u2"), ("dport", ">u2"), ("seq", ">u4"), ("ack", ">u4"), ("offset", "u1"), ("flags", "u1"),
])  # fmt: skip
"""As much as is needed: a segment that was cut behind it still has its place in the stream."""
_TCP_CHECKSUM_AT = 16
_CHECKSUM = np.dtype([("checksum", ">u2")])
_UDP = np.dtype([("sport", ">u2"), ("dport", ">u2"), ("size", ">u2"), ("checksum", ">u2")])
_BTH = np.dtype([("bth", f"V{_BTH_BYTES}")])
_LRH = np.dtype([("lane", "u1"), ("next", "u1"), ("dlid", ">u2"), ("words", ">u2"), ("slid", ">u2")])
_V4_ADDRESSES = np.dtype([("src", ">u4"), ("dst", ">u4")])
_V6_ADDRESSES = np.dtype([("src_hi", ">u8"), ("src_lo", ">u8"), ("dst_hi", ">u8"), ("dst_lo", ">u8")])
_LIDS = np.dtype({"names": ["dst", "src"], "formats": [">u2", ">u2"], "offsets": [2, 6], "itemsize": _LRH_BYTES})


@dataclass(slots=True)
class Parsed:
    """What the frames of one batch brought, in order of frames."""

    tcp: Segments
    ib: IbPackets
    fragments: Fragments

    def joined(self, more: Parsed) -> Parsed:
        """With what the fragments complete, whose data has that of the batch in front."""
        data = more.tcp.data
        tcp, ib = merged(Segments, [self.tcp, more.tcp], data), merged(IbPackets, [self.ib, more.ib], data)
        return Parsed(tcp, ib, self.fragments)


Addresses = tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]
"""Source and destination, each in two halves."""


@dataclass(slots=True)
class _Packets:
    """Rows that stand behind their network header, which is at ``network`` and names what comes next."""

    cursor: Cursor
    network: Ints
    protocol: NDArray[np.uint8]
    addresses: Callable[[Bytes, Ints], Addresses]

    def __len__(self) -> int:
        return len(self.network)

    def pick(self, mask: Mask) -> _Packets:
        if mask.all():
            return self
        return _Packets(self.cursor.pick(mask), self.network[mask], self.protocol[mask], self.addresses)

    def at(self, cursor: Cursor) -> _Packets:
        return _Packets(cursor, self.network, self.protocol, self.addresses)


def parse(
    frames: FrameBatch,
    counts: FrameCounts,
    tcp_ports: frozenset[int] | None = RDS_TCP_PORTS,
    *,
    tcp_checksums: bool = False,
) -> Parsed:
    """Find the TCP segments from or to ``tcp_ports`` (None: all) and the InfiniBand packets in a batch of frames.

    ``tcp_checksums``: those that are wrong are passed over.

    Payload is not copied: the result refers to ``frames.data``. Each frame is counted once in ``counts``.
    """
    counts.frames += len(frames)
    counts.bytes += int(frames.captured.sum())
    cursor, ethertype = network_layer(frames, counts)
    segments: list[Segments] = []
    ib: list[IbPackets] = []
    fragments: list[Fragments] = []
    rest = np.ones(len(cursor), np.bool_)
    for wanted, parser in ((ETHERTYPE_IPV4, _ipv4), (ETHERTYPE_IPV6, _ipv6)):
        mask = ethertype == wanted
        if mask.any():
            packets, pieces = parser(cursor.pick(mask), frames, counts)
            fragments += pieces
            own = _of_protocol(packets, PROTOCOL_TCP)
            segments.append(_tcp(own, frames, counts, tcp_ports, checked=tcp_checksums))
            ib.append(_roce(_of_protocol(packets, PROTOCOL_UDP), frames, counts))
            _count_other_protocols(packets, counts)
            rest &= ~mask
    for wanted, through in ((ETHERTYPE_ROCE, _grh), (NATIVE_INFINIBAND, _lrh)):
        mask = ethertype == wanted
        if mask.any():
            ib.extend(_infiniband(packets, frames, counts) for packets in through(cursor.pick(mask), counts))
            rest &= ~mask
    if rest.any():
        _count_other_ethertypes(ethertype[rest], counts)
    parsed = Parsed(
        merged(Segments, segments, frames.data),
        merged(IbPackets, ib, frames.data),
        merged(Fragments, fragments, frames.data),
    )
    counts.tcp += len(parsed.tcp)
    counts.ib += int(np.count_nonzero(np.diff(parsed.ib.frame, prepend=-1)))
    return parsed


def _ipv4(cursor: Cursor, frames: FrameBatch, counts: FrameCounts) -> tuple[_Packets, list[Fragments]]:
    cursor, headers = cursor.headers(_IPV4, counts)
    size = (headers["version"] & 15).astype(np.int64) * 4
    total = headers["total"].astype(np.int64)
    wire_end = np.where(total == 0, cursor.wire_end, cursor.at + total)
    good = (headers["version"] >> 4 == 4) & (size >= _IPV4_MIN_BYTES) & (wire_end - cursor.at >= size)
    good &= (total != 0) | (wire_end - cursor.at <= MAX_OFFLOAD_BYTES)
    packets = _Packets(cursor.ending(wire_end).behind(size), cursor.at, headers["protocol"], _v4_addresses)
    if not good.all():
        packets, headers = _counted_malformed(packets, good, counts), headers[good]
    bits = headers["fragment"]
    apart = (bits & (_MORE | _PLACE)) != 0
    if not apart.any():
        return packets, []
    place = (bits[apart] & _PLACE).astype(np.int64) * 8
    more = (bits[apart] & _MORE) != 0
    pieces = _fragments(packets.pick(apart), frames, counts, headers["ident"][apart], place, more)
    return packets.pick(~apart), [pieces]


def _ipv6(cursor: Cursor, frames: FrameBatch, counts: FrameCounts) -> tuple[_Packets, list[Fragments]]:
    cursor, headers = cursor.headers(_IPV6, counts)
    payload = headers["payload"].astype(np.int64)
    start = cursor.at + _IPV6.itemsize
    # Nothing stands for what the field cannot hold: jumbograms, and segmentation offload before the length is set.
    wire_end = np.where(payload == 0, cursor.wire_end, start + payload)
    good = (headers["version"] >> 4 == 6) & ((payload != 0) | (wire_end - start <= MAX_OFFLOAD_BYTES))
    packets = _Packets(cursor.ending(wire_end).behind(_IPV6.itemsize), cursor.at, headers["next"], _v6_addresses)
    packets = _counted_malformed(packets, good, counts)
    fragments: list[Fragments] = []
    for _ in range(MAX_EXTENSION_HEADERS):
        extended = any_of(packets.protocol, (_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _DESTINATION))
        if not extended.any():
            break
        packets, pieces = _pass_extension(packets, extended, frames, counts)
        fragments += pieces
    return packets, fragments


def _pass_extension(
    packets: _Packets, extended: Mask, frames: FrameBatch, counts: FrameCounts
) -> tuple[_Packets, list[Fragments]]:
    """Go behind one IPv6 extension header where there is one (RFC 8200 §4, RFC 4302 §2); fragments go no further."""
    cut = extended & (packets.cursor.at + _EXTENSION.itemsize > packets.cursor.end)
    counts.cut += int(cut.sum())
    packets, extended = packets.pick(~cut), extended[~cut]
    kind = packets.protocol[extended]
    _, headers = packets.cursor.pick(extended).headers(_EXTENSION, counts)
    size = (headers["size"].astype(np.int64) + 1) * 8
    size[kind == _FRAGMENT] = _EXTENSION.itemsize
    authentication = kind == _AUTHENTICATION
    size[authentication] = (headers["size"][authentication].astype(np.int64) + 2) * 4
    advance = np.zeros(len(packets), np.int64)
    advance[extended] = size
    protocol = packets.protocol.copy()
    protocol[extended] = headers["next"]
    passed = _Packets(packets.cursor.behind(advance), packets.network, protocol, packets.addresses)
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
    packets: _Packets, frames: FrameBatch, counts: FrameCounts, ident: NDArray[Any], place: Ints, more: Mask
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


def _of_protocol(packets: _Packets, protocol: int) -> _Packets:
    return packets.pick(packets.protocol == protocol)


def _count_other_protocols(packets: _Packets, counts: FrameCounts) -> None:
    other = packets.protocol[~any_of(packets.protocol, (PROTOCOL_TCP, PROTOCOL_UDP))]
    for protocol, number in zip(*np.unique(other, return_counts=True), strict=True):
        counts.other_protocols[int(protocol)] += int(number)


def _count_other_ethertypes(ethertype: Ints, counts: FrameCounts) -> None:
    for value, number in zip(*np.unique(ethertype, return_counts=True), strict=True):
        if value == ETHERTYPE_ARP:
            counts.arp += int(number)
        else:
            known = MIN_ETHERTYPE <= value < UNKNOWN
            counts.other_ethertypes[int(value) if known else 0] += int(number)


def _tcp(
    packets: _Packets, frames: FrameBatch, counts: FrameCounts, ports: frozenset[int] | None, *, checked: bool
) -> Segments:
    possible = packets.cursor.wire_end - packets.cursor.at >= _TCP_MIN_BYTES
    packets = _counted_malformed(packets, possible, counts)
    whole = packets.cursor.at + _TCP.itemsize <= packets.cursor.end
    counts.cut += len(packets) - int(whole.sum())
    packets = packets.pick(whole)
    headers = gather(frames.data, packets.cursor.at, _TCP)
    if ports is not None:
        wanted_ports = tuple(sorted(ports))
        wanted = any_of(headers["sport"], wanted_ports) | any_of(headers["dport"], wanted_ports)
        if not wanted.all():
            counts.tcp_other += len(packets) - int(wanted.sum())
            packets, headers = packets.pick(wanted), headers[wanted]
    payload = packets.cursor.at + (headers["offset"] >> 4).astype(np.int64) * 4
    possible = (headers["offset"] >> 4 >= _TCP_MIN_BYTES // 4) & (payload <= packets.cursor.wire_end)
    if not possible.all():
        packets, headers, payload = _counted_malformed(packets, possible, counts), headers[possible], payload[possible]
    if checked:
        good = _undamaged(packets, frames.data)
        counts.tcp_damaged += len(packets) - int(good.sum())
        packets, headers, payload = packets.pick(good), headers[good], payload[good]
    cursor = packets.cursor
    payload_end = np.maximum(cursor.end, payload)
    return Segments(
        frames.data,
        frames.frame[cursor.row],
        frames.time[cursor.row],
        *packets.addresses(frames.data, packets.network),
        sport=headers["sport"].astype(np.uint16),
        dport=headers["dport"].astype(np.uint16),
        seq=headers["seq"].astype(np.uint32),
        ack=headers["ack"].astype(np.uint32),
        flags=headers["flags"].copy(),
        payload=np.minimum(payload, cursor.end),
        captured=payload_end - payload,
        length=cursor.wire_end - payload,
    )


def _undamaged(packets: _Packets, data: Bytes) -> Mask:
    """Which TCP segments have no wrong checksum. Of one that was not captured to its end nobody knows.

    Nor of one that no frame could carry. Where Linux merged it (GRO), its checksum is that of the pseudo header alone
    [seen]; where an adapter did (LRO), it may be that of its first part. All parts were checked before.
    """
    begin, end = packets.cursor.at, packets.cursor.end
    good = (end < packets.cursor.wire_end) | (end - begin > MAX_FRAME_BYTES)
    whole = np.flatnonzero(~good)
    addresses = packets.addresses(data, packets.network[whole])
    checksum = gather(data, begin[whole] + _TCP_CHECKSUM_AT, _CHECKSUM)["checksum"].astype(np.uint16)
    good[whole] = intact(data, begin[whole], end[whole], checksum, addresses)
    return good


def _counted_malformed(packets: _Packets, good: Mask, counts: FrameCounts) -> _Packets:
    if good.all():
        return packets
    counts.malformed += len(packets) - int(good.sum())
    return packets.pick(good)


def _roce(packets: _Packets, frames: FrameBatch, counts: FrameCounts) -> IbPackets:
    """RoCE v2: UDP to port 4791. Whether it is RDS is not known here."""
    whole = packets.cursor.at + _UDP.itemsize <= packets.cursor.end
    counts.cut += len(packets) - int(whole.sum())
    packets = packets.pick(whole)
    headers = gather(frames.data, packets.cursor.at, _UDP)
    wanted = headers["dport"] == ROCE_UDP_PORT
    counts.udp_other += len(packets) - int(wanted.sum())
    packets, headers = packets.pick(wanted), headers[wanted]
    cursor = packets.cursor
    size = headers["size"].astype(np.int64)
    told = (size >= _UDP.itemsize) & (cursor.at + size <= cursor.wire_end)
    cursor = cursor.ending(np.where(told, cursor.at + size, cursor.wire_end))
    packets = packets.at(cursor.behind(_UDP.itemsize))
    return _infiniband(_cut_bursts(packets, headers["checksum"] != 0), frames, counts)


def _cut_bursts(packets: _Packets, checked: Mask) -> _Packets:
    """A row for each packet of the bursts among the datagrams with a UDP checksum."""
    cursor = packets.cursor
    length = cursor.wire_end - cursor.at
    size = length.copy()
    possible = checked & (cursor.end == cursor.wire_end) & (length >= 2 * (_BTH_BYTES + ICRC_BYTES))
    if not possible.any():
        return packets
    from rdstool.capture.packets.bursts import packet_bytes  # noqa: PLC0415 - seldom needed, and loads the ICRC

    for row in np.flatnonzero(possible):
        network = packets.network[row]
        size[row] = packet_bytes(cursor.data[network : cursor.end[row]].tobytes(), int(cursor.at[row] - network))
    if (size == length).all():
        return packets
    count = np.maximum(-(-length // np.maximum(size, 1)), 1)
    rows = np.repeat(np.arange(len(packets)), count)
    place = np.arange(len(rows)) - np.repeat(np.cumsum(count) - count, count)
    at = cursor.at[rows] + place * size[rows]
    wire_end = np.minimum(at + size[rows], cursor.wire_end[rows])
    cut = Cursor(cursor.data, cursor.row[rows], at, np.minimum(cursor.end[rows], wire_end), wire_end)
    return _Packets(cut, packets.network[rows], packets.protocol[rows], packets.addresses)


def _grh(cursor: Cursor, counts: FrameCounts) -> list[_Packets]:
    cursor, headers = cursor.headers(_IPV6, counts)
    size = headers["payload"].astype(np.int64)
    start = cursor.at + _IPV6.itemsize
    ended = cursor.ending(np.where(size == 0, cursor.wire_end, start + size)).behind(_IPV6.itemsize)
    packets = _Packets(ended, cursor.at, headers["next"], _v6_addresses)
    good = (headers["version"] >> 4 == 6) & (headers["next"] == _GRH_NEXT_BTH)
    return [_counted_malformed(packets, good, counts)]


def _lrh(cursor: Cursor, counts: FrameCounts) -> list[_Packets]:
    """Native InfiniBand; packets that are not of its transport (IPv6 and raw EtherType) count as another link."""
    cursor, headers = cursor.headers(_LRH, counts)
    kind = headers["next"] & 3
    words = (headers["words"] & 0x7FF).astype(np.int64)
    ended = cursor.ending(np.where(words == 0, cursor.wire_end, cursor.at + words * 4))
    local = ended.pick(kind == NextHeader.BTH)
    counts.other_links[LINKTYPE_INFINIBAND] += int((kind < NextHeader.BTH).sum())
    without_grh = _Packets(local.behind(_LRH.itemsize), local.at, np.zeros(len(local), np.uint8), _lids)
    return [without_grh, *_grh(ended.pick(kind == NextHeader.GRH).behind(_LRH.itemsize), counts)]


def _infiniband(packets: _Packets, frames: FrameBatch, counts: FrameCounts) -> IbPackets:
    """Rows that stand at their BTH and end behind the ICRC."""
    behind = packets.cursor.at + _BTH_BYTES
    possible = behind + ICRC_BYTES <= packets.cursor.wire_end
    packets, behind = _counted_malformed(packets, possible, counts), behind[possible]
    whole = behind <= packets.cursor.end
    counts.cut += len(packets) - int(whole.sum())
    packets, behind = packets.pick(whole), behind[whole]
    cursor = packets.cursor
    end = cursor.wire_end - ICRC_BYTES
    return IbPackets(
        frames.data,
        frames.frame[cursor.row],
        frames.time[cursor.row],
        *packets.addresses(frames.data, packets.network),
        network=np.full(len(packets), -1, np.int64) if packets.addresses is _lids else packets.network,
        bth=cursor.at,
        captured=np.minimum(cursor.end, end) - behind,
        length=end - behind,
    )


def _v4_addresses(data: Bytes, network: Ints) -> Addresses:
    pairs = gather(data, network + 12, _V4_ADDRESSES)
    zeros = np.zeros(len(network), np.uint64)
    return zeros, pairs["src"] | _V4_MAPPED, zeros, pairs["dst"] | _V4_MAPPED


def _v6_addresses(data: Bytes, network: Ints) -> Addresses:
    pairs = gather(data, network + 8, _V6_ADDRESSES)
    src_hi, src_lo, dst_hi, dst_lo = (pairs[name].astype(np.uint64) for name in pairs.dtype.names or ())
    return src_hi, src_lo, dst_hi, dst_lo


def _lids(data: Bytes, network: Ints) -> Addresses:
    pairs = gather(data, network, _LIDS)
    zeros = np.zeros(len(network), np.uint64)
    return zeros, pairs["src"].astype(np.uint64), zeros, pairs["dst"].astype(np.uint64)


Rows = TypeVar("Rows", Segments, IbPackets, Fragments)


def merged(kind: type[Rows], parts: list[Rows], data: Bytes) -> Rows:
    """One set of columns out of several, in order of frames; what they refer to is in ``data``."""
    filled = [part for part in parts if len(part)]
    if len(filled) == 1:
        return filled[0]
    if not filled:
        return kind(data, *(np.empty(0, dtype) for dtype in kind.dtypes().values()))
    order = np.argsort(np.concatenate([part.frame for part in filled]), kind="stable")
    together = zip(*(part.columns() for part in filled), strict=True)
    return kind(data, *(np.concatenate(columns)[order] for columns in together))
