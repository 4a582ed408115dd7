"""Network headers: from IP, GRH and LRH to TCP segments and InfiniBand packets.

Sources: RFC 791 and 8200 (IP), 9293 (TCP), 768 (UDP); InfiniBand Architecture vol. 1 §7.7 (LRH), §8.3 (GRH), annexes
A16 and A17 (RoCE).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dissectors.wire.encapsulation import ICRC_BYTES, ROCE_UDP_PORT, NextHeader
from dissectors.wire.rds import TCP_PORT
from rdstool.capture.columns import Bytes, Fragments, FrameBatch, IbPackets, Ints, Segments
from rdstool.capture.counts import FrameCounts
from rdstool.capture.gather import gather
from rdstool.capture.packets.checksums import intact
from rdstool.capture.packets.cursor import Cursor, Mask
from rdstool.capture.packets.ip import (
    IPV6,
    Addresses,
    Carried,
    counted_malformed,
    ipv4,
    ipv6,
    v6_addresses,
)
from rdstool.capture.packets.links import (
    ETHERTYPE_ARP,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    ETHERTYPE_ROCE,
    LINKTYPE_INFINIBAND,
    MIN_ETHERTYPE,
    NATIVE_INFINIBAND,
    UNKNOWN,
    Named,
    any_of,
    joined,
    network_layer,
)
from rdstool.capture.packets.tunnels import BY_ETHERTYPE, BY_PORT, BY_PROTOCOL, MAX_TUNNELS, REFUSED, Opener
from rdstool.capture.streams import LID_PREFIX

RDS_TCP_PORTS = frozenset({TCP_PORT})
PROTOCOL_TCP = 6
PROTOCOL_UDP = 17
MAX_FRAME_BYTES = 9216
"""The largest jumbo frame of common Ethernet switches."""

_GRH_NEXT_BTH = 0x1B
_LRH_BYTES = 8
_BTH_BYTES = 12
_TCP_MIN_BYTES = 20

_TCP = np.dtype([
    ("sport", ">u2"), ("dport", ">u2"), ("seq", ">u4"), ("ack", ">u4"), ("offset", "u1"), ("flags", "u1"),
])  # fmt: skip
"""As much as is needed: a segment that was cut behind it still has its place in the stream."""
_TCP_CHECKSUM_AT = 16
_CHECKSUM = np.dtype([("checksum", ">u2")])
_UDP = np.dtype([("sport", ">u2"), ("dport", ">u2"), ("size", ">u2"), ("checksum", ">u2")])
_LRH = np.dtype([("lane", "u1"), ("next", "u1"), ("dlid", ">u2"), ("words", ">u2"), ("slid", ">u2")])
_LID_HIGH = np.uint64(int.from_bytes(LID_PREFIX[:8], "big"))
_LID_LOW = np.uint64(int.from_bytes(LID_PREFIX[8:] + bytes(2), "big"))
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
    counts.snapped += int(np.count_nonzero(frames.captured < frames.wire))
    found = _Found(frames, counts, tcp_ports, tcp_checksums)
    named = network_layer(frames, counts)
    for depth in range(MAX_TUNNELS + 1):
        found.inside = []
        _read(named, found)
        if not found.inside:
            break
        named = joined(frames.data, found.inside)
        if depth == 0:
            counts.tunnelled += len(named[0])
    else:
        counts.too_deep += len(named[0])
    parsed = Parsed(
        merged(Segments, found.segments, frames.data),
        merged(IbPackets, found.ib, frames.data),
        merged(Fragments, found.fragments, frames.data),
    )
    counts.tcp += len(parsed.tcp)
    counts.ib += int(np.count_nonzero(np.diff(parsed.ib.frame, prepend=-1)))
    return parsed


@dataclass(slots=True)
class _Found:
    """What was asked for, and what is found in a batch of frames."""

    frames: FrameBatch
    counts: FrameCounts
    tcp_ports: frozenset[int] | None
    tcp_checksums: bool
    segments: list[Segments] = field(default_factory=list)
    ib: list[IbPackets] = field(default_factory=list)
    fragments: list[Fragments] = field(default_factory=list)
    inside: list[Named] = field(default_factory=list)
    """What tunnels carry that is still to be read."""

    def open(self, opener: Opener, cursor: Cursor) -> int:
        """Go behind the headers of tunnels; returns how many rows are none."""
        behind, ethertype = opener(cursor, self.counts)
        known = ethertype != REFUSED
        if known.any():
            self.inside.append((behind.pick(known), ethertype[known]))
        return len(known) - int(known.sum())


def _read(named: Named, found: _Found) -> None:
    """Read what one layer of network headers carries."""
    cursor, ethertype = named
    frames, counts = found.frames, found.counts
    rest = np.ones(len(cursor), np.bool_)
    for wanted, parser in ((ETHERTYPE_IPV4, ipv4), (ETHERTYPE_IPV6, ipv6)):
        mask = ethertype == wanted
        if mask.any():
            packets, pieces = parser(cursor.pick(mask), frames, counts)
            found.fragments += pieces
            own = _of_protocol(packets, PROTOCOL_TCP)
            found.segments.append(_tcp(own, frames, counts, found.tcp_ports, checked=found.tcp_checksums))
            _udp(_of_protocol(packets, PROTOCOL_UDP), found)
            _other_protocols(packets, found)
            rest &= ~mask
    for wanted, through in ((ETHERTYPE_ROCE, _grh), (NATIVE_INFINIBAND, _lrh)):
        mask = ethertype == wanted
        if mask.any():
            found.ib.extend(_infiniband(packets, frames, counts) for packets in through(cursor.pick(mask), counts))
            rest &= ~mask
    if rest.any():
        _other_ethertypes(cursor.pick(rest), ethertype[rest], found)


def _of_protocol(packets: Carried, protocol: int) -> Carried:
    return packets.pick(packets.protocol == protocol)


def _other_protocols(packets: Carried, found: _Found) -> None:
    other = packets.pick(~any_of(packets.protocol, (PROTOCOL_TCP, PROTOCOL_UDP)))
    for protocol, number in zip(*np.unique(other.protocol, return_counts=True), strict=True):
        count, opener = int(number), BY_PROTOCOL.get(int(protocol))
        if opener is not None:
            count = found.open(opener, _of_protocol(other, protocol).cursor)
        if count:
            found.counts.other_protocols[int(protocol)] += count


def _other_ethertypes(cursor: Cursor, ethertype: Ints, found: _Found) -> None:
    counts = found.counts
    for value, number in zip(*np.unique(ethertype, return_counts=True), strict=True):
        count, opener = int(number), BY_ETHERTYPE.get(int(value))
        if opener is not None:
            count = found.open(opener, cursor.pick(ethertype == value))
        if value == ETHERTYPE_ARP:
            counts.arp += count
        elif count:
            known = MIN_ETHERTYPE <= value < UNKNOWN
            counts.other_ethertypes[int(value) if known else 0] += count


def _tcp(
    packets: Carried, frames: FrameBatch, counts: FrameCounts, ports: frozenset[int] | None, *, checked: bool
) -> Segments:
    possible = packets.cursor.wire_end - packets.cursor.at >= _TCP_MIN_BYTES
    packets = counted_malformed(packets, possible, counts)
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
        packets, headers, payload = counted_malformed(packets, possible, counts), headers[possible], payload[possible]
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


def _undamaged(packets: Carried, data: Bytes) -> Mask:
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


def _udp(packets: Carried, found: _Found) -> None:
    """RoCE v2, which is UDP to port 4791 (whether it is RDS is not known here), and tunnels."""
    counts = found.counts
    whole = packets.cursor.at + _UDP.itemsize <= packets.cursor.end
    counts.cut += len(packets) - int(whole.sum())
    packets = packets.pick(whole)
    headers = gather(found.frames.data, packets.cursor.at, _UDP)
    cursor = packets.cursor
    size = headers["size"].astype(np.int64)
    told = (size >= _UDP.itemsize) & (cursor.at + size <= cursor.wire_end)
    cursor = cursor.ending(np.where(told, cursor.at + size, cursor.wire_end))
    packets = packets.at(cursor.behind(_UDP.itemsize))
    wanted = headers["dport"] == ROCE_UDP_PORT
    if not wanted.all():
        _other_ports(packets.pick(~wanted), headers["dport"][~wanted], found)
        packets, headers = packets.pick(wanted), headers[wanted]
    found.ib.append(_infiniband(_cut_bursts(packets, headers["checksum"] != 0), found.frames, counts))


def _other_ports(packets: Carried, ports: NDArray[Any], found: _Found) -> None:
    found.counts.udp_other += len(packets)
    for port, opener in BY_PORT.items():
        mask = ports == port
        if mask.any():
            tunnels = packets.cursor.pick(mask)
            found.counts.udp_other -= len(tunnels) - found.open(opener, tunnels)


def _cut_bursts(packets: Carried, checked: Mask) -> Carried:
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
    return Carried(cut, packets.network[rows], packets.protocol[rows], packets.addresses)


def _grh(cursor: Cursor, counts: FrameCounts) -> list[Carried]:
    cursor, headers = cursor.headers(IPV6, counts)
    size = headers["payload"].astype(np.int64)
    start = cursor.at + IPV6.itemsize
    ended = cursor.ending(np.where(size == 0, cursor.wire_end, start + size)).behind(IPV6.itemsize)
    packets = Carried(ended, cursor.at, headers["next"], v6_addresses)
    good = (headers["version"] >> 4 == 6) & (headers["next"] == _GRH_NEXT_BTH)
    return [counted_malformed(packets, good, counts)]


def _lrh(cursor: Cursor, counts: FrameCounts) -> list[Carried]:
    """Native InfiniBand; packets that are not of its transport (IPv6 and raw EtherType) count as another link."""
    cursor, headers = cursor.headers(_LRH, counts)
    kind = headers["next"] & 3
    words = (headers["words"] & 0x7FF).astype(np.int64)
    ended = cursor.ending(np.where(words == 0, cursor.wire_end, cursor.at + words * 4))
    local = ended.pick(kind == NextHeader.BTH)
    counts.other_links[LINKTYPE_INFINIBAND] += int((kind < NextHeader.BTH).sum())
    without_grh = Carried(local.behind(_LRH.itemsize), local.at, np.zeros(len(local), np.uint8), _lids)
    return [without_grh, *_grh(ended.pick(kind == NextHeader.GRH).behind(_LRH.itemsize), counts)]


def _infiniband(packets: Carried, frames: FrameBatch, counts: FrameCounts) -> IbPackets:
    """Rows that stand at their BTH and end behind the ICRC."""
    behind = packets.cursor.at + _BTH_BYTES
    possible = behind + ICRC_BYTES <= packets.cursor.wire_end
    packets, behind = counted_malformed(packets, possible, counts), behind[possible]
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


def _lids(data: Bytes, network: Ints) -> Addresses:
    pairs = gather(data, network, _LIDS)
    high = np.full(len(network), _LID_HIGH, np.uint64)
    return high, _LID_LOW | pairs["src"], high, _LID_LOW | pairs["dst"]


Rows = TypeVar("Rows", Segments, IbPackets, Fragments)


def merged(kind: type[Rows], parts: list[Rows], data: Bytes) -> Rows:
    """One set of columns out of several, in order of frames; what they refer to is in ``data``."""
    filled = [part for part in parts if len(part)]
    if len(filled) == 1:
        return filled[0]
    if not filled:
        return kind.none(data)
    order = np.argsort(np.concatenate([part.frame for part in filled]), kind="stable")
    together = zip(*(part.columns() for part in filled), strict=True)
    return kind(data, *(np.concatenate(columns)[order] for columns in together))
