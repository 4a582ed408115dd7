"""Scapy fields made from the tables of :mod:`dissectors.wire`, so that no field is written down twice."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Any, ClassVar

from scapy.config import conf
from scapy.fields import (
    BitEnumField,
    BitField,
    ByteEnumField,
    ByteField,
    FlagsField,
    IntEnumField,
    IntField,
    IP6Field,
    IPField,
    LongField,
    ShortEnumField,
    ShortField,
    XBitField,
    XByteField,
    XIntField,
    XLongField,
    XShortField,
    XStrFixedLenField,
)
from scapy.packet import Packet

from dissectors.wire.table import Field, Kind, table_of

AnyField = Any
"""A Scapy field. Scapy's own types do not say what a field's value may be."""

_NUMBERS: dict[int, AnyField] = {8: ByteField, 16: ShortField, 32: IntField, 64: LongField}
_HEX_NUMBERS: dict[int, AnyField] = {8: XByteField, 16: XShortField, 32: XIntField, 64: XLongField}
_ENUMERATIONS: dict[int, AnyField] = {8: ByteEnumField, 16: ShortEnumField, 32: IntEnumField}


def scapy_name(name: str) -> str:
    """The field's name in Scapy: the table's own, with ``_`` behind it where ``Packet`` uses the name itself."""
    return f"{name}_" if name in _PACKET_NAMES else name


_PACKET_NAMES = frozenset(dir(Packet)) | frozenset(Packet.__slots__)


def fields_of(
    header: type[Any],
    *,
    auto: Collection[str] = (),
    replace: Mapping[str, Callable[[str], AnyField]] | None = None,
) -> list[AnyField]:
    """Scapy's ``fields_desc`` for a header class.

    Fields named in ``auto`` have the default None: the layer computes them when it is built. ``replace`` gives,
    for a field whose bytes have a structure of their own, the function that makes the Scapy field from its name.
    """
    made = []
    for field in table_of(header).fields:
        if replace is not None and field.name in replace:
            made.append(replace[field.name](scapy_name(field.name)))
        else:
            made.append(_field(field, None if field.name in auto else field.default))
    return made


def _field(field: Field, default: Any) -> AnyField:
    name = scapy_name(field.name)
    if field.kind is Kind.IPV4:
        return IPField(name, str(IPv4Address(default)))
    if field.kind is Kind.IPV6:
        return IP6Field(name, str(IPv6Address(default)))
    if field.kind is Kind.BYTES:
        return XStrFixedLenField(name, default, field.size)
    if field.bits:
        named = {bit.mask: bit.name for bit in field.bits}
        labels = [named.get(1 << position, f"bit_{position}") for position in range(field.width)]
        return FlagsField(name, default, field.width, labels)
    return _number(field, name, default)


def _number(field: Field, name: str, default: Any) -> AnyField:
    aligned = field.width % 8 == 0 and field.shift % 8 == 0
    if field.values:
        if aligned and field.width in _ENUMERATIONS:
            return _ENUMERATIONS[field.width](name, default, dict(field.values))
        return BitEnumField(name, default, field.width, dict(field.values))
    hexadecimal = field.kind is Kind.HEX
    if aligned and field.width in _NUMBERS:
        return (_HEX_NUMBERS if hexadecimal else _NUMBERS)[field.width](name, default)
    return (XBitField if hexadecimal else BitField)(name, default, field.width)


class WireLayer(Packet):
    """A layer made from a header class. Bytes too short for the header become ``Raw`` instead of an error."""

    wire: ClassVar[type[Any]]
    """The header class whose table the layer is made from."""
    trailer_bytes: ClassVar[int] = 0
    """Bytes behind the payload that belong to the layer."""

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        # Scapy looks for the hook in the class itself, never in its bases.
        if "dispatch_hook" not in cls.__dict__ and hasattr(cls, "wire"):
            cls.dispatch_hook = classmethod(_raw_where_short)  # type: ignore[attr-defined]

    @classmethod
    def fits(cls, data: bytes) -> bool:
        """True where ``data`` is long enough to hold the header and its trailer."""
        return len(data) >= table_of(cls.wire).size + cls.trailer_bytes


def _raw_where_short(cls: type[WireLayer], _pkt: bytes = b"", *args: Any, **more: Any) -> type[Packet]:
    """Scapy's ``dispatch_hook``: the class that dissects ``_pkt``; no bytes at all means that a layer is built."""
    return conf.raw_layer if _pkt and not cls.fits(_pkt) else cls


def patched(data: bytes, header: type[Any], **values: int) -> bytes:
    """``data``, which begins with the header, with the named fields overwritten."""
    table = table_of(header)
    number = int.from_bytes(data[: table.size], "big")
    for name, value in values.items():
        field = table[name]
        number = number & ~(field.mask << field.shift) | (value & field.mask) << field.shift
    return number.to_bytes(table.size, "big") + data[table.size :]
