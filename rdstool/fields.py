"""The fields of RDS under their display-filter names, made from the wire tables.

One registry serves ``--filter``, ``--fields``, ``rdstool fields`` and the Wireshark plugin. What stands on the
wire comes from :mod:`dissectors.wire`; only what analysis adds (:data:`DERIVED`) is written down here.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cache
from typing import Any

from dissectors.wire.extensions import EXTENSIONS, ExtensionType
from dissectors.wire.rds import RdsHeader
from dissectors.wire.table import Bit, Field, Kind, Table, table_of

Owner = type[Any]
"""A class made by ``dissectors.wire.table.header``."""


class FieldType(Enum):
    """What a field's values are, and so what they can be compared with."""

    NONE = "presence"
    UINT = "number"
    BOOL = "boolean"
    STRING = "text"
    BYTES = "bytes"
    ADDRESS = "address"
    TIME = "seconds"


class Part(Enum):
    """What a field is read from."""

    HEADER = "message header"
    EXTENSION = "extension header"
    DERIVED = "analysis of the capture"
    CM = "RDMA-CM message"
    CM_IP = "RDMA-CM IP header"
    CM_PRIVATE = "RDS private data of RDMA-CM"


@dataclass(frozen=True, slots=True)
class FieldInfo:
    """One field that can be filtered on and shown."""

    name: str
    """Display-filter name."""
    type: FieldType
    meaning: str
    part: Part
    width: int = 64
    """Bits of a number."""
    hexadecimal: bool = False
    """Numbers are shown in hexadecimal."""
    values: Mapping[int, str] = field(default_factory=dict)
    """Names of single values."""
    attribute: str = ""
    """Name in its table; empty for presence of the table itself."""
    owner: Owner | None = None
    """Class whose table the field belongs to; None for derived ones."""
    mask: int = 0
    """The bit, for one bit of a flags field."""
    everywhere: bool = False
    """Every RDS message has it, so to test for its presence says nothing."""

    @property
    def max(self) -> int:
        """Largest value of a number."""
        return (1 << self.width) - 1


_TYPES = {
    Kind.UINT: FieldType.UINT,
    Kind.HEX: FieldType.UINT,
    Kind.BYTES: FieldType.BYTES,
    Kind.IPV4: FieldType.ADDRESS,
    Kind.IPV6: FieldType.ADDRESS,
}

DERIVED = (
    FieldInfo("frame.number", FieldType.UINT, "Frame that completed the message", Part.DERIVED),
    FieldInfo("frame.time_epoch", FieldType.TIME, "Time of that frame, seconds since 1970", Part.DERIVED),
    FieldInfo("frame.time_relative", FieldType.TIME, "Time of that frame, seconds since the first", Part.DERIVED),
    FieldInfo("rds.number", FieldType.UINT, "Number of the message in the capture", Part.DERIVED),
    FieldInfo("rds.kind", FieldType.STRING, "Kind of message: data, congestion, ping, probe, ...", Part.DERIVED),
    FieldInfo("rds.transport", FieldType.STRING, "What carried the message: tcp or ib", Part.DERIVED),
    FieldInfo("rds.src", FieldType.ADDRESS, "Source address", Part.DERIVED),
    FieldInfo("rds.dst", FieldType.ADDRESS, "Destination address", Part.DERIVED),
    FieldInfo("rds.addr", FieldType.ADDRESS, "Source or destination address", Part.DERIVED),
    FieldInfo("rds.port", FieldType.UINT, "RDS source or destination port", Part.DERIVED, width=16),
    FieldInfo("tcp.srcport", FieldType.UINT, "TCP source port of what carried the message", Part.DERIVED, width=16),
    FieldInfo("tcp.dstport", FieldType.UINT, "TCP destination port of what carried it", Part.DERIVED, width=16),
    FieldInfo("tcp.port", FieldType.UINT, "TCP source or destination port of what carried it", Part.DERIVED, width=16),
    FieldInfo("rds.stream", FieldType.UINT, "Number of the TCP connection or queue-pair pair", Part.DERIVED),
    FieldInfo("rds.path", FieldType.UINT, "Path of the RDS connection, where known", Part.DERIVED, width=8),
    FieldInfo("rds.fragments", FieldType.UINT, "InfiniBand frames of the message; 1 over TCP", Part.DERIVED),
    FieldInfo("rds.seen", FieldType.UINT, "Payload bytes that the capture holds", Part.DERIVED),
    FieldInfo("rds.complete", FieldType.BOOL, "The capture holds all of the payload", Part.DERIVED),
    FieldInfo("rds.inferred", FieldType.BOOL, "The message's boundary was found by search", Part.DERIVED),
    FieldInfo("rds.checksum.status", FieldType.STRING, "Header checksum: absent, good or bad", Part.DERIVED),
    FieldInfo(
        "rds.exthdr.type",
        FieldType.UINT,
        "Type of an extension header",
        Part.DERIVED,
        width=8,
        values={int(kind): kind.name for kind in ExtensionType},
    ),
    FieldInfo("rds.exthdr.problem", FieldType.STRING, "What is wrong with the extension headers", Part.DERIVED),
    FieldInfo("rds.congested", FieldType.UINT, "A port that a congestion bitmap marks", Part.DERIVED, width=16),
    FieldInfo("rds.payload", FieldType.BYTES, "Payload bytes that the capture holds", Part.DERIVED),
    FieldInfo("rds.sha256", FieldType.STRING, "SHA-256 of a complete payload, in hexadecimal", Part.DERIVED),
    FieldInfo("rds.rdma.kind", FieldType.STRING, "RDMA operation: rdma-read, rdma-write, ...", Part.DERIVED),
    FieldInfo("rds.rdma.va", FieldType.UINT, "Remote address of an RDMA operation", Part.DERIVED, hexadecimal=True),
    FieldInfo("rds.rdma.rkey", FieldType.UINT, "Key of an RDMA operation", Part.DERIVED, width=32, hexadecimal=True),
    FieldInfo("rds.rdma.length", FieldType.UINT, "Bytes of an RDMA operation", Part.DERIVED, width=32),
    FieldInfo("rds.rdma.status", FieldType.STRING, "Outcome of an RDMA operation", Part.DERIVED),
    FieldInfo("rds.cm.message", FieldType.STRING, "Kind of RDMA-CM message: REQ, REP, RTU, ...", Part.DERIVED),
)
"""What analysis adds to the fields of the wire."""

