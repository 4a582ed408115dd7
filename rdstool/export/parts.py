"""Pieces of text that many messages share: made once, looked up for each message."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dissectors.wire.extensions import TYPE_OF, Extension, Unknown
from dissectors.wire.rds import Flags
from dissectors.wire.table import table_of
from rdstool.capture.columns import NS_PER_S, Ints
from rdstool.capture.streams import Stream
from rdstool.field_columns import MessageColumns


def flag_names(flags: int) -> list[str]:
    """Names of the set bits, lowest first; bits without a name as ``0x40``."""
    known = [bit for bit in Flags if flags & bit]
    rest = flags & ~sum(Flags)
    return [str(bit.name) for bit in known] + [hex(1 << n) for n in range(8) if rest >> n & 1]


def by_stream(columns: MessageColumns, keep: Ints, text: Callable[[Stream, int], str]) -> list[str]:
    """``text(stream, direction)`` for each row, called once for each direction of a stream."""
    rows = columns.batch.rows
    ends, codes = np.unique(rows["stream"][keep].astype("i8") * 2 + rows["direction"][keep], return_inverse=True)
    made = [text(columns.streams[end >> 1], end & 1) for end in ends.tolist()]
    return [made[code] for code in codes.reshape(-1).tolist()]


def by_value(values: Any, text: Callable[[int], str]) -> list[str]:
    """``text(value)`` for each of small numbers, called once for each number that occurs."""
    distinct, codes = np.unique(values, return_inverse=True)
    made = [text(value) for value in distinct.tolist()]
    if len(made) == 1:
        return made * len(values)
    return [made[code] for code in codes.reshape(-1).tolist()]


def sparse(count: int, keep: Ints, size: int, texts: Sequence[tuple[int, str]], default: str) -> list[str]:
    """``default`` for each kept row, but for the few rows in ``texts``. ``size``: rows before keeping."""
    out = [default] * count
    if texts:
        places = np.full(size, -1)
        places[keep] = np.arange(count)
        for row, text in texts:
            if places[row] >= 0:
                out[places[row]] = text
    return out


def seconds_texts(times: Ints) -> list[str]:
    """Times in ns as seconds with 6 decimals, or 9 where one of the times needs them."""
    digits, unit = (9, 1) if (times % 1000).any() else (6, 1000)
    seconds, rest = np.divmod(np.abs(times), NS_PER_S)
    pairs = zip(seconds.tolist(), (rest // unit).tolist(), strict=True)
    texts = [f"{s}.{ns:09d}" for s, ns in pairs] if digits == 9 else [f"{s}.{us:06d}" for s, us in pairs]
    for place in np.flatnonzero(times < 0).tolist():
        texts[place] = f"-{texts[place]}"
    return texts


def seconds_text(time: int) -> str:
    """The text of one time, as ``seconds_texts`` has it."""
    seconds, rest = divmod(abs(time), NS_PER_S)
    text = f"{seconds}.{rest:09d}" if rest % 1000 else f"{seconds}.{rest // 1000:06d}"
    return f"-{text}" if time < 0 else text


def plain_value(value: Any) -> Any:
    """A field's value as JSON has it: bytes in hexadecimal."""
    return value.hex() if isinstance(value, bytes) else value


def extension_object(item: Extension | Unknown) -> dict[str, Any]:
    """An extension header as JSON has it; padding is left out."""
    if isinstance(item, Unknown):
        return {"type": "UNKNOWN", "number": item.type}
    fields = {row.name: getattr(item, row.name) for row in table_of(type(item)).fields if row.name != "padding"}
    return {"type": TYPE_OF[type(item)].name, **{name: plain_value(value) for name, value in fields.items()}}
