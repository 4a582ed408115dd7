"""Congestion bitmaps: one bit a port (protocol.md §3.1; kernel ``net/rds/cong.c``).

Port ``p`` is bit ``p & 7``, counted from the least significant, of byte ``p >> 3``.
"""

from __future__ import annotations

from collections.abc import Iterable

from dissectors.wire.errors import CodecError

PORTS = 65536
BITMAP_BYTES = PORTS // 8
"""Length of a bitmap's payload (``RDS_CONG_MAP_BYTES``)."""


def congested_ports(bitmap: bytes | bytearray | memoryview) -> list[int]:
    """The ports whose bit is set, ascending. Raises ``CodecError`` where the length is not 8192."""
    if len(bitmap) != BITMAP_BYTES:
        raise CodecError(f"a congestion bitmap has {BITMAP_BYTES} bytes, this has {len(bitmap)}")
    # Nearly every map is empty or nearly so: find its bytes by stripping zeros, not by visiting all ports.
    number = int.from_bytes(bitmap, "little")
    ports: list[int] = []
    while number:
        low = number & -number
        ports.append(low.bit_length() - 1)
        number ^= low
        if len(ports) > 64:
            return [port for port in range(PORTS) if bitmap[port >> 3] >> (port & 7) & 1]
    return ports


def bitmap_of(ports: Iterable[int]) -> bytes:
    """The bitmap with exactly these ports set. Raises ``CodecError`` for a port outside 0..65535."""
    bitmap = bytearray(BITMAP_BYTES)
    for port in ports:
        if not 0 <= port < PORTS:
            raise CodecError(f"port {port} is not in 0..{PORTS - 1}")
        bitmap[port >> 3] |= 1 << (port & 7)
    return bytes(bitmap)
