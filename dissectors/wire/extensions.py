"""Extension headers: the 16 bytes of ``h_exthdr`` (protocol.md §2; kernel ``net/rds/message.c``).

A sequence of ``type (u8) | payload``; the length follows from the type; type 0 or the end of
the field ends it. Lengths of the types that only Oracle's kernel (UEK) sends are known here, so
that its traffic is read rightly; a mainline kernel takes these as having no payload.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from dissectors.wire.codec import Codec
from dissectors.wire.errors import CodecError
from dissectors.wire.table import Bit, Kind, header, octets, u8, u16, u32

EXTENSION_BYTES = 16
"""Size of ``h_exthdr`` (``RDS_HEADER_EXT_SPACE``)."""
_SOURCE = "net/rds/rds.h and message.c; protocol.md §2"


class ExtensionType(IntEnum):
    """First byte of an extension header."""

    NONE = 0
    VERSION = 1
    RDMA = 2
    RDMA_DEST = 3
    RDMA_BYTES = 4
    NPATHS = 5
    GEN_NUM = 6
    CAP_BITS = 7
    SPORT_IDX = 8
    CSUM = 9


TYPE_LIMIT = 16
"""Parsing stops at a type of this or more (``__RDS_EXTHDR_MAX``)."""
UEK_ONLY = frozenset({ExtensionType.CAP_BITS, ExtensionType.CSUM})
"""Types that no mainline kernel sends."""
HANDSHAKE = frozenset({ExtensionType.NPATHS, ExtensionType.GEN_NUM, ExtensionType.SPORT_IDX})
"""Types that belong to the multipath handshake (protocol.md §5.1)."""


class RdmaDirection(IntEnum):
    """``direction`` of RDMA_BYTES: what the announced operations did (protocol.md §2)."""

    WRITE = 1
    READ = 2


@header("rds.exthdr.version", size=4, title="VERSION", source=_SOURCE)
@dataclass(slots=True)
class Version:
    """Never sent by current kernels."""

    version: int = u32(0, "Protocol version")


@header("rds.exthdr.rdma", size=4, title="RDMA", source=_SOURCE)
@dataclass(slots=True)
class Rdma:
    """The message follows RDMA work with this key on the same queue pair."""

    rkey: int = u32(0, "R_Key of the memory region that the RDMA used", kind=Kind.HEX)


@header("rds.exthdr.rdma_dest", size=8, title="RDMA_DEST", source=_SOURCE)
@dataclass(slots=True)
class RdmaDest:
    """Memory that the sender offers to the receiver."""

    rkey: int = u32(0, "R_Key of the offered memory region", kind=Kind.HEX)
    offset: int = u32(4, "Offset of the memory from the region's first page")


@header("rds.exthdr.rdma_bytes", size=8, title="RDMA_BYTES", source=_SOURCE)
@dataclass(slots=True)
class RdmaBytes:
    """Size and direction of the RDMA work that this message follows (7.0 and later)."""

    length: int = u32(0, "Bytes moved")
    direction: int = u8(4, "What the RDMA did", values={RdmaDirection.WRITE: "write", RdmaDirection.READ: "read"})
    padding: bytes = octets(5, 3, "Unused, zero")


@header("rds.exthdr", size=2, title="NPATHS", source=_SOURCE)
@dataclass(slots=True)
class NPaths:
    """The most paths that the sender supports."""

    npaths: int = u16(0, "Number of paths that the sender supports")


@header("rds.exthdr", size=4, title="GEN_NUM", source=_SOURCE)
@dataclass(slots=True)
class GenNum:
    """A random number that a kernel draws when its module is loaded: a change means a restart."""

    gen_num: int = u32(0, "Generation number of the sender's kernel", kind=Kind.HEX)


@header("rds.exthdr", size=4, title="CAP_BITS", source=_SOURCE)
@dataclass(slots=True)
class CapBits:
    """Capabilities (UEK only)."""

    cap_bits: int = u32(0, "Capabilities", kind=Kind.HEX, bits=(Bit("heartbeat", 0x1, "Heartbeats are understood"),))


@header("rds.exthdr", size=1, title="SPORT_IDX", source=_SOURCE)
@dataclass(slots=True)
class SportIdx:
    """The sender's TCP source ports encode the path (7.0 and later)."""

    sport_idx: int = u8(0, "Always 0; its presence says that TCP source port modulo paths is the path")


