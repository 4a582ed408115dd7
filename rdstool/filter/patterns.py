"""Regular expressions of ``matches``: not case-sensitive, as in Wireshark, and kept from running without end."""

from __future__ import annotations

import re
from re import _constants, _parser  # type: ignore[attr-defined]
from typing import Any

from rdstool.fields import FieldInfo, FieldType
from rdstool.filter.errors import FilterError

MATCH_BYTES = 4096
"""Bytes of a payload that ``matches`` searches: the time for a pattern can grow with a power of this."""
MAX_PATTERN_CHARACTERS = 1000
"""Longest pattern."""
_MANY = 32
_REPEATS = {_constants.MAX_REPEAT, _constants.MIN_REPEAT}


def compile_pattern(pattern: str, info: FieldInfo, text: str, position: int) -> re.Pattern[Any]:
    """The pattern for values of ``info``. Raises ``FilterError`` where it is wrong, or could take for ever."""
    if len(pattern) > MAX_PATTERN_CHARACTERS:
        raise FilterError(f"the pattern is longer than {MAX_PATTERN_CHARACTERS} characters", text, position)
    try:
        if _nested_repeat(_parser.parse(pattern), inside=False):
            raise FilterError("a repetition inside a repetition can take for ever", text, position)
        if info.type is FieldType.BYTES:
            return re.compile(pattern.encode(), re.IGNORECASE | re.DOTALL)
        return re.compile(pattern, re.IGNORECASE | re.DOTALL)
    except (re.error, OverflowError, RecursionError) as problem:
        raise FilterError(f"the pattern is wrong, {problem}", text, position) from None


def _nested_repeat(tree: Any, *, inside: bool) -> bool:
    """Whether a repetition without a small bound stands inside another one."""
    for operator, argument in tree:
        repeats = operator in _REPEATS and argument[1] > _MANY
        if repeats and inside:
            return True
        if any(_nested_repeat(part, inside=inside or repeats) for part in _parts(argument)):
            return True
    return False


def _parts(argument: Any) -> list[Any]:
    """The patterns inside the argument of one operator."""
    if isinstance(argument, _parser.SubPattern):
        return [argument]
    if isinstance(argument, (tuple, list)):
        return [part for item in argument for part in _parts(item)]
    return []
