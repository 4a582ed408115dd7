"""Packets of the reliable connection: what each opcode is, and quick ways to write and read their headers.

The field tables of :mod:`dissectors.wire.infiniband` define the layouts; a test holds the ``struct`` forms here, which
are made for speed, against them.
"""

from __future__ import annotations

import struct
from enum import Enum
from typing import NamedTuple

from dissectors.wire.infiniband import (
    AETH,
    ATOMIC_ACK_ETH,
    ATOMIC_ETH,
    BTH,
    IETH,
    IMM_DT,
    RETH,
    AckKind,
    NakCode,
    Opcode,
)
from rdstool.transport.ib.provider import Operation

BTH_WORDS = struct.Struct(">BBHII")
"""Opcode; solicited, migration, pad count and version; partition key; queue pair; acknowledge request and PSN."""
SOLICITED_SHIFT = 7
SOLICITED = 1 << SOLICITED_SHIFT
PAD_SHIFT = 4
VERSION_MASK = 0x0F
ACK_REQUEST = 1 << 31
NUMBER_MASK = 0xFF_FFFF
"""The 24 bits of a queue pair's number or of a PSN."""
DEFAULT_PKEY = 0xFFFF
PKEY_BASE_MASK = 0x7FFF
"""Without the bit that tells full from limited members."""

AETH_WORD = struct.Struct(">I")
"""Syndrome and MSN."""
ATOMIC_ACK = struct.Struct(">IQ")
"""AETH and the original value."""
RETH_VALUES = struct.Struct(">QII")
ATOMIC_VALUES = struct.Struct(">QIQQ")
"""Address, key, swap or add, compare."""

NO_CREDITS = 0x1F
"""Low bits of the syndrome of an acknowledgement that says nothing of receive credits, as Linux sends it."""


class Part(Enum):
    """What a packet does."""

    SEND = 0
    WRITE = 1
    READ = 2
    ATOMIC = 3
    ACKNOWLEDGE = 4
    READ_RESPONSE = 5
    ATOMIC_RESPONSE = 6


class PacketKind(NamedTuple):
    """What an opcode tells."""

    part: Part
    starts: bool
    """The first packet of its message, or the only one."""
    ends: bool
    """The last packet of its message, or the only one."""
    header: int
    """Bytes of BTH and extended headers."""
    response: bool = False
    """Sent by the responder."""
    supported: bool = True
    """False for what RDS never sends: immediate data and SEND with invalidate."""


def _kind(opcode: Opcode) -> PacketKind | None:
    name = opcode.name
    if opcode in {Opcode.UD_SEND_ONLY, Opcode.CNP}:
        return None
    words = {
        "ACKNOWLEDGE": (Part.ACKNOWLEDGE, AETH.size),
        "ATOMIC_ACKNOWLEDGE": (Part.ATOMIC_RESPONSE, AETH.size + ATOMIC_ACK_ETH.size),
        "COMPARE_SWAP": (Part.ATOMIC, ATOMIC_ETH.size),
        "FETCH_ADD": (Part.ATOMIC, ATOMIC_ETH.size),
        "READ_REQUEST": (Part.READ, RETH.size),
    }
    if name in words:
        part, extended = words[name]
        return PacketKind(part, True, True, BTH.size + extended, part in {Part.ACKNOWLEDGE, Part.ATOMIC_RESPONSE})
    starts, ends = "FIRST" in name or "ONLY" in name, "LAST" in name or "ONLY" in name
    if name.startswith("READ_RESPONSE"):
        return PacketKind(Part.READ_RESPONSE, starts, ends, BTH.size + (AETH.size if starts or ends else 0), True)
    part = Part.SEND if name.startswith("SEND") else Part.WRITE
    extended = RETH.size if part is Part.WRITE and starts else 0
    odd = name.endswith(("IMMEDIATE", "INVALIDATE"))
    extended += IMM_DT.size * name.endswith("IMMEDIATE") + IETH.size * name.endswith("INVALIDATE")
    return PacketKind(part, starts, ends, BTH.size + extended, supported=not odd)


KINDS: list[PacketKind | None] = [None] * 256
"""What a packet is, by its opcode; None for what is no packet of a reliable connection."""
for _opcode in Opcode:
    KINDS[_opcode] = _kind(_opcode)

SENDS: list[tuple[bool, bool] | None] = [
    (kind.starts, kind.ends) if kind is not None and kind.part is Part.SEND and kind.supported else None
    for kind in KINDS
]
"""Whether a SEND's packet starts and ends its message, by its opcode; None for other packets."""

SEND_OPCODES = {
    (True, True): int(Opcode.SEND_ONLY),
    (True, False): int(Opcode.SEND_FIRST),
    (False, False): int(Opcode.SEND_MIDDLE),
    (False, True): int(Opcode.SEND_LAST),
}
"""(first packet of the message, last packet) -> opcode."""
WRITE_OPCODES = {
    (True, True): int(Opcode.WRITE_ONLY),
    (True, False): int(Opcode.WRITE_FIRST),
    (False, False): int(Opcode.WRITE_MIDDLE),
    (False, True): int(Opcode.WRITE_LAST),
}
RESPONSE_OPCODES = {
    (True, True): int(Opcode.READ_RESPONSE_ONLY),
    (True, False): int(Opcode.READ_RESPONSE_FIRST),
    (False, False): int(Opcode.READ_RESPONSE_MIDDLE),
    (False, True): int(Opcode.READ_RESPONSE_LAST),
}
ATOMIC_OPCODES = {
    Operation.COMPARE_SWAP: int(Opcode.COMPARE_SWAP),
    Operation.FETCH_ADD: int(Opcode.FETCH_ADD),
}


def rnr_nak(timer: int) -> int:
    """Syndrome of receiver-not-ready with a timer code."""
    return AckKind.RNR_NAK << 5 | timer


def nak(code: NakCode) -> int:
    """Syndrome of a negative acknowledgement."""
    return AckKind.NAK << 5 | code
