"""Tokens to a tree of tests. Precedence as in Wireshark 4: ``not`` before ``and``, ``xor``, ``or``."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rdstool.fields import FieldInfo, FieldType, find_field, no_field
from rdstool.filter.errors import FilterError
from rdstool.filter.lexer import Token, TokenKind, tokens_of, unescape
from rdstool.filter.literals import literal
from rdstool.filter.patterns import compile_pattern

MAX_DEPTH = 100
"""Parentheses and negations inside each other."""


@dataclass(frozen=True, slots=True)
class Exists:
    """Passes where the field occurs."""

    field: FieldInfo


@dataclass(frozen=True, slots=True)
class Test:
    """The field's values (of all occurrences, or any) stand in a relation to a value."""

    field: FieldInfo
    relation: str
    """``==``, ``!=``, ``>``, ``>=``, ``<``, ``<=``, ``in``, ``contains``, ``matches`` or ``&``."""
    operand: Any
    """A literal; for ``in`` a tuple of (low, high); for ``matches`` a compiled pattern; or another field."""
    every: bool = False
    mask: int | None = None
    """Taken from the values by bitwise and, before the comparison."""


@dataclass(frozen=True, slots=True)
class Not:
    """What is inside does not hold."""

    inside: Node


@dataclass(frozen=True, slots=True)
class Combined:
    """``and``, ``or`` or ``xor`` of two or more tests."""

    operator: str
    parts: tuple[Node, ...]


Node = Exists | Test | Not | Combined

