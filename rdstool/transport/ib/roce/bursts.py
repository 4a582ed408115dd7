"""Datagrams that one call can give to the system: all of one length, but for the last one, which may be shorter."""

from __future__ import annotations

from collections.abc import Iterable
from zlib import crc32

from dissectors.wire.encapsulation import ICRC_BYTES
from rdstool.transport.ib.roce.flow import ICRC, Flow

MAX_BURST_BYTES = 65_507
"""What a UDP datagram over IPv4 can hold, for to the system that is what a burst is."""


def in_bursts(flow: Flow, packets: Iterable[bytes], most: int) -> list[list[bytes]]:
    """What to send on a flow, in order: ``packets`` without marks and ICRC, each sealed for its place in its burst.

    ``most`` datagrams make a burst; 1 where the system cannot cut them apart.
    """
    bursts: list[list[bytes]] = []
    burst: list[bytes] = []
    length = left = before = 0
    changes: list[int] = []
    pack, seals = ICRC.pack, flow.seals
    for packet in packets:
        size = len(packet)
        if size != length or not left:
            if size < length and left:
                left = 1
            else:
                burst = []
                bursts.append(burst)
                left = min(most, MAX_BURST_BYTES // (size + ICRC_BYTES))
            length = size
            before, changes, _ = seals(size + ICRC_BYTES)
        left -= 1
        # As Flow.seal, without asking it for each.
        burst.append(packet + pack(crc32(packet, before) ^ changes[len(burst)]))
    return bursts
