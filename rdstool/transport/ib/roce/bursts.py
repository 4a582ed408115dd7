"""Datagrams that one call can give to the system: all of one length, but for the last one, which may be shorter."""

from __future__ import annotations

from dissectors.wire.encapsulation import ICRC_BYTES
from rdstool.transport.ib.roce.flow import Flow

MAX_BURST_BYTES = 65_507
"""What a UDP datagram over IPv4 can hold, for to the system that is what a burst is."""


class Bursts:
    """What is sent on one flow, in order. Each datagram is sealed for its place in its burst."""

    __slots__ = ("_burst", "_flow", "_left", "_length", "_most", "bursts")

    def __init__(self, flow: Flow, most: int) -> None:
        """``most`` datagrams make a burst; 1 where the system cannot cut them apart."""
        self.bursts: list[list[bytes]] = []
        self._flow = flow
        self._most = most
        self._burst: list[bytes] = []
        self._length = 0
        """Of the first datagram of the burst."""
        self._left = 0
        """How many more may follow."""

    def add(self, head: bytes, payload: bytes | bytearray | memoryview = b"", pad: int = 0) -> None:
        """A datagram more: BTH and extended headers, payload, ``pad`` bytes of padding."""
        length = len(head) + len(payload) + pad + ICRC_BYTES
        if length != self._length or not self._left:
            if length < self._length and self._left:
                self._left = 1
            else:
                self._burst = []
                self.bursts.append(self._burst)
                self._length = length
                self._left = min(self._most, MAX_BURST_BYTES // length)
        self._left -= 1
        burst = self._burst
        burst.append(self._flow.seal(head, payload, pad, len(burst)))
