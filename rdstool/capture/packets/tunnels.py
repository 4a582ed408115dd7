"""Tunnels: headers behind which another packet begins, with a link or network header of its own.

Each is told by what stands before it (an IP protocol, a UDP port, an EtherType), and tells the EtherType of what it
carries. A header that is not what its place says it is gives REFUSED: it is counted there, as if this were not known.

Sources: RFC 2003 and 4213 (IP in IP), 2784, 2890 and 7637 (GRE, NVGRE), 3032, 4023, 4385 and 7510 (MPLS), 7348 (VXLAN),
8926 (GENEVE), 3378 (EtherIP), draft-ietf-nvo3-vxlan-gpe, draft-foschiano-erspan.
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
    TAG_ETHERTYPES,
    Named,
    any_of,
    bridged,
)

MAX_TUNNELS = 8
"""Headers of tunnels in one frame; a mirrored packet of an overlay over MPLS has five."""
REFUSED = 0x1_0002
"""Stands for what cannot be read in here; not an EtherType."""

MPLS_ETHERTYPES = (0x8847, 0x8848)
"""Downstream and upstream assigned labels."""
_ETHERTYPE_ERSPAN = 0x88BE
_ETHERTYPE_ERSPAN_3 = 0x22EB
_FRAMES = (ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_ROCE, *TAG_ETHERTYPES)
"""What tells an Ethernet frame where nothing says that there is one."""

_GRE = np.dtype([("flags", ">u2"), ("protocol", ">u2")])
_GRE_CHECKSUM, _GRE_ROUTING, _GRE_KEY, _GRE_SEQUENCE, _GRE_VERSION = 0x8000, 0x4000, 0x2000, 0x1000, 0x0007
_ERSPAN_2 = np.dtype([("version", "u1"), ("rest", "V7")])
_ERSPAN_3 = np.dtype([("version", "u1"), ("rest", "V9"), ("flags", ">u2")])
_ERSPAN_FRAME_TYPE, _ERSPAN_SUBHEADER = 0x7C00, 0x0001
_VXLAN = np.dtype([("flags", "u1"), ("rest", "V2"), ("next", "u1"), ("vni", "V4")])
_VXLAN_VNI, _VXLAN_NEXT = 0x08, 0x04
_VXLAN_PROTOCOLS = {1: ETHERTYPE_IPV4, 2: ETHERTYPE_IPV6, 3: ETHERTYPE_BRIDGED, 5: MPLS_ETHERTYPES[0]}
_GENEVE = np.dtype([("options", "u1"), ("flags", "u1"), ("protocol", ">u2"), ("vni", "V4")])
_ETHERIP = np.dtype([("version", ">u2")])
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


def _vxlan_gpe(headers: Headers) -> tuple[int, Ints]:
    kinds = np.select([headers["next"] == code for code in _VXLAN_PROTOCOLS], list(_VXLAN_PROTOCOLS.values()), REFUSED)
    return _VXLAN.itemsize, np.where(headers["flags"] & _VXLAN_NEXT != 0, kinds, _vxlan(headers)[1]).astype(np.int64)


def _geneve(headers: Headers) -> tuple[Ints, Ints]:
    size = _GENEVE.itemsize + 4 * (headers["options"] & 0x3F).astype(np.int64)
    return size, _where(headers["options"] >> 6 == 0, headers["protocol"].astype(np.int64))


def _etherip(headers: Headers) -> tuple[int, Ints]:
    return _ETHERIP.itemsize, _where(headers["version"] == 0x3000, ETHERTYPE_BRIDGED)


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
}
"""By IP protocol."""
BY_PORT: dict[int, Opener] = {
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
}
