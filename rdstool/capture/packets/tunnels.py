"""Tunnels: headers behind which another packet begins, with a link or network header of its own.

Each is told by what stands before it (an IP protocol, a UDP port, an EtherType), and tells the EtherType of what it
carries. A header that is not what its place says it is gives REFUSED: it is counted there, as if this were not known.

Sources: RFC 2003 and 4213 (IP in IP), 2784, 2890 and 7637 (GRE, NVGRE), 3032, 4023, 4385 and 7510 (MPLS), 7348 (VXLAN),
8926 (GENEVE), 3378 (EtherIP), 2516 (PPPoE), 8300 (NSH), 8986 (Ethernet over SRv6), draft-ietf-nvo3-vxlan-gpe,
draft-foschiano-erspan; IEEE 802.1Q §9.7 (MAC-in-MAC); 3GPP TS 29.281 §5 (GTP-U).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdstool.capture.columns import Ints
from rdstool.capture.counts import FrameCounts
from rdstool.capture.packets.cursor import Cursor
from rdstool.capture.packets.links import (
    ETHERTYPE_BRIDGED,
    ETHERTYPE_IPV4,
    ETHERTYPE_IPV6,
    ETHERTYPE_ROCE,
    PORT_TAGS,
    TAG_ETHERTYPES,
    Named,
    any_of,
    bridged,
    raw_ip,
)

MAX_TUNNELS = 8
"""Headers of tunnels in one frame; a mirrored packet of an overlay over MPLS has five."""
REFUSED = 0x1_0002
"""Stands for what cannot be read in here; not an EtherType."""

MPLS_ETHERTYPES = (0x8847, 0x8848)
"""Downstream and upstream assigned labels."""
_ETHERTYPE_PPPOE = 0x8864
"""A session; what begins and ends one has a type of its own."""
_ETHERTYPE_MAC_IN_MAC = 0x88E7
_ETHERTYPE_NSH = 0x894F
ON_LINKS = (*MPLS_ETHERTYPES, _ETHERTYPE_PPPOE, _ETHERTYPE_MAC_IN_MAC, _ETHERTYPE_NSH, *PORT_TAGS)
"""What may come first in a frame, or before what does; other tunnels have IP in front."""
_ETHERTYPE_ERSPAN = 0x88BE
_ETHERTYPE_ERSPAN_3 = 0x22EB
_GTP_EXTENSION = 0x1_0003
"""Stands for the type of an extension header, or for none, of GTP-U; not an EtherType."""
_RAW_IP = 0x1_0004
"""Stands for IP of either version; not an EtherType."""
_FRAMES = (ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_ROCE, *TAG_ETHERTYPES)
"""What tells an Ethernet frame where nothing says that there is one."""

_GRE = np.dtype([("flags", ">u2"), ("protocol", ">u2")])
_GRE_CHECKSUM, _GRE_ROUTING, _GRE_KEY, _GRE_SEQUENCE, _GRE_VERSION = 0x8000, 0x4000, 0x2000, 0x1000, 0x0007
_ERSPAN_2 = np.dtype([("version", "u1"), ("rest", "V7")])
_ERSPAN_3 = np.dtype([("version", "u1"), ("rest", "V9"), ("flags", ">u2")])
_ERSPAN_FRAME_TYPE, _ERSPAN_SUBHEADER = 0x7C00, 0x0001
_VXLAN = np.dtype([("flags", "u1"), ("rest", "V2"), ("next", "u1"), ("vni", "V4")])
_VXLAN_VNI, _VXLAN_NEXT = 0x08, 0x04
_NSH = np.dtype([("head", ">u2"), ("metadata", "u1"), ("next", "u1"), ("path", "V4")])
_NSH_VERSION, _NSH_WORDS, _NSH_MIN_WORDS = 0xC000, 0x003F, 2
_NEXT_PROTOCOLS = {1: ETHERTYPE_IPV4, 2: ETHERTYPE_IPV6, 3: ETHERTYPE_BRIDGED, 4: _ETHERTYPE_NSH, 5: MPLS_ETHERTYPES[0]}
"""Of VXLAN GPE and NSH alike."""
_GENEVE = np.dtype([("options", "u1"), ("flags", "u1"), ("protocol", ">u2"), ("vni", "V4")])
_ETHERIP = np.dtype([("version", ">u2")])
_PPPOE = np.dtype([("version", "u1"), ("code", "u1"), ("session", "V4"), ("protocol", ">u2")])
_PPP_PROTOCOLS = {0x21: ETHERTYPE_IPV4, 0x57: ETHERTYPE_IPV6, 0x281: MPLS_ETHERTYPES[0], 0x283: MPLS_ETHERTYPES[1]}
_SERVICE_TAG_BYTES = 4
"""The tag of MAC-in-MAC in front of the customer's frame."""
_GTP = np.dtype([("flags", "u1"), ("type", "u1"), ("rest", "V6")])
_GTP_NEXT = np.dtype([("type", "u1"), ("words", "u1")])
"""The last byte of a header, and the first of an extension header behind it: its length in units of 4 bytes."""
_GTP_VERSION, _GTP_EXTENDED, _GTP_OPTIONAL, _GTP_OPTIONAL_BYTES = 0x30, 0x04, 0x07, 4
_GTP_USER_DATA = 255
_MPLS = np.dtype({
    "names": ["entry", "first", "ethertype", "behind_word"],
    "formats": [">u4", "u1", ">u2", ">u2"],
    "offsets": [0, 4, 16, 20],
    "itemsize": 22,
})  # fmt: skip
"""An entry of the label stack, and what may be in the packet behind it: nothing tells what that is."""
_MPLS_BYTES, _CONTROL_WORD_BYTES = 4, 4
_MPLS_BOTTOM = 0x100

