"""The multipath handshake's content: what a probe and its pong say of their sender (protocol.md §5).

Kernel: ``rds_send_probe`` in ``net/rds/send.c``, ``rds_recv_hs_exthdrs`` in ``recv.c``.
"""

from __future__ import annotations

from typing import NamedTuple

from dissectors.wire.extensions import Extension, GenNum, NPaths, SportIdx, build_extensions, parse_extensions
from dissectors.wire.rds import MAX_PATHS
from rdstool.protocol.profile import Profile


class Announcement(NamedTuple):
    """What a handshake message says."""

    npaths: int | None
    """Most paths of its sender; None from one that does not know multipath."""
    gen_num: int
    """Generation number; 0 where there is none."""
    sport_idx: bool
    """Its TCP source ports tell the path."""


def announcement_of(exthdr: bytes) -> Announcement:
    """Read the 16 bytes of extension headers; what does not belong into a handshake is ignored."""
    npaths, gen_num, sport_idx = None, 0, False
    for item in parse_extensions(exthdr).items:
        if isinstance(item, NPaths):
            npaths = item.npaths
        elif isinstance(item, GenNum):
            gen_num = item.gen_num
        elif isinstance(item, SportIdx):
            sport_idx = True
    return Announcement(npaths, gen_num, sport_idx)


def announce(profile: Profile, npaths: int, gen_num: int) -> bytes:
    """The 16 bytes that a node of this profile puts into its probes and their pongs alike."""
    items: list[Extension] = []
    if profile.announces_npaths:
        items.append(NPaths(npaths))
    if profile.announces_gen_num:
        items.append(GenNum(gen_num))
    if profile.announces_sport_idx:
        items.append(SportIdx(0))
    return build_extensions(items)


def agreed_paths(own: int, announced: int | None, before: int) -> int:
    """Paths that both sides use: the smaller number, 1 to 8; without NPATHS it stays as it was (§5.2)."""
    return max(1, before if announced is None else min(own, announced, MAX_PATHS))
