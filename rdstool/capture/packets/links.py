"""Link layers: from the start of each frame to its network header and the EtherType that names it.

Link types are the LINKTYPE values of https://www.tcpdump.org/linktypes.html; the layouts are from there too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dissectors.wire.encapsulation import ROCE_ETHERTYPE
from rdstool.capture.columns import NO_PACKET, Bytes, FrameBatch, Ints
from rdstool.capture.counts import FrameCounts
from rdstool.capture.gather import distinct, gather
from rdstool.capture.packets.cursor import Cursor, Mask

ETHERTYPE_IPV4 = 0x0800
ETHERTYPE_ARP = 0x0806
ETHERTYPE_IPV6 = 0x86DD
ETHERTYPE_ROCE = ROCE_ETHERTYPE
ETHERTYPE_BRIDGED = 0x6558
"""An Ethernet frame, "transparent Ethernet bridging"."""
NATIVE_INFINIBAND = 0x1_0000
"""Stands for a local route header; not an EtherType."""
UNKNOWN = 0x1_0001
"""Stands for what the link header does not name."""
MIN_ETHERTYPE = 0x0600
"""Smaller values are lengths of 802.3 frames."""
_VN_TAG, _E_TAG = 0x8926, 0x893F
PORT_TAGS = (_VN_TAG, _E_TAG)
"""VN-Tag and that of IEEE 802.1BR: between a switch and what gives it more ports."""
_TAG_BYTES = {0x8100: 4, 0x88A8: 4, 0x9100: 4, _VN_TAG: 6, _E_TAG: 8}
"""Those of IEEE 802.1Q and 802.1ad, what was before 802.1ad, and tags of ports: the tag and the EtherType behind it."""
TAG_ETHERTYPES = tuple(_TAG_BYTES)
MAX_TAGS = 4

LINKTYPE_NULL = 0
LINKTYPE_ETHERNET = 1
LINKTYPE_LOOP = 108
LINKTYPE_LINUX_SLL = 113
LINKTYPE_ERF = 197
LINKTYPE_IPOIB = 242
LINKTYPE_INFINIBAND = 247
LINKTYPE_LINUX_SLL2 = 276
LINKTYPE_RAW = 101
LINKTYPES_RAW = (12, 14, LINKTYPE_RAW, 228, 229)
"""IP without link header; 12 and 14 are what BSDs write, 228 and 229 are for one version each."""

_IPV6_FAMILIES = (10, 24, 28, 30)
"""AF_INET6 of Linux; NetBSD and OpenBSD; FreeBSD; macOS. AF_INET is 2 everywhere."""
_ERF_HEADER_BYTES = 16
_ERF_EXTENSION_BYTES = 8
_MAX_ERF_EXTENSIONS = 8
_ERF_TYPE_MASK = 0x7F
_ERF_MORE = 0x80
_ERF_ETHERNET = (2, 11, 16, 20)
"""ETH, COLOR_ETH, DSM_COLOR_ETH, COLOR_HASH_ETH: two bytes of padding, then Ethernet."""
_ERF_INFINIBAND = 21
_ERF_IP = (22, 23)

_ETHERNET = np.dtype({"names": ["ethertype"], "formats": [">u2"], "offsets": [12], "itemsize": 14})
_SLL = np.dtype({"names": ["ethertype"], "formats": [">u2"], "offsets": [14], "itemsize": 16})
_SLL2 = np.dtype({"names": ["ethertype"], "formats": [">u2"], "offsets": [0], "itemsize": 20})
_IPOIB = np.dtype({"names": ["ethertype"], "formats": [">u2"], "offsets": [40], "itemsize": 44})
"""IP over InfiniBand (RFC 4391 §6): room for a GRH, or the receiver's address, in front."""
_TYPE = np.dtype([("ethertype", ">u2")])
_FAMILY = np.dtype([("little", "<u4")])
_BYTE = np.dtype([("value", "u1")])
_ERF = np.dtype({"names": ["type"], "formats": ["u1"], "offsets": [8], "itemsize": _ERF_HEADER_BYTES})
_ERF_EXTENSION = np.dtype({"names": ["type"], "formats": ["u1"], "offsets": [0], "itemsize": _ERF_EXTENSION_BYTES})

Named = tuple[Cursor, Ints]
"""Rows that stand at their network header, and the EtherType of each."""


def network_layer(frames: FrameBatch, counts: FrameCounts) -> Named:
    """Pass the link headers, tags included, of all frames whose link type is known; sorted by row."""
    rows = np.arange(len(frames), dtype=np.int64)
    everything = Cursor(frames.data, rows, frames.offset, frames.offset + frames.captured, frames.offset + frames.wire)
    parts: list[Named] = []
    for link in distinct(frames.link).tolist():
        part = everything.pick(frames.link == link)
        parser = _PARSERS.get(link)
        if link == NO_PACKET:
            counts.no_packet += len(part)
        elif parser is None:
            counts.other_links[link] += len(part)
        else:
            parts.append(parser(part, counts))
    return _pass_tags(*joined(frames.data, parts), counts)


def bridged(cursor: Cursor, counts: FrameCounts) -> Named:
    """Pass the link header of Ethernet frames in tunnels, VLAN tags included."""
    return _pass_tags(*_ethernet(cursor, counts), counts)


