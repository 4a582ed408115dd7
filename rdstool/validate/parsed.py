"""Extension headers of rows, each distinct field parsed once."""

from __future__ import annotations

from functools import lru_cache

from dissectors.wire.extensions import ParsedExtensions, parse_extensions
from rdstool.validate.view import View

_CACHED_FIELDS = 4096
"""Distinct 16-byte fields whose parsing is remembered."""


@lru_cache(maxsize=_CACHED_FIELDS)
def parse_field(field: bytes) -> ParsedExtensions:
    """The extension headers of 16 bytes, remembered."""
    return parse_extensions(field)


def field_of(view: View, index: int) -> bytes:
    """The 16 bytes of ``h_exthdr``."""
    field: bytes = view.exthdr[index].tobytes()
    return field
