"""Numbers of the transport: packet sequence numbers, coded times, path MTUs, addresses as GIDs."""

from __future__ import annotations

from ipaddress import IPv4Address

from dissectors.wire.infiniband import PSN_MASK, PSN_MODULUS
from rdstool.protocol.addresses import parsed

PSN_WINDOW = PSN_MODULUS // 2
"""Packets behind this many before the expected one are duplicates; those ahead are ahead (§9.7.1)."""

CODED_TIME_UNIT_S = 4.096e-6
"""Timeouts on the wire are this, times two to the power of five bits (§9.7.6.1.3, §12.7.34)."""

RNR_TIMER_MS = (
    655.36, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12, 0.16, 0.24, 0.32, 0.48, 0.64, 0.96, 1.28, 1.92,
    2.56, 3.84, 5.12, 7.68, 10.24, 15.36, 20.48, 30.72, 40.96, 61.44, 81.92, 122.88, 163.84, 245.76, 327.68, 491.52,
)  # fmt: skip
"""Milliseconds to wait after receiver-not-ready, by the low five bits of the syndrome (§9.7.5.2.8)."""

MTU_CODES = {256: 1, 512: 2, 1024: 3, 2048: 4, 4096: 5}
"""Bytes of payload -> code in a connection request (§12.7.27)."""
MTU_BYTES = {code: size for size, code in MTU_CODES.items()}


def nearest(psn: int, reference: int) -> int:
    """The count, of those that end in the 24 bits ``psn``, that is nearest to the count ``reference``.

    Inside, packets are counted without wrapping; on the wire stand the low 24 bits.
    """
    ahead = (psn - reference) & PSN_MASK
    return reference + (ahead - PSN_MODULUS if ahead >= PSN_WINDOW else ahead)


def coded_time_s(code: int) -> float:
    """Seconds of a five-bit time."""
    return CODED_TIME_UNIT_S * (1 << code)


def packets_of(length: int, mtu: int) -> int:
    """Packets that ``length`` bytes take: one at least."""
    return -(-length // mtu) or 1


def gid_of(address: str) -> bytes:
    """The GID of an IP address: itself, or ``::ffff:a.b.c.d`` (Annex A17)."""
    value = parsed(address)
    return bytes(10) + b"\xff\xff" + value.packed if isinstance(value, IPv4Address) else value.packed
