"""Extension headers of the rows of a batch."""

from __future__ import annotations

from dissectors.wire.extensions import ParsedExtensions
from rdstool.field_columns import extensions_of
from rdstool.validate.view import View


def field_of(view: View, index: int) -> bytes:
    """The 16 bytes of ``h_exthdr``."""
    field: bytes = view.exthdr[index].tobytes()
    return field


def extensions_at(view: View, index: int) -> ParsedExtensions:
    """The extension headers of a row; the same 16 bytes are parsed once."""
    return extensions_of(field_of(view, index))
