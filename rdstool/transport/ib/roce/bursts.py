"""Datagrams that one call can give to the system: all of one length, but for the last one, which may be shorter."""

from __future__ import annotations

from zlib import crc32

from dissectors.wire.encapsulation import ICRC_BYTES
from rdstool.transport.ib.roce.flow import ICRC, PADDING, Flow

MAX_BURST_BYTES = 65_507
"""What a UDP datagram over IPv4 can hold, for to the system that is what a burst is."""


class Bursts:
    """What is sent on one flow, in order. Each datagram is sealed for its place in its burst."""

    __slots__ = ("_before", "_burst", "_changes", "_flow", "_left", "_length", "_most", "bursts", "packets", "size")

    def __init__(self, flow: Flow, most: int) -> None:
        """``most`` datagrams make a burst; 1 where the system cannot cut them apart."""
        self.bursts: list[list[bytes]] = []
        self.packets = 0
        """Datagrams in all of them."""
        self.size = 0
        """Bytes of all of them."""
        self._flow = flow
        self._most = most
        self._burst: list[bytes] = []
        self._length = 0
        """Of the datagram before."""
        self._left = 0
        """How many more of that length may follow in the burst."""
        self._before = 0
        self._changes: list[int] = []
        """What ``Flow.seals`` says of that length."""

    def add(self, head: bytes, payload: bytes | bytearray | memoryview = b"", pad: int = 0) -> None:
        """A datagram more: BTH without marks, extended headers, payload, ``pad`` bytes of padding."""
        body = head + payload
        if pad:
            body += PADDING[pad]
        length = len(body) + ICRC_BYTES
        if length != self._length or not self._left:
            self._turn(length)
        self._left -= 1
        self.packets += 1
        self.size += length
        burst = self._burst
        # As Flow.seal, without asking it for each.
        burst.append(body + ICRC.pack(crc32(body, self._before) ^ self._changes[len(burst)]))

    def _turn(self, length: int) -> None:
        """The next datagram has this length: one that is shorter ends the burst, another begins one."""
        if length < self._length and self._left:
            self._left = 1
        else:
            self._burst = []
            self.bursts.append(self._burst)
            self._left = min(self._most, MAX_BURST_BYTES // length)
        self._length = length
        self._before, self._changes = self._flow.seals(length)
