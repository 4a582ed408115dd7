"""Field tables: a wire format written down once.

A header is a dataclass whose fields carry their place on the wire. That one class is the
typed value that programs use *and* the table from which all else is made: the ``struct``
codec, the Scapy layer, the NumPy dtype, the display-filter names, the Lua plugin and the
field reference.

    @header("rds", size=48, title="...", source="net/rds/rds.h")
    @dataclass(slots=True)
    class RdsHeader:
        sequence: int = u64(0, "Message number on this path")
        ...

Offsets are bytes from the start of the header; a field narrower than a byte carries the
offset of the byte that it begins in and follows the field before it. Integers are
big-endian, most significant bit first, as all RDS and InfiniBand headers are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, ClassVar, Protocol, TypeVar


class Kind(Enum):
    """How a field's value is to be read and shown."""

    UINT = "unsigned integer"
    HEX = "unsigned integer, shown in hexadecimal"
    BYTES = "bytes"
    IPV4 = "IPv4 address"
    IPV6 = "IPv6 address or GID"


@dataclasses.dataclass(frozen=True, slots=True)
class Bit:
    """One named bit of a flags field. ``name`` is its constant's name in lower case."""

    name: str
    mask: int
    meaning: str


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """One row of a table: a field's place on the wire and what it means."""

    name: str
    """Name in Python, Scapy, JSON and (behind the table's prefix) in display filters."""
    offset: int
    """Bytes from the start of the header to the byte that the field begins in."""
    width: int
    """Bits."""
    kind: Kind
    meaning: str
    bits: tuple[Bit, ...] = ()
    """Named bits, for a flags field."""
    values: Mapping[int, str] = dataclasses.field(default_factory=dict)
    """Names of single values, for an enumeration."""
    default: int | bytes = 0
    shift: int = 0
    """Bits between the field's least significant bit and the end of the header."""

    @property
    def mask(self) -> int:
        """All ones in the field's width."""
        return (1 << self.width) - 1

    @property
    def size(self) -> int:
        """Bytes, for a field that fills whole bytes."""
        return self.width // 8


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """A header's fields in wire order."""

    prefix: str
    """Display-filter prefix: a field's full name is ``prefix.name``."""
    title: str
    size: int
    """Bytes."""
    source: str
    """Where the layout is defined."""
    fields: tuple[Field, ...]

    def __getitem__(self, name: str) -> Field:
        """The field of that name; ``KeyError`` where there is none."""
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(name)

    @property
    def byte_aligned(self) -> bool:
        """True where every field begins and ends on a byte boundary."""
        return all(field.width % 8 == 0 and field.shift % 8 == 0 for field in self.fields)


class HasTable(Protocol):
    """A class made by :func:`header`."""

    TABLE: ClassVar[Table]


_KEY = "wire"


def _wire(offset: int, width: int, meaning: str, kind: Kind = Kind.UINT, **more: Any) -> Any:
    row = Field("", offset, width, kind, meaning, **more)
    return dataclasses.field(default=row.default, metadata={_KEY: row})


def bits(offset: int, width: int, meaning: str, **more: Any) -> Any:
    """An unsigned field of ``width`` bits that begins in byte ``offset``."""
    return _wire(offset, width, meaning, **more)


def u8(offset: int, meaning: str, **more: Any) -> Any:
    """An unsigned 8-bit field."""
    return _wire(offset, 8, meaning, **more)


def u16(offset: int, meaning: str, **more: Any) -> Any:
    """An unsigned 16-bit field."""
    return _wire(offset, 16, meaning, **more)


def u32(offset: int, meaning: str, **more: Any) -> Any:
    """An unsigned 32-bit field."""
    return _wire(offset, 32, meaning, **more)


def u64(offset: int, meaning: str, **more: Any) -> Any:
    """An unsigned 64-bit field."""
    return _wire(offset, 64, meaning, **more)


def octets(offset: int, size: int, meaning: str, kind: Kind = Kind.BYTES) -> Any:
    """A field of ``size`` bytes that is no number; all zero by default."""
    return _wire(offset, size * 8, meaning, kind, default=bytes(size))


T = TypeVar("T")


def header(prefix: str, *, size: int, title: str, source: str) -> Callable[[type[T]], type[T]]:
    """Give a dataclass its :class:`Table` as ``TABLE``.

    Raises ``TypeError`` where the fields do not fill ``size`` bytes without gap or overlap.
    """

    def decorate(cls: type[T]) -> type[T]:
        made: Any = cls
        rows: list[Field] = []
        position = 0
        for item in dataclasses.fields(made):
            row: Field = item.metadata[_KEY]
            if position // 8 != row.offset:
                raise TypeError(
                    f"{cls.__name__}.{item.name} is declared at byte {row.offset}, but begins in {position // 8}"
                )
            position += row.width
            rows.append(dataclasses.replace(row, name=item.name, shift=size * 8 - position))
        if position != size * 8:
            raise TypeError(f"{cls.__name__} has {position} bits, its header {size * 8}")
        made.TABLE = Table(prefix, title, size, source, tuple(rows))
        made.__reduce__ = _reduce
        return cls

    return decorate


def _reduce(value: HasTable) -> tuple[Any, ...]:
    """How a header is pickled. What dataclasses do by themselves takes ten times as long."""
    return type(value), tuple(getattr(value, field.name) for field in value.TABLE.fields)


def table_of(cls: type[Any]) -> Table:
    """The table of a class made by :func:`header`."""
    table: Table = cls.TABLE
    return table
