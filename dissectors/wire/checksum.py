"""The Internet checksum of the RDS header (protocol.md §1.1) and the ICRC of InfiniBand packets."""

from __future__ import annotations

from dissectors.wire.rds import HEADER_BYTES, RDS_HEADER, RdsHeader

_CHECKSUM_AT = RDS_HEADER.table["checksum"].offset


def ones_complement_sum(data: bytes | bytearray | memoryview) -> int:
    """Sum of the big-endian 16-bit words of ``data`` with carries folded in; ``data`` has an even length."""
    # 2^16 leaves the remainder 1 on division by 2^16 - 1, so the whole string taken as one number
    # leaves the same remainder as the sum of its words. Only the two forms of zero need a word more.
    total = int.from_bytes(data, "big")
    return (total - 1) % 0xFFFF + 1 if total else 0


def header_checksum(header: bytes | bytearray | memoryview) -> int:
    """The value of ``h_csum`` for 48 header bytes, whatever the field holds now (``ip_fast_csum``)."""
    body = bytes(header[:_CHECKSUM_AT]) + b"\0\0" + bytes(header[_CHECKSUM_AT + 2 : HEADER_BYTES])
    return ~ones_complement_sum(body) & 0xFFFF


def checksum_good(header: bytes | bytearray | memoryview) -> bool:
    """True where the header carries a checksum and it verifies: all 24 words sum to 0xFFFF."""
    return ones_complement_sum(header[:HEADER_BYTES]) == 0xFFFF


def with_checksum(header: RdsHeader) -> bytes:
    """The header's bytes with ``h_csum`` computed, as every InfiniBand frame has it."""
    data = bytearray(RDS_HEADER.pack(header))
    data[_CHECKSUM_AT : _CHECKSUM_AT + 2] = header_checksum(data).to_bytes(2, "big")
    return bytes(data)
