"""Scapy layers for RDS extension headers, and the field that holds them (protocol.md §2)."""

from __future__ import annotations

from typing import Any, ClassVar

from scapy.fields import ByteEnumField, PacketListField, XStrField
from scapy.packet import Packet

from dissectors.layers import AnyField, fields_of
from dissectors.wire.errors import CodecError
from dissectors.wire.extensions import (
    CODECS,
    EXTENSION_BYTES,
    EXTENSIONS,
    TYPE_OF,
    ExtensionType,
    Unknown,
    parse_extensions,
)

_NAMES = {int(kind): kind.name for kind in ExtensionType}


def _fields(kind: ExtensionType) -> list[AnyField]:
    """The type byte and the fields of that type."""
    return [ByteEnumField("type", int(kind), _NAMES), *fields_of(EXTENSIONS[kind])]


class RDSExtension(Packet):
    """One extension header."""

    wire: ClassVar[type[Any]]
    name = "RDS extension"
    fields_desc: ClassVar[list[AnyField]] = []

    def extract_padding(self, s: bytes) -> tuple[bytes, bytes | None]:
        """Nothing follows inside an extension header."""
        return b"", s


class RDSVersion(RDSExtension):
    """VERSION: never sent by current kernels."""

    name = "RDS VERSION"
    fields_desc = _fields(ExtensionType.VERSION)


class RDSRdma(RDSExtension):
    """RDMA: the key of the RDMA work that the message follows."""

    name = "RDS RDMA"
    fields_desc = _fields(ExtensionType.RDMA)


class RDSRdmaDest(RDSExtension):
    """RDMA_DEST: memory that the sender offers."""

    name = "RDS RDMA_DEST"
    fields_desc = _fields(ExtensionType.RDMA_DEST)


class RDSRdmaBytes(RDSExtension):
    """RDMA_BYTES: size and direction (``direction_``) of the RDMA work that the message follows."""

    name = "RDS RDMA_BYTES"
    fields_desc = _fields(ExtensionType.RDMA_BYTES)


class RDSNPaths(RDSExtension):
    """NPATHS: the most paths that the sender supports."""

    name = "RDS NPATHS"
    fields_desc = _fields(ExtensionType.NPATHS)


class RDSGenNum(RDSExtension):
    """GEN_NUM: changes when the sender's kernel restarts."""

    name = "RDS GEN_NUM"
    fields_desc = _fields(ExtensionType.GEN_NUM)


class RDSCapBits(RDSExtension):
    """CAP_BITS: capabilities (UEK only)."""

    name = "RDS CAP_BITS"
    fields_desc = _fields(ExtensionType.CAP_BITS)


class RDSSportIdx(RDSExtension):
    """SPORT_IDX: the sender's TCP source ports encode the path."""

    name = "RDS SPORT_IDX"
    fields_desc = _fields(ExtensionType.SPORT_IDX)


class RDSCsum(RDSExtension):
    """CSUM: checksum of the payload (UEK only)."""

    name = "RDS CSUM"
    fields_desc = _fields(ExtensionType.CSUM)


class RDSUnknown(RDSExtension):
    """A type without a length of its own, 10 to 15: a kernel reads the next byte as the next type."""

    name = "RDS unknown extension"
    fields_desc: ClassVar[list[AnyField]] = [ByteEnumField("type", 15, _NAMES)]


class RDSUnread(RDSExtension):
    """Bytes that no kernel reads: behind the terminator, a type of 16 or more, an entry that does not fit.

    Zero bytes up to the end of the 16 are not listed; they are filled in when the header is built.
    """

    name = "RDS bytes behind the extensions"
    fields_desc: ClassVar[list[AnyField]] = [XStrField("load", b"")]


EXTENSION_LAYERS: dict[ExtensionType, type[RDSExtension]] = {
    ExtensionType.VERSION: RDSVersion,
    ExtensionType.RDMA: RDSRdma,
    ExtensionType.RDMA_DEST: RDSRdmaDest,
    ExtensionType.RDMA_BYTES: RDSRdmaBytes,
    ExtensionType.NPATHS: RDSNPaths,
    ExtensionType.GEN_NUM: RDSGenNum,
    ExtensionType.CAP_BITS: RDSCapBits,
    ExtensionType.SPORT_IDX: RDSSportIdx,
    ExtensionType.CSUM: RDSCsum,
}
"""The layer of each type."""


class ExtensionsField(PacketListField):
    """The 16 bytes of ``h_exthdr`` as a list of :class:`RDSExtension`."""

    def __init__(self, name: str) -> None:
        super().__init__(name, [], RDSExtension)

    def getfield(self, pkt: Packet, s: bytes) -> tuple[bytes, list[Any]]:
        """Take the field's bytes from ``s`` and read them as a kernel does."""
        data, rest = s[:EXTENSION_BYTES], s[EXTENSION_BYTES:]
        found: list[Packet] = []
        at = 0
        for item in parse_extensions(data).items:
            if isinstance(item, Unknown):
                layer, size = RDSUnknown, 1
            else:
                kind = TYPE_OF[type(item)]
                layer, size = EXTENSION_LAYERS[kind], 1 + CODECS[kind].size  # type: ignore[assignment]
            found.append(layer(data[at : at + size], _internal=1, _parent=pkt))
            at += size
        if any(data[at:]):
            found.append(RDSUnread(load=data[at:].rstrip(b"\0")))
        return rest, found

    def addfield(self, pkt: Packet, s: bytes, val: list[Any] | None) -> bytes:
        """Append the field's 16 bytes. Raises ``CodecError`` where the extensions need more."""
        data = b"".join(bytes(item) for item in val or ())
        if len(data) > EXTENSION_BYTES:
            raise CodecError(f"extension headers take {EXTENSION_BYTES} bytes, these need {len(data)}")
        return s + data.ljust(EXTENSION_BYTES, b"\0")