ALIASES = {
    "ip.src": "rds.src",
    "ip.dst": "rds.dst",
    "ip.addr": "rds.addr",
    "ipv6.src": "rds.src",
    "ipv6.dst": "rds.dst",
    "ipv6.addr": "rds.addr",
    "rds_cm": "rds.cm.message",
    "rds_rdma": "rds.rdma.kind",
}
"""Names of Wireshark's own, and protocols of the plugin, that mean the same here."""

_NOT_IN_EVERY_MESSAGE = (
    "tcp.",
    "rds.path",
    "rds.exthdr.",
    "rds.congested",
    "rds.payload",
    "rds.sha256",
    "rds.rdma.",
    "rds.cm.",
)


def _row(table: Table, row: Field, part: Part, owner: Owner) -> Iterator[FieldInfo]:
    name = f"{table.prefix}.{row.name}"
    everywhere = part is Part.HEADER
    yield FieldInfo(
        name,
        _TYPES[row.kind],
        row.meaning,
        part,
        width=row.width,
        hexadecimal=row.kind is Kind.HEX,
        values=row.values,
        attribute=row.name,
        owner=owner,
        everywhere=everywhere,
    )
    yield from (_bit(name, bit, row, part, owner, everywhere) for bit in row.bits)


def _bit(name: str, bit: Bit, row: Field, part: Part, owner: Owner, everywhere: bool) -> FieldInfo:
    return FieldInfo(
        f"{name}.{bit.name}",
        FieldType.BOOL,
        bit.meaning,
        part,
        width=1,
        attribute=row.name,
        owner=owner,
        mask=int(bit.mask),
        everywhere=everywhere,
    )


def _of_table(owner: Owner, part: Part) -> Iterator[FieldInfo]:
    table = table_of(owner)
    if part is not Part.EXTENSION or table.prefix != "rds.exthdr":
        yield FieldInfo(table.prefix, FieldType.NONE, table.title, part, owner=owner)
    for row in table.fields:
        yield from _row(table, row, part, owner)


def _all() -> Iterator[FieldInfo]:
    from dissectors.wire import cm  # noqa: PLC0415 - filters need it, mere decoding does not

    yield from _of_table(RdsHeader, Part.HEADER)
    for owner in EXTENSIONS.values():
        yield from _of_table(owner, Part.EXTENSION)
    for info in DERIVED:
        yield replace(info, everywhere=not info.name.startswith(_NOT_IN_EVERY_MESSAGE))
    for owner in (cm.RdsPrivateV4, cm.RdsPrivateV6, cm.RdsReject):
        yield from _of_table(owner, Part.CM_PRIVATE)
    yield from _of_table(cm.IpCm, Part.CM_IP)
    for owner in (cm.CmReq, cm.CmMra, cm.CmRej, cm.CmRep, cm.CmRtu, cm.CmDreq, cm.CmDrep):
        yield from _of_table(owner, Part.CM)


@cache
def registry() -> Mapping[str, FieldInfo]:
    """All fields by name, in the order of the wire; a name that two tables share stands once, as the first has it."""
    fields: dict[str, FieldInfo] = {}
    for info in _all():
        fields.setdefault(info.name, info)
    return fields


def find_field(name: str) -> FieldInfo | None:
    """The field of that name or alias, None where there is none."""
    return registry().get(ALIASES.get(name, name))


_ALIKE = 0.5
"""Least similarity of two names behind their protocol, in difflib's measure."""


def nearest_name(name: str) -> str | None:
    """The field name that ``name`` was most likely meant to be, None where nothing is close."""
    names = list(registry())
    protocol, dot, rest = name.partition(".")
    if not dot:
        protocol, rest = "", name
    # A field of another protocol is no slip of the hand, and what looks like it has nothing to do with it.
    if protocol and not difflib.get_close_matches(protocol, {known.partition(".")[0] for known in names}, 1):
        return None
    begins = [known for known in names if f".{rest}" in known]
    if begins:
        return next((known for known in begins if known.endswith(f".{rest}")), begins[0])
    for cutoff, wanted in ((0.75, name), (0.75, f"rds.{name}"), (0.6, name), (0.6, f"rds.{name}")):
        for close in difflib.get_close_matches(wanted, names, 3, cutoff):
            if difflib.SequenceMatcher(None, rest, close.partition(".")[2]).ratio() >= _ALIKE:
                return close
    return None


def no_field(name: str) -> str:
    """A message that there is no field of this name, and what to do about it."""
    near = nearest_name(name)
    return f'no field is named "{name}"' + (f", did you mean {near}?" if near else "; `rdstool fields` lists them")
