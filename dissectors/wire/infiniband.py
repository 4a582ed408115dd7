"""InfiniBand headers that carry RDS: link, network and transport (InfiniBand Architecture vol. 1, chapters 7 to 9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from dissectors.wire.codec import Codec
from dissectors.wire.encapsulation import NextHeader
from dissectors.wire.table import Kind, bits, header, octets, u8, u16, u32, u64

CM_QP = 1
"""Queue pair of the general services interface, which carries RDMA-CM."""
PSN_MODULUS = 1 << 24
"""Packet sequence numbers have 24 bits."""
PSN_MASK = PSN_MODULUS - 1
_IBA = "InfiniBand Architecture vol. 1"


class Opcode(IntEnum):
    """Opcodes of BTH for the reliable connection, and the one of datagrams that RDMA-CM uses."""

    SEND_FIRST = 0x00
    SEND_MIDDLE = 0x01
    SEND_LAST = 0x02
    SEND_LAST_IMMEDIATE = 0x03
    SEND_ONLY = 0x04
    SEND_ONLY_IMMEDIATE = 0x05
    WRITE_FIRST = 0x06
    WRITE_MIDDLE = 0x07
    WRITE_LAST = 0x08
    WRITE_LAST_IMMEDIATE = 0x09
    WRITE_ONLY = 0x0A
    WRITE_ONLY_IMMEDIATE = 0x0B
    READ_REQUEST = 0x0C
    READ_RESPONSE_FIRST = 0x0D
    READ_RESPONSE_MIDDLE = 0x0E
    READ_RESPONSE_LAST = 0x0F
    READ_RESPONSE_ONLY = 0x10
    ACKNOWLEDGE = 0x11
    ATOMIC_ACKNOWLEDGE = 0x12
    COMPARE_SWAP = 0x13
    FETCH_ADD = 0x14
    SEND_LAST_INVALIDATE = 0x16
    SEND_ONLY_INVALIDATE = 0x17
    UD_SEND_ONLY = 0x64
    CNP = 0x81


class AckKind(IntEnum):
    """Bits 5 and 6 of the AETH syndrome."""

    ACK = 0
    RNR_NAK = 1
    NAK = 3


class NakCode(IntEnum):
    """Low five bits of the syndrome of a NAK."""

    PSN_SEQUENCE = 0
    INVALID_REQUEST = 1
    REMOTE_ACCESS = 2
    REMOTE_OPERATIONAL = 3
    INVALID_RD_REQUEST = 4


@header("infiniband.lrh", size=8, title="Local Route Header", source=f"{_IBA} §7.7")
@dataclass(slots=True)
class Lrh:
    """Link header of native InfiniBand."""

    vl: int = bits(0, 4, "Virtual lane")
    lver: int = bits(0, 4, "Link version")
    sl: int = bits(1, 4, "Service level")
    reserved: int = bits(1, 2, "Reserved")
    lnh: int = bits(1, 2, "Next header", values={item.value: item.name for item in NextHeader}, default=NextHeader.BTH)
    dlid: int = u16(2, "Destination local identifier")
    reserved2: int = bits(4, 5, "Reserved")
    pktlen: int = bits(4, 11, "Packet length in 4-byte words, from LRH to before VCRC")
    slid: int = u16(6, "Source local identifier")


@header("infiniband.grh", size=40, title="Global Route Header", source=f"{_IBA} §8.3")
@dataclass(slots=True)
class Grh:
    """Network header of native InfiniBand and RoCE v1; laid out like IPv6."""

    ipver: int = bits(0, 4, "IP version, 6", default=6)
    tclass: int = bits(0, 8, "Traffic class")
    flowlabel: int = bits(1, 20, "Flow label")
    paylen: int = u16(4, "Bytes after this header, with ICRC, without VCRC")
    nexthdr: int = u8(6, "Next header; 0x1B = InfiniBand transport", default=0x1B)
    hoplmt: int = u8(7, "Hop limit", default=255)
    sgid: bytes = octets(8, 16, "Source GID", kind=Kind.IPV6)
    dgid: bytes = octets(24, 16, "Destination GID", kind=Kind.IPV6)


@header("infiniband.bth", size=12, title="Base Transport Header", source=f"{_IBA} §9.2")
@dataclass(slots=True)
class Bth:
    """The header in front of every packet of the transport."""

    opcode: int = u8(0, "Operation", kind=Kind.HEX, values={item.value: item.name for item in Opcode})
    solicited: int = bits(1, 1, "Solicited event")
    migreq: int = bits(1, 1, "Migration state")
    padcount: int = bits(1, 2, "Pad bytes after the payload")
    version: int = bits(1, 4, "Transport header version, 0")
    pkey: int = u16(2, "Partition key", kind=Kind.HEX, default=0xFFFF)
    fecn: int = bits(4, 1, "Forward congestion notification")
    becn: int = bits(4, 1, "Backward congestion notification")
    resv6: int = bits(4, 6, "Reserved, not covered by ICRC")
    dqpn: int = bits(5, 24, "Destination queue pair", kind=Kind.HEX)
    ackreq: int = bits(8, 1, "Acknowledgement requested")
    resv7: int = bits(8, 7, "Reserved")
    psn: int = bits(9, 24, "Packet sequence number")


@header("infiniband.deth", size=8, title="Datagram Extended Transport Header", source=f"{_IBA} §9.3.2")
@dataclass(slots=True)
class Deth:
    """Follows BTH in datagrams."""

    qkey: int = u32(0, "Queue key", kind=Kind.HEX)
    reserved: int = u8(4, "Reserved")
    sqpn: int = bits(5, 24, "Source queue pair", kind=Kind.HEX)


@header("infiniband.reth", size=16, title="RDMA Extended Transport Header", source=f"{_IBA} §9.3.3")
@dataclass(slots=True)
class Reth:
    """Follows BTH in RDMA WRITE first and only, and in RDMA READ requests."""

    va: int = u64(0, "Virtual address of the remote memory", kind=Kind.HEX)
    rkey: int = u32(8, "Remote key", kind=Kind.HEX)
    dlen: int = u32(12, "Bytes to move")


@header("infiniband.atomiceth", size=28, title="Atomic Extended Transport Header", source=f"{_IBA} §9.3.4")
@dataclass(slots=True)
class AtomicEth:
    """Follows BTH in atomic requests."""

    va: int = u64(0, "Virtual address of the remote 64-bit value", kind=Kind.HEX)
    rkey: int = u32(8, "Remote key", kind=Kind.HEX)
    swap: int = u64(12, "Value to swap in, or to add", kind=Kind.HEX)
    compare: int = u64(20, "Value to compare with", kind=Kind.HEX)


@header("infiniband.aeth", size=4, title="ACK Extended Transport Header", source=f"{_IBA} §9.3.5")
@dataclass(slots=True)
class Aeth:
    """Follows BTH in acknowledgements and in first, last and only read responses."""

    syndrome: int = u8(0, "Kind of acknowledgement, and credits or reason", kind=Kind.HEX)
    msn: int = bits(1, 24, "Number of messages that the responder has completed")


@header("infiniband.atomicacketh", size=8, title="Atomic ACK Extended Transport Header", source=f"{_IBA} §9.5.3")
@dataclass(slots=True)
class AtomicAckEth:
    """Follows AETH in atomic responses."""

    original: int = u64(0, "Value of the remote memory before the operation", kind=Kind.HEX)


@header("infiniband.immdt", size=4, title="Immediate Data", source=f"{_IBA} §9.3.6")
@dataclass(slots=True)
class ImmDt:
    """Immediate data; RDS never sends it."""

    immediate: int = u32(0, "Immediate data", kind=Kind.HEX)


@header("infiniband.ieth", size=4, title="Invalidate Extended Transport Header", source=f"{_IBA} §9.3.7")
@dataclass(slots=True)
class Ieth:
    """Key that a SEND with invalidate takes away; RDS never sends it."""

    rkey: int = u32(0, "Remote key to invalidate", kind=Kind.HEX)


LRH = Codec(Lrh)
GRH = Codec(Grh)
BTH = Codec(Bth)
DETH = Codec(Deth)
RETH = Codec(Reth)
ATOMIC_ETH = Codec(AtomicEth)
AETH = Codec(Aeth)
ATOMIC_ACK_ETH = Codec(AtomicAckEth)
IMM_DT = Codec(ImmDt)
IETH = Codec(Ieth)

EXTENDED: Mapping[int, tuple[Codec[Any], ...]] = {
    Opcode.SEND_LAST_IMMEDIATE: (IMM_DT,),
    Opcode.SEND_ONLY_IMMEDIATE: (IMM_DT,),
    Opcode.SEND_LAST_INVALIDATE: (IETH,),
    Opcode.SEND_ONLY_INVALIDATE: (IETH,),
    Opcode.WRITE_FIRST: (RETH,),
    Opcode.WRITE_LAST_IMMEDIATE: (IMM_DT,),
    Opcode.WRITE_ONLY: (RETH,),
    Opcode.WRITE_ONLY_IMMEDIATE: (RETH, IMM_DT),
    Opcode.READ_REQUEST: (RETH,),
    Opcode.READ_RESPONSE_FIRST: (AETH,),
    Opcode.READ_RESPONSE_LAST: (AETH,),
    Opcode.READ_RESPONSE_ONLY: (AETH,),
    Opcode.ACKNOWLEDGE: (AETH,),
    Opcode.ATOMIC_ACKNOWLEDGE: (AETH, ATOMIC_ACK_ETH),
    Opcode.COMPARE_SWAP: (ATOMIC_ETH,),
    Opcode.FETCH_ADD: (ATOMIC_ETH,),
}
"""Opcode of a reliable connection -> the headers between BTH and payload, in order (InfiniBand Architecture vol. 1,
§9.2.1); opcodes that are not here have none."""
