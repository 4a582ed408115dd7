"""Filter text to tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from rdstool.filter.errors import FilterError

MAX_FILTER_CHARACTERS = 1 << 16
"""Longest filter that is read."""


class TokenKind(Enum):
    """What a token is."""

    WORD = "word"
    STRING = "string"
    RAW_STRING = "raw string"
    OPERATOR = "operator"
    END = "end"


@dataclass(frozen=True, slots=True)
class Token:
    """One token; ``start`` counts characters from the beginning of the filter."""

    kind: TokenKind
    text: str
    """For a string, what stands between the quotes, with escapes resolved."""
    start: int


_TOKEN = re.compile(
    r"""\s*(?:
    (?P<raw>[rR]"[^"]*(?:"|$))
    | (?P<string>"(?:[^"\\]|\\.)*(?:"|$))
    | (?P<operator>===|!==|==|!=|~=|>=|<=|&&|\|\||\^\^|\.\.|[<>!~&(){},])
    | (?P<word>(?:(?!\.\.)[\w.:/\-])+)
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{1,2}|[0-7]{1,3}|.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}


def tokens_of(text: str) -> list[Token]:
    """All tokens with an end token behind them. Raises ``FilterError`` where a character belongs to none."""
    if len(text) > MAX_FILTER_CHARACTERS:
        raise FilterError(f"longer than {MAX_FILTER_CHARACTERS} characters", text, 0)
    tokens: list[Token] = []
    at = 0
    end = len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            start = at + len(text[at:]) - len(text[at:].lstrip())
            hint = ", write ==" if text[start] == "=" else ""
            raise FilterError(f"{text[start]!r} was unexpected{hint}", text, start)
        tokens.append(_token(match.lastgroup, match[match.lastgroup], match.start(match.lastgroup), text))
        at = match.end()
    tokens.append(Token(TokenKind.END, "", len(text)))
    return tokens


def _token(group: str, found: str, start: int, text: str) -> Token:
    if group in {"raw", "string"}:
        body = found.removeprefix("r").removeprefix("R")
        if len(body) < 2 or not body.endswith('"'):
            raise FilterError("the string has no end", text, start)
        if group == "raw":
            return Token(TokenKind.RAW_STRING, body[1:-1], start)
        return Token(TokenKind.STRING, body[1:-1], start)
    return Token(TokenKind.WORD if group == "word" else TokenKind.OPERATOR, found, start)


def unescape(body: str) -> str:
    """What a quoted string stands for; hexadecimal and octal escapes give one character each."""

    def resolve(match: re.Match[str]) -> str:
        code = match[1]
        if code[0] == "x" and len(code) > 1:
            return chr(int(code[1:], 16))
        if code[0] in "01234567":
            return chr(int(code, 8) & 0xFF)
        return _ESCAPED.get(code, code)

    return _ESCAPE.sub(resolve, body)
