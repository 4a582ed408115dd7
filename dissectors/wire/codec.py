"""Pack and unpack the headers of :mod:`dissectors.wire.table`, with ``struct`` where the layout allows."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from dissectors.wire.errors import CodecError
from dissectors.wire.table import Table, table_of

T = TypeVar("T")

_FORMATS = {8: "B", 16: "H", 32: "I", 64: "Q"}


class Codec(Generic[T]):
    """Bytes to header and back, for one class made by ``header``.

    A table whose fields are all whole bytes of a ``struct`` size uses ``struct``; one with bit
    fields is read as a single big integer. Both come from the table alone.
    """

    def __init__(self, cls: type[T]) -> None:
        self.cls: Callable[..., T] = cls
        self.table: Table = table_of(cls)
        self.size = self.table.size
        self._names = tuple(field.name for field in self.table.fields)
        self._places = tuple(
            (f.shift, f.mask, f.size if isinstance(f.default, bytes) else 0) for f in self.table.fields
        )  # fmt: skip
        """Of each field in the big integer: shift, mask, and its bytes where it is no number."""
        self._struct: struct.Struct | None = None
        plain = all(f.width in _FORMATS or isinstance(f.default, bytes) for f in self.table.fields)
        if plain and self.table.byte_aligned:
            parts = [f"{f.size}s" if isinstance(f.default, bytes) else _FORMATS[f.width] for f in self.table.fields]
            self._struct = struct.Struct(">" + "".join(parts))

    def partial(self, *names: str) -> struct.Struct:
        """A ``struct`` of these fields alone, in wire order; the others are skipped, and written as zero.

        For code that handles many headers and needs few of their fields. Raises ``TypeError`` where a
        field has no ``struct`` size.
        """
        parts = []
        for field in self.table.fields:
            plain = field.width in _FORMATS or isinstance(field.default, bytes)
            if not plain or not self.table.byte_aligned:
                raise TypeError(f"{self.table.prefix}.{field.name} has no struct format")
            code = f"{field.size}s" if isinstance(field.default, bytes) else _FORMATS[field.width]
            parts.append(code if field.name in names else f"{field.size}x")
        return struct.Struct(">" + "".join(parts))

    def unpack_from(self, data: bytes | bytearray | memoryview, offset: int = 0) -> T:
        """Read one header at ``offset``. Raises ``CodecError`` where fewer than ``size`` bytes are left."""
        if offset < 0 or len(data) - offset < self.size:
            raise CodecError(f"{self.table.title} needs {self.size} bytes, {max(0, len(data) - offset)} are left")
        if self._struct is not None:
            return self.cls(*self._struct.unpack_from(data, offset))
        value = int.from_bytes(data[offset : offset + self.size], "big")
        numbers = [(value >> shift) & mask for shift, mask, _ in self._places]
        for index, (_, _, size) in enumerate(self._places):
            if size:
                numbers[index] = numbers[index].to_bytes(size, "big")  # type: ignore[call-overload]
        return self.cls(*numbers)

    def pack(self, header: T) -> bytes:
        """The header's ``size`` bytes. Raises ``CodecError`` where a value does not fit its field."""
        values: list[Any] = [getattr(header, name) for name in self._names]
        for field, item in zip(self.table.fields, values, strict=True):
            fits = len(item) == field.size if isinstance(item, bytes) else 0 <= item <= field.mask
            if not fits:
                raise CodecError(f"{self.table.prefix}.{field.name} takes {field.width} bits, {item!r} does not fit")
        if self._struct is not None:
            return self._struct.pack(*values)
        total = 0
        for field, item in zip(self.table.fields, values, strict=True):
            number = int.from_bytes(item, "big") if isinstance(item, bytes) else item
            total |= number << field.shift
        return total.to_bytes(self.size, "big")
