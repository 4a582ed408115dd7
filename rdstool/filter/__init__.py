"""Display filters as Wireshark writes them, over columns: ``compile_filter(text).mask(columns)``."""

from rdstool.filter.errors import FilterError
from rdstool.filter.evaluate import Filter, compile_filter

__all__ = ["Filter", "FilterError", "compile_filter"]