@header("rds.exthdr.csum", size=8, title="CSUM", source=_SOURCE)
@dataclass(slots=True)
class PayloadChecksum:
    """Checksum of the payload (UEK only)."""

    checksum: int = u32(0, "Checksum of the payload", kind=Kind.HEX)
    enabled: int = u8(4, "1 where the checksum is to be verified")
    padding: bytes = octets(5, 3, "Unused")


Extension = Version | Rdma | RdmaDest | RdmaBytes | NPaths | GenNum | CapBits | SportIdx | PayloadChecksum

EXTENSIONS: dict[ExtensionType, type[Any]] = {
    ExtensionType.VERSION: Version,
    ExtensionType.RDMA: Rdma,
    ExtensionType.RDMA_DEST: RdmaDest,
    ExtensionType.RDMA_BYTES: RdmaBytes,
    ExtensionType.NPATHS: NPaths,
    ExtensionType.GEN_NUM: GenNum,
    ExtensionType.CAP_BITS: CapBits,
    ExtensionType.SPORT_IDX: SportIdx,
    ExtensionType.CSUM: PayloadChecksum,
}
"""The class, and through it the table, of each type."""
CODECS: dict[int, Codec[Any]] = {int(kind): Codec(cls) for kind, cls in EXTENSIONS.items()}
TYPE_OF: dict[type[Any], ExtensionType] = {cls: kind for kind, cls in EXTENSIONS.items()}


@dataclass(frozen=True, slots=True)
class Unknown:
    """A type without a table, below 16: a kernel takes it as an extension without payload."""

    type: int


@dataclass(frozen=True, slots=True)
class ParsedExtensions:
    """What 16 bytes hold. ``problem`` is None where they parse to their end without doubt."""

    items: tuple[Extension | Unknown, ...]
    used: int
    """Bytes up to and including the terminator, or where parsing stopped."""
    problem: str | None = None


def parse_extensions(data: bytes | memoryview) -> ParsedExtensions:
    """Read ``h_exthdr`` as a kernel does (``rds_message_next_extension``); never raises on 16 bytes.

    Raises ``CodecError`` where ``data`` is not 16 bytes long.
    """
    if len(data) != EXTENSION_BYTES:
        raise CodecError(f"extension headers take {EXTENSION_BYTES} bytes, got {len(data)}")
    items: list[Extension | Unknown] = []
    at = 0
    while at < EXTENSION_BYTES:
        kind = data[at]
        if kind == ExtensionType.NONE:
            return ParsedExtensions(tuple(items), at + 1)
        if kind >= TYPE_LIMIT:
            return ParsedExtensions(tuple(items), at, f"type {kind} at byte {at} is out of range")
        codec = CODECS.get(kind)
        if codec is None:
            items.append(Unknown(kind))
            at += 1
            continue
        if at + 1 + codec.size > EXTENSION_BYTES:
            return ParsedExtensions(tuple(items), at, f"{codec.table.title} at byte {at} does not fit")
        items.append(codec.unpack_from(data, at + 1))
        at += 1 + codec.size
    return ParsedExtensions(tuple(items), EXTENSION_BYTES)


def build_extensions(items: Iterable[Extension]) -> bytes:
    """The 16 bytes that hold ``items`` in their order. Raises ``CodecError`` where they do not fit."""
    out = bytearray()
    for item in items:
        kind = TYPE_OF[type(item)]
        out += bytes((kind,)) + CODECS[kind].pack(item)
    if len(out) > EXTENSION_BYTES:
        raise CodecError(f"extension headers take {EXTENSION_BYTES} bytes, these need {len(out)}")
    return bytes(out).ljust(EXTENSION_BYTES, b"\0")