_AND, _OR, _XOR, _NOT = {"and", "&&"}, {"or", "||"}, {"xor", "^^"}, {"not", "!"}
# Each relation with whether it must hold for every occurrence of a field that occurs several times.
_RELATIONS: dict[str, tuple[str, bool]] = {
    **dict.fromkeys(("==", "eq", "any_eq"), ("==", False)),
    **dict.fromkeys(("===", "all_eq"), ("==", True)),
    **dict.fromkeys(("!=", "ne", "all_ne"), ("!=", True)),
    **dict.fromkeys(("!==", "~=", "any_ne"), ("!=", False)),
    **dict.fromkeys((">", "gt"), (">", False)),
    **dict.fromkeys((">=", "ge"), (">=", False)),
    **dict.fromkeys(("<", "lt"), ("<", False)),
    **dict.fromkeys(("<=", "le"), ("<=", False)),
    "contains": ("contains", False),
    **dict.fromkeys(("matches", "~"), ("matches", False)),
    "in": ("in", False),
}
_FLIPPED = {"==": "==", "!=": "!=", ">": "<", ">=": "<=", "<": ">", "<=": ">="}
_BITWISE = {"&", "bitwise_and"}
_RESERVED = {*_RELATIONS, "and", "or", "xor", "not", "bitwise_and"}
_FIELD_SHAPED = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_\-]+)+|[a-z_]+")
_ORDERED = {FieldType.UINT, FieldType.STRING, FieldType.BYTES, FieldType.ADDRESS, FieldType.TIME, FieldType.BOOL}
_HOLDS_TEXT = {FieldType.STRING, FieldType.BYTES}


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = tokens_of(text)
        self.at = 0
        self.depth = 0

    @property
    def token(self) -> Token:
        return self.tokens[self.at]

    def fail(self, problem: str, token: Token | None = None) -> FilterError:
        return FilterError(problem, self.text, (token or self.token).start)

    def next(self) -> Token:
        token = self.token
        if token.kind is not TokenKind.END:
            self.at += 1
        return token

    def take(self, words: set[str]) -> bool:
        token = self.token
        if token.kind in {TokenKind.WORD, TokenKind.OPERATOR} and token.text in words:
            self.at += 1
            return True
        return False

    def whole(self) -> Node:
        node = self.either()
        if self.token.kind is not TokenKind.END:
            raise self.fail(f'"{self.token.text}" was unexpected')
        return node

    def either(self) -> Node:
        return self.chain("or", _OR, self.exclusive)

    def exclusive(self) -> Node:
        return self.chain("xor", _XOR, self.both)

    def both(self) -> Node:
        return self.chain("and", _AND, self.unary)

    def chain(self, operator: str, words: set[str], part: Callable[[], Node]) -> Node:
        parts = [part()]
        while self.take(words):
            parts.append(part())
        return parts[0] if len(parts) == 1 else Combined(operator, tuple(parts))

    def unary(self) -> Node:
        token = self.token
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.fail(f"nested deeper than {MAX_DEPTH}")
        try:
            if self.take(_NOT):
                return Not(self.unary())
            if self.take({"("}):
                node = self.either()
                if not self.take({")"}):
                    raise self.fail(f'no ")" closes the "(" in column {token.start + 1}')
                return node
            return self.comparison()
        finally:
            self.depth -= 1

    def comparison(self) -> Node:
        every = self.token.text == "all" and self.take({"all"})
        quantified = every or self.take({"any"})
        left = self.next()
        info = self.field(left)
        if info is None:
            return self.reversed(left)
        mask = self.mask(info) if self.take(_BITWISE) else None
        relation = self.relation()
        if relation is None:
            if quantified:
                raise self.fail("a comparison must follow any and all")
            return Exists(info) if mask is None else Test(info, "&", mask)
        word, all_of_them, negated = relation
        node = self.test(info, word, every if quantified else all_of_them, mask)
        return Not(node) if negated else node

    def mask(self, info: FieldInfo) -> int:
        if info.type is not FieldType.UINT:
            raise self.fail(f"{info.name} is no number, & needs one")
        value: int = literal(self.value(), info, self.text)
        return value

    def relation(self) -> tuple[str, bool, bool] | None:
        """The relation that comes next, whether it is for every occurrence, and whether it is negated."""
        token = self.token
        if token.text == "not" and self.tokens[self.at + 1].text == "in":
            self.at += 2
            return "in", False, True
        if token.kind in {TokenKind.WORD, TokenKind.OPERATOR} and token.text in _RELATIONS:
            self.at += 1
            return *_RELATIONS[token.text], False
        return None

    def test(self, info: FieldInfo, relation: str, every: bool, mask: int | None) -> Node:
        if relation in {"contains", "matches"}:
            if info.type not in _HOLDS_TEXT:
                raise self.fail(f"{info.name} is neither text nor bytes, {relation} needs one of them")
        elif info.type not in _ORDERED:
            raise self.fail(f"{info.name} has no value to compare")
        if relation == "in":
            return Test(info, "in", self.members(info), every, mask)
        token = self.value()
        if relation == "matches":
            # A pattern keeps its backslashes: they are the pattern's own escapes.
            return Test(info, relation, compile_pattern(token.text, info, self.text, token.start), every, mask)
        other = self.field(token, must=False)
        if other is None:
            return Test(info, relation, literal(token, info, self.text), every, mask)
        if other.type is not info.type or mask is not None:
            raise self.fail(f"{info.name} and {other.name} cannot be compared", token)
        return Test(info, relation, other, every)

    def reversed(self, left: Token) -> Node:
        """A comparison with the value on the left side."""
        relation = self.relation()
        if relation is None or relation[0] not in _FLIPPED or relation[2]:
            raise self.fail(self.unknown(left), left)
        word, every, _ = relation
        right = self.value()
        info = self.field(right)
        if info is None:
            raise self.fail(self.unknown(left), left)
        return Test(info, _FLIPPED[word], literal(left, info, self.text), every)

    def members(self, info: FieldInfo) -> tuple[tuple[Any, Any], ...]:
        if not self.take({"{"}):
            raise self.fail('"{" must follow in')
        members: list[tuple[Any, Any]] = []
        while not members or not self.take({"}"}):
            token = self.value()
            low = high = literal(token, info, self.text)
            if self.take({".."}):
                high = literal(self.value(), info, self.text)
                if info.type is not FieldType.ADDRESS and high < low:
                    raise self.fail("the range is empty", token)
            members.append((low, high))
            self.take({","})
        return tuple(members)

    def value(self) -> Token:
        token = self.next()
        if token.kind is TokenKind.END:
            raise self.fail("a value is missing", token)
        if token.kind is TokenKind.OPERATOR or (token.kind is TokenKind.WORD and token.text in _RESERVED):
            raise self.fail(f'a value is missing in front of "{token.text}"', token)
        return token

    def field(self, token: Token, *, must: bool = True) -> FieldInfo | None:
        """The field that ``token`` names; None for what looks like a value. Raises ``FilterError`` otherwise."""
        if token.kind is TokenKind.WORD:
            info = find_field(token.text)
            if info is not None:
                return info
        if not must and not (token.kind is TokenKind.WORD and token.text.startswith(("rds.", "frame.", "infiniband."))):
            return None
        if token.kind is TokenKind.END:
            raise self.fail("the filter ends where a field must follow", token)
        if token.kind is TokenKind.OPERATOR or token.text in _RESERVED:
            raise self.fail(f'a field must stand in front of "{token.text}"', token)
        if token.kind is TokenKind.WORD and _FIELD_SHAPED.fullmatch(token.text):
            raise self.fail(self.unknown(token), token)
        return None

    def unknown(self, token: Token) -> str:
        return no_field(token.text) if token.kind is TokenKind.WORD else f'no field is named "{unescape(token.text)}"'


def parse(text: str) -> Node:
    """The tree of a filter. Raises ``FilterError`` with the place of what cannot be understood."""
    return _Parser(text).whole()
