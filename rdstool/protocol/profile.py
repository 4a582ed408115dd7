"""What differs between generations of RDS, as data. A node behaves as one of them; peers may be any."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Profile:
    """One generation (protocol.md §2, §4.3, §4.4, §5)."""

    name: str
    announces_npaths: bool = True
    """False for an endpoint that does not know multipath: its pong carries nothing (§5.7)."""
    announces_gen_num: bool = True
    """Handshakes carry GEN_NUM, and a peer's change of it is a restart (§5.5)."""
    announces_sport_idx: bool = True
    """Handshakes carry SPORT_IDX, and TCP source ports are chosen by path (§4.4)."""
    catches_up: bool = True
    """Other paths wait until path 0 is acknowledged up to the fan-out (§5.6)."""
    waits_for_paths: bool = False
    """A blocking sender whose port hashes to another path than 0 waits for the handshake (§5.4)."""
    several_extensions: bool = False
    """A message has room for several extension headers: RDMA is announced with its size (§2)."""
    swaps_port: bool = False
    """The path hash takes the port's bytes in network order, on a little-endian machine (§5.4)."""


LINUX_7 = Profile("linux-7", several_extensions=True)
"""Kernel 7.0 and later."""
LINUX_6 = Profile("linux-6", announces_gen_num=False, announces_sport_idx=False, catches_up=False, waits_for_paths=True)
"""Kernels 4.10 to 6.x: one extension in a message."""
UEK = Profile("uek", announces_gen_num=False, catches_up=False, waits_for_paths=True, swaps_port=True)
"""Oracle's kernel, without its heartbeats and checksums."""
SINGLE_PATH = Profile(
    "single-path",
    announces_npaths=False,
    announces_gen_num=False,
    announces_sport_idx=False,
    catches_up=False,
)
"""Kernels before 4.10, and minimal endpoints."""

PROFILES = {profile.name: profile for profile in (LINUX_7, LINUX_6, UEK, SINGLE_PATH)}
