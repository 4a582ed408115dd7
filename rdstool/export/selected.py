"""Chosen fields only: tab-separated, CSV, or JSON lines with just these keys."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rdstool.capture.columns import Ints
from rdstool.capture.streams import address_text
from rdstool.errors import UsageError
from rdstool.export.csv import quoted
from rdstool.export.parts import seconds_text
from rdstool.field_columns import Column
from rdstool.fields import FieldInfo, FieldType, find_field, no_field
from rdstool.filter.evaluate import Columns


@dataclass(frozen=True, slots=True)
class Selected:
    """A field that was asked for, under the name that was used."""

    name: str
    info: FieldInfo


def select(names: str) -> list[Selected]:
    """The fields of a comma-separated list; ``rds.`` may be left out.

    Raises ``UsageError`` with the nearest name where there is no such field.
    """
    selected = []
    for name in filter(None, (part.strip() for part in names.split(","))):
        info = find_field(name) or find_field(f"rds.{name}")
        if info is None:
            raise UsageError(no_field(name))
        selected.append(Selected(name, info))
    if not selected:
        raise UsageError("--fields needs at least one name; `rdstool fields` lists them")
    return selected


def value_text(info: FieldInfo, value: Any) -> str:
    """One value as tshark would print it: truth values as 1 and 0, hexadecimal where the field is so."""
    if info.type is FieldType.ADDRESS:
        return address_text(value)
    if info.type is FieldType.TIME:
        return seconds_text(value)
    if info.type is FieldType.UINT and info.hexadecimal:
        return f"0x{value:0{(info.width + 3) // 4}x}"
    return value.hex() if isinstance(value, bytes) else str(value)


def value_json(info: FieldInfo, value: Any) -> str:
    """One value in JSON."""
    if info.type is FieldType.TIME:
        return seconds_text(value)
    if info.type in {FieldType.BOOL, FieldType.NONE}:
        return "true" if value else "false"
    if info.type is FieldType.ADDRESS:
        return json.dumps(address_text(value))
    return json.dumps(value.hex() if isinstance(value, bytes) else value, ensure_ascii=False)


def occurrences(column: Column | None, info: FieldInfo, keep: Ints, count: int, *, as_json: bool) -> list[list[str]]:
    """For each kept row, the texts of the field's values in it."""
    if column is None:
        return [[] for _ in keep]
    show = value_json if as_json else value_text
    wanted = np.zeros(count, dtype=np.bool_)
    wanted[keep] = True
    rows = np.arange(count) if column.rows is None else column.rows
    chosen = np.flatnonzero(wanted[rows])
    distinct, codes = np.unique(column.values[chosen], return_inverse=True)
    made = [show(info, value if column.table is None else column.table[value]) for value in distinct.tolist()]
    places = np.full(count, -1)
    places[keep] = np.arange(len(keep))
    out: list[list[str]] = [[] for _ in keep]
    for place, code in zip(places[rows[chosen]].tolist(), codes.reshape(-1).tolist(), strict=True):
        out[place].append(made[code])
    return out


def text_lines(columns: Columns, keep: Ints, fields: Sequence[Selected], separator: str) -> list[str]:
    """Values of the fields; several values of one field are joined by commas, as tshark joins them."""
    quote = quoted if separator == "," else str
    texts = [[quote(",".join(values)) for values in _of(columns, keep, selected, as_json=False)] for selected in fields]
    return [separator.join(row) + "\n" for row in zip(*texts, strict=True)]


def json_lines(columns: Columns, keep: Ints, fields: Sequence[Selected]) -> list[str]:
    """Objects with these keys only; a field that a message lacks is null, one that occurs often a list."""
    keys = [json.dumps(selected.name) for selected in fields]
    texts = [[_json(values) for values in _of(columns, keep, selected, as_json=True)] for selected in fields]
    return [
        "{" + ", ".join(f"{key}: {text}" for key, text in zip(keys, row, strict=True)) + "}\n"
        for row in zip(*texts, strict=True)
    ]


def _of(columns: Columns, keep: Ints, selected: Selected, *, as_json: bool) -> list[list[str]]:
    return occurrences(columns.column(selected.info), selected.info, keep, columns.count, as_json=as_json)


def _json(values: list[str]) -> str:
    if len(values) == 1:
        return values[0]
    return "[" + ", ".join(values) + "]" if values else "null"