Headers = NDArray[Any]
Opener = Callable[[Cursor, FrameCounts], Named]
"""From rows that stand at the header of a tunnel to those that stand behind it, with the EtherType of what it carries;
those that are cut off in the header are counted and left out."""


def _tunnel(header: np.dtype[Any], read: Callable[[Headers], tuple[Ints | int, Ints]]) -> Opener:
    """``read`` gives the size of each header, and the EtherType behind it."""

    def opened(cursor: Cursor, counts: FrameCounts) -> Named:
        whole, headers = cursor.headers(header, counts)
        size, ethertype = read(headers)
        return whole.behind(size), ethertype

    return opened


def _carrying(ethertype: int) -> Opener:
    """IP tells it all."""
    return lambda cursor, _counts: (cursor, np.full(len(cursor), ethertype, np.int64))


def _where(known: NDArray[np.bool_], ethertype: Ints | int) -> Ints:
    return np.where(known, ethertype, REFUSED).astype(np.int64)


def _gre(headers: Headers) -> tuple[Ints, Ints]:
    """Version 1 carries PPP; source routes (RFC 1701) are not used any more."""
    flags, protocol = headers["flags"].astype(np.int64), headers["protocol"].astype(np.int64)
    optional = sum((flags & flag != 0).astype(np.int64) for flag in (_GRE_CHECKSUM, _GRE_KEY, _GRE_SEQUENCE))
    # The first type of ERSPAN has no header of its own, and no sequence number.
    plain = (protocol == _ETHERTYPE_ERSPAN) & (flags & _GRE_SEQUENCE == 0)
    known = flags & (_GRE_ROUTING | _GRE_VERSION) == 0
    return _GRE.itemsize + 4 * optional, _where(known, np.where(plain, ETHERTYPE_BRIDGED, protocol))


def _erspan_2(headers: Headers) -> tuple[int, Ints]:
    return _ERSPAN_2.itemsize, _where(headers["version"] >> 4 == 1, ETHERTYPE_BRIDGED)


def _erspan_3(headers: Headers) -> tuple[Ints, Ints]:
    flags = headers["flags"].astype(np.int64)
    known = (headers["version"] >> 4 == 2) & (flags & _ERSPAN_FRAME_TYPE == 0)
    return _ERSPAN_3.itemsize + 8 * (flags & _ERSPAN_SUBHEADER), _where(known, ETHERTYPE_BRIDGED)


def _vxlan(headers: Headers) -> tuple[int, Ints]:
    return _VXLAN.itemsize, _where(headers["flags"] & _VXLAN_VNI != 0, ETHERTYPE_BRIDGED)


def _ethertypes(codes: NDArray[Any], known: dict[int, int]) -> Ints:
    return np.select([codes == code for code in known], list(known.values()), REFUSED).astype(np.int64)


def _vxlan_gpe(headers: Headers) -> tuple[int, Ints]:
    kinds = _ethertypes(headers["next"], _NEXT_PROTOCOLS)
    return _VXLAN.itemsize, np.where(headers["flags"] & _VXLAN_NEXT != 0, kinds, _vxlan(headers)[1]).astype(np.int64)


def _geneve(headers: Headers) -> tuple[Ints, Ints]:
    size = _GENEVE.itemsize + 4 * (headers["options"] & 0x3F).astype(np.int64)
    return size, _where(headers["options"] >> 6 == 0, headers["protocol"].astype(np.int64))


