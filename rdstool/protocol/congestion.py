"""Congestion maps: which of our own ports have too much to read, and which of a peer's (protocol.md §3)."""

from __future__ import annotations

from dissectors.wire.congestion import BITMAP_BYTES

ALL_PORTS = (1 << 64) - 1
"""Mask of a map update over TCP: any port may have changed (``rds_tcp_cong_recv``, §9.6)."""
_MASK_BITS = 64
_ALL_CLEAR = bytes(BITMAP_BYTES)


class LocalMap:
    """The map of one of our own addresses, as it is sent."""

    __slots__ = ("_bytes", "_payload", "ports")

    def __init__(self) -> None:
        self.ports: set[int] = set()
        """Ports that are congested."""
        self._bytes = bytearray(BITMAP_BYTES)
        self._payload: bytes | None = _ALL_CLEAR

    def mark(self, port: int, *, congested: bool) -> None:
        """Set or clear one port's bit."""
        bit = 1 << (port & 7)
        if congested:
            self.ports.add(port)
            self._bytes[port >> 3] |= bit
        else:
            self.ports.discard(port)
            self._bytes[port >> 3] &= ~bit
        self._payload = None

    @property
    def payload(self) -> bytes:
        """The 8192 bytes of a congestion message."""
        if self._payload is None:
            self._payload = bytes(self._bytes)
        return self._payload


class PeerMap:
    """What a peer said last of its own ports. Until then, none is congested."""

    __slots__ = ("bits",)

    def __init__(self) -> None:
        self.bits: bytes | None = None
        """The last map, or None where it has no bit set."""

    def update(self, payload: bytes) -> None:
        """Replace the map by the 8192 bytes of a congestion message."""
        self.bits = None if payload == _ALL_CLEAR else payload

    def freed_by(self, payload: bytes) -> int:
        """Ports that a new map sets free, as a mask of ``port % 64``."""
        if self.bits is None:
            return 0
        freed = int.from_bytes(self.bits, "little") & ~int.from_bytes(payload, "little")
        width = 8 * BITMAP_BYTES
        while width > _MASK_BITS:
            width //= 2
            freed = freed >> width | freed & (1 << width) - 1
        return freed

    def congested(self, port: int) -> bool:
        """Whether sending to ``port`` has to wait."""
        bits = self.bits
        return bits is not None and bool(bits[port >> 3] >> (port & 7) & 1)


def monitor_bit(port: int) -> int:
    """The bit by which RDS_CONG_MONITOR tells of a port (``RDS_CONG_MONITOR_MASK``)."""
    return 1 << (port & 63)


def crossing(queued: int, limit: int, *, congested: bool) -> bool | None:
    """Whether a receive queue of ``queued`` bytes becomes congested (True), or not any more (False); else None.

    Set strictly above the limit, cleared below half of it (``rds_recv_rcvbuf_delta``, §3.2).
    """
    if not congested:
        return True if queued > limit else None
    return False if queued < limit // 2 else None
