"""Filters over columns: one Boolean for each row, whole columns at a time."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rdstool.field_columns import WORDS, Column
from rdstool.fields import FieldInfo, FieldType
from rdstool.filter.literals import Network
from rdstool.filter.parser import Combined, Exists, Node, Not, Test, parse
from rdstool.filter.patterns import MATCH_BYTES

Mask = NDArray[np.bool_]

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}


class Columns(Protocol):
    """What a filter looks at: a batch of messages, or a list of events."""

    count: int
    """Rows."""

    def column(self, info: FieldInfo) -> Column | None:
        """The values of a field; None where no row has it."""


@dataclass(frozen=True, slots=True)
class Filter:
    """A filter that was understood."""

    text: str
    tree: Node

    def mask(self, columns: Columns) -> Mask:
        """True for each row that passes."""
        return _evaluate(self.tree, columns)

    def fields(self) -> set[str]:
        """Names of all fields in it."""
        return {name for node in _nodes(self.tree) for name in _names(node)}

    def warnings(self) -> list[str]:
        """Tests that are legal but surely not meant: flags that every message has, words that no field holds."""
        return [text for node in _nodes(self.tree) for text in _doubts(node)]


def compile_filter(text: str) -> Filter:
    """Read a filter. Raises ``FilterError``, which says where it is wrong."""
    return Filter(text, parse(text))


def _nodes(node: Node) -> Iterator[Node]:
    yield node
    if isinstance(node, Not):
        yield from _nodes(node.inside)
    elif isinstance(node, Combined):
        for part in node.parts:
            yield from _nodes(part)


def _doubts(node: Node) -> Iterator[str]:
    if isinstance(node, Exists) and node.field.everywhere and node.field.type is FieldType.BOOL:
        yield f"filter: {node.field.name} is in every message, set or not; write {node.field.name} == 1"
    if isinstance(node, Test) and node.field.name in WORDS and not isinstance(node.operand, FieldInfo):
        known = WORDS[node.field.name]
        alone = node.relation in {"==", "!="}
        members = node.operand if node.relation == "in" else ((node.operand, node.operand),) if alone else ()
        for word in (low for low, high in members if low == high):
            if word not in known:
                yield f'filter: {node.field.name} is never "{word}"; it is one of {", ".join(known)}'


def _names(node: Node) -> Iterator[str]:
    if isinstance(node, Exists | Test):
        yield node.field.name
    if isinstance(node, Test) and isinstance(node.operand, FieldInfo):
        yield node.operand.name


def _evaluate(node: Node, columns: Columns) -> Mask:
    if isinstance(node, Not):
        return ~_evaluate(node.inside, columns)
    if isinstance(node, Combined):
        masks = [_evaluate(part, columns) for part in node.parts]
        return np.asarray(_REDUCE[node.operator].reduce(masks), dtype=np.bool_)
    column = columns.column(node.field)
    if column is None:
        return np.zeros(columns.count, dtype=np.bool_)
    if isinstance(node, Exists):
        return _any_row(np.ones(len(column.values), dtype=np.bool_), column, columns.count)
    return _test(node, column, columns)


def _test(test: Test, column: Column, columns: Columns) -> Mask:
    if isinstance(test.operand, FieldInfo):
        return _two_fields(test, column, columns.column(test.operand), columns.count)
    hits = _hits(test, column)
    if test.every and column.rows is not None:
        return _any_row(np.ones_like(hits), column, columns.count) & ~_any_row(~hits, column, columns.count)
    return _any_row(hits, column, columns.count)


_REDUCE: dict[str, np.ufunc] = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


def _any_row(hits: Mask, column: Column, count: int) -> Mask:
    if column.rows is None:
        return hits
    mask = np.zeros(count, dtype=np.bool_)
    mask[column.rows[hits]] = True
    return mask


def _hits(test: Test, column: Column) -> Mask:
    """Which values pass. A table of distinct values is asked once for each, numbers all at once."""
    if column.table is None:
        return np.asarray(_number_test(test, column.values), dtype=np.bool_)
    passes = _value_test(test)
    answers = np.fromiter((passes(value) for value in column.table), dtype=np.bool_, count=len(column.table))
    return np.asarray(answers[column.values], dtype=np.bool_)


def _number_test(test: Test, values: NDArray[Any]) -> Any:
    if test.mask is not None:
        values = values.astype(np.uint64) & np.uint64(test.mask)
    if test.relation == "&":
        return values.astype(np.uint64) & np.uint64(test.operand) != 0
    if test.relation == "in":
        masks = [(values >= low) & (values <= high) for low, high in test.operand]
        return np.logical_or.reduce(masks)
    return _COMPARE[test.relation](values, test.operand)


def _value_test(test: Test) -> Callable[[Any], bool]:
    operand, relation = test.operand, test.relation
    if relation == "contains":
        return lambda value: operand in value
    if relation == "matches":
        return lambda value: operand.search(value[:MATCH_BYTES]) is not None
    if test.field.type is FieldType.ADDRESS:
        return _address_test(relation, operand)
    if relation == "in":
        return lambda value: any(low <= value <= high for low, high in operand)
    compare = _COMPARE[relation]
    return lambda value: bool(compare(value, operand))


def _address_test(relation: str, operand: Any) -> Callable[[bytes], bool]:
    if relation == "in":
        return lambda value: any(
            value in low if low == high else low.value <= int.from_bytes(value, "big") <= high.value
            for low, high in operand
        )
    network: Network = operand
    if relation == "==":
        return lambda value: value in network
    if relation == "!=":
        return lambda value: value not in network
    compare = _COMPARE[relation]
    return lambda value: bool(compare(int.from_bytes(value, "big"), network.value))


def _two_fields(test: Test, left: Column, right: Column | None, count: int) -> Mask:
    if right is None:
        return np.zeros(count, dtype=np.bool_)
    compare = _COMPARE.get(test.relation, operator.contains)
    if left.table is None and right.table is None and left.rows is None and right.rows is None:
        return np.asarray(compare(left.values, right.values), dtype=np.bool_)
    others: dict[int, list[Any]] = {}
    for row, value in _pairs(right):
        others.setdefault(row, []).append(value)
    found: dict[int, list[bool]] = {}
    for row, value in _pairs(left):
        found.setdefault(row, []).extend(bool(compare(value, other)) for other in others.get(row, ()))
    mask = np.zeros(count, dtype=np.bool_)
    for row, answers in found.items():
        mask[row] = bool(answers) and (all(answers) if test.every else any(answers))
    return mask


def _pairs(column: Column) -> Iterator[tuple[int, Any]]:
    for index in range(len(column.values)):
        yield (index if column.rows is None else int(column.rows[index])), column.item(index)