def joined(data: Bytes, parts: list[Named]) -> Named:
    """One set of rows out of several, in order."""
    if len(parts) == 1:
        return parts[0]
    none = np.empty(0, np.int64)
    cursors = [cursor for cursor, _ in parts]
    columns = [
        np.concatenate([none, *column])
        for column in (
            [cursor.row for cursor in cursors],
            [cursor.at for cursor in cursors],
            [cursor.end for cursor in cursors],
            [cursor.wire_end for cursor in cursors],
            [ethertype for _, ethertype in parts],
        )
    ]
    order = np.argsort(columns[0], kind="stable")
    row, at, end, wire_end, ethertype = (column[order] for column in columns)
    return Cursor(data, row, at, end, wire_end), ethertype


def _pass_tags(cursor: Cursor, ethertype: Ints, counts: FrameCounts) -> Named:
    """Go behind tags, of VLANs or of ports. More than MAX_TAGS stay where they are, with the EtherType of a tag."""
    for _ in range(MAX_TAGS):
        tagged = any_of(ethertype, TAG_ETHERTYPES)
        if not tagged.any():
            break
        size = np.zeros(len(cursor), np.int64)
        for tag, tag_bytes in _TAG_BYTES.items():
            size[ethertype == tag] = tag_bytes
        cut = tagged & (cursor.at + size > cursor.end)
        if cut.any():
            counts.cut += int(cut.sum())
            cursor, ethertype, tagged, size = cursor.pick(~cut), ethertype[~cut], tagged[~cut], size[~cut]
        cursor = cursor.behind(size)
        ethertype = ethertype.copy()
        ethertype[tagged] = gather(cursor.data, cursor.at[tagged] - _TYPE.itemsize, _TYPE)["ethertype"]
    return cursor, ethertype


def any_of(values: NDArray[np.integer[Any]], wanted: tuple[int, ...]) -> Mask:
    """Tell which values are among a few; faster than np.isin for those."""
    mask: Mask = np.zeros(len(values), np.bool_)
    for value in wanted:
        mask |= values == value
    return mask


def _header_with_ethertype(dtype: np.dtype[np.void]) -> Callable[[Cursor, FrameCounts], Named]:
    def parse(cursor: Cursor, counts: FrameCounts) -> Named:
        whole, headers = cursor.headers(dtype, counts)
        return whole.behind(dtype.itemsize), headers["ethertype"].astype(np.int64)

    return parse


_ethernet = _header_with_ethertype(_ETHERNET)


def raw_ip(cursor: Cursor, counts: FrameCounts) -> Named:
    """IP of the version that its first byte tells."""
    whole, first = cursor.headers(_BYTE, counts)
    version = first["value"] >> 4
    return whole, np.select([version == 4, version == 6], [ETHERTYPE_IPV4, ETHERTYPE_IPV6], UNKNOWN).astype(np.int64)


def _loopback(cursor: Cursor, counts: FrameCounts) -> Named:
    """An address family in the byte order of the machine that captured (NULL) or of the network (LOOP)."""
    whole, headers = cursor.headers(_FAMILY, counts)
    little = headers["little"]
    family = np.where(little > 0xFFFF, little.byteswap(), little)
    ethertype = np.select([family == 2, any_of(family, _IPV6_FAMILIES)], [ETHERTYPE_IPV4, ETHERTYPE_IPV6], UNKNOWN)
    return whole.behind(_FAMILY.itemsize), ethertype.astype(np.int64)


def _infiniband(cursor: Cursor, _counts: FrameCounts) -> Named:
    return cursor, np.full(len(cursor), NATIVE_INFINIBAND, np.int64)


def _erf(cursor: Cursor, counts: FrameCounts) -> Named:
    """ERF records (Endace): 16 bytes, extension headers of 8, then a frame of the kind that the type names."""
    cursor, headers = cursor.headers(_ERF, counts)
    kind = headers["type"] & _ERF_TYPE_MASK
    more = (headers["type"] & _ERF_MORE) != 0
    cursor = cursor.behind(_ERF_HEADER_BYTES)
    for _ in range(_MAX_ERF_EXTENSIONS):
        if not more.any():
            break
        cut = more & (cursor.at + _ERF_EXTENSION_BYTES > cursor.end)
        counts.cut += int(cut.sum())
        cursor, kind, more = cursor.pick(~cut), kind[~cut], more[~cut]
        _, extensions = cursor.pick(more).headers(_ERF_EXTENSION, counts)
        cursor = cursor.behind(np.where(more, _ERF_EXTENSION_BYTES, 0))
        more[more] = (extensions["type"] & _ERF_MORE) != 0
    ethernet, infiniband, ip = any_of(kind, _ERF_ETHERNET), kind == _ERF_INFINIBAND, any_of(kind, _ERF_IP)
    counts.other_links[LINKTYPE_ERF] += int((~(ethernet | infiniband | ip)).sum())
    parts = [
        _ethernet(cursor.pick(ethernet).behind(2), counts),
        _infiniband(cursor.pick(infiniband), counts),
        raw_ip(cursor.pick(ip), counts),
    ]
    return joined(cursor.data, parts)


_PARSERS: dict[int, Callable[[Cursor, FrameCounts], Named]] = {
    LINKTYPE_NULL: _loopback,
    LINKTYPE_ETHERNET: _ethernet,
    LINKTYPE_LOOP: _loopback,
    LINKTYPE_LINUX_SLL: _header_with_ethertype(_SLL),
    LINKTYPE_LINUX_SLL2: _header_with_ethertype(_SLL2),
    LINKTYPE_ERF: _erf,
    LINKTYPE_IPOIB: _header_with_ethertype(_IPOIB),
    LINKTYPE_INFINIBAND: _infiniband,
    **dict.fromkeys(LINKTYPES_RAW, raw_ip),
}