def _etherip(headers: Headers) -> tuple[int, Ints]:
    return _ETHERIP.itemsize, _where(headers["version"] == 0x3000, ETHERTYPE_BRIDGED)


def _pppoe(headers: Headers) -> tuple[int, Ints]:
    session = (headers["version"] == 0x11) & (headers["code"] == 0)
    return _PPPOE.itemsize, _where(session, _ethertypes(headers["protocol"], _PPP_PROTOCOLS))


def _mac_in_mac(cursor: Cursor, counts: FrameCounts) -> Named:
    return bridged(cursor.behind(_SERVICE_TAG_BYTES), counts)


def _nsh(headers: Headers) -> tuple[Ints, Ints]:
    words = (headers["head"] & _NSH_WORDS).astype(np.int64)
    known = (headers["head"] & _NSH_VERSION == 0) & (words >= _NSH_MIN_WORDS)
    return 4 * words, _where(known, _ethertypes(headers["next"], _NEXT_PROTOCOLS))


def _gtp(headers: Headers) -> tuple[Ints, Ints]:
    """Optional fields are there together; the last byte of them is the type of an extension header."""
    flags = headers["flags"]
    extended, optional = flags & _GTP_EXTENDED != 0, flags & _GTP_OPTIONAL != 0
    known = (flags & ~np.uint8(_GTP_OPTIONAL) == _GTP_VERSION) & (headers["type"] == _GTP_USER_DATA)
    size = _GTP.itemsize + _GTP_OPTIONAL_BYTES * optional.astype(np.int64) - extended
    return size, _where(known, np.where(extended, _GTP_EXTENSION, _RAW_IP))


def _gtp_extension(headers: Headers) -> tuple[Ints, Ints]:
    """From the last byte of one header to that of the next, or to the packet."""
    words, none = headers["words"].astype(np.int64), headers["type"] == 0
    return np.where(none, 1, 4 * words), _where(none | (words > 0), np.where(none, _RAW_IP, _GTP_EXTENSION))


def _mpls(headers: Headers) -> tuple[Ints, Ints]:
    """One label. Behind the last one is IP, or Ethernet, perhaps with a control word in front (pseudowires)."""
    version = headers["first"] >> 4
    worded = (version == 0) & any_of(headers["behind_word"], _FRAMES)
    plain = any_of(headers["ethertype"], _FRAMES)
    below = headers["entry"] & _MPLS_BOTTOM == 0
    kinds = [below, version == 4, version == 6, worded | plain]
    ethertype = np.select(kinds, [MPLS_ETHERTYPES[0], ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_BRIDGED], REFUSED)
    word = worded & (ethertype == ETHERTYPE_BRIDGED)
    return _MPLS_BYTES + _CONTROL_WORD_BYTES * word.astype(np.int64), ethertype.astype(np.int64)


_labels = _tunnel(_MPLS, _mpls)
_frames = _tunnel(_VXLAN, _vxlan)

BY_PROTOCOL: dict[int, Opener] = {
    4: _carrying(ETHERTYPE_IPV4),
    41: _carrying(ETHERTYPE_IPV6),
    47: _tunnel(_GRE, _gre),
    97: _tunnel(_ETHERIP, _etherip),
    137: _labels,
    143: bridged,
}
"""By IP protocol."""
BY_PORT: dict[int, Opener] = {
    2152: _tunnel(_GTP, _gtp),
    4789: _frames,
    4790: _tunnel(_VXLAN, _vxlan_gpe),
    6081: _tunnel(_GENEVE, _geneve),
    6635: _labels,
    8472: _frames,  # VXLAN of Linux, where no port is given
}
"""By UDP destination port."""
BY_ETHERTYPE: dict[int, Opener] = {
    ETHERTYPE_BRIDGED: bridged,
    _ETHERTYPE_ERSPAN: _tunnel(_ERSPAN_2, _erspan_2),
    _ETHERTYPE_ERSPAN_3: _tunnel(_ERSPAN_3, _erspan_3),
    **dict.fromkeys(MPLS_ETHERTYPES, _labels),
    _ETHERTYPE_PPPOE: _tunnel(_PPPOE, _pppoe),
    _ETHERTYPE_MAC_IN_MAC: _mac_in_mac,
    _ETHERTYPE_NSH: _tunnel(_NSH, _nsh),
    _GTP_EXTENSION: _tunnel(_GTP_NEXT, _gtp_extension),
    _RAW_IP: raw_ip,
}
