"""What is written in a filter, as values of the field that it is compared with."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from rdstool.capture.columns import NS_PER_S
from rdstool.capture.streams import V4_PREFIX, lid_bytes
from rdstool.fields import FieldInfo, FieldType
from rdstool.filter.errors import FilterError
from rdstool.filter.lexer import Token, TokenKind, unescape

_TIME_LIMIT_S = 1 << 33
_BOOLEANS = {"true": 1, "false": 0}
_BYTES = re.compile(r"[0-9a-fA-F]{2}(?:[:\-.]?[0-9a-fA-F]{2})*")


@dataclass(frozen=True, slots=True)
class Network:
    """An address with the number of its leading bits that count."""

    value: int
    prefix: int

    def __contains__(self, address: bytes) -> bool:
        """Whether a 16-byte address belongs to it."""
        return (int.from_bytes(address, "big") ^ self.value) >> (128 - self.prefix) == 0


def literal(token: Token, info: FieldInfo, text: str) -> Any:
    """The value of ``token`` for comparison with field ``info``.

    int (numbers, booleans, ns of times), str, bytes, or :class:`Network` (addresses).
    Raises ``FilterError`` where it is none.
    """
    quoted = token.kind is not TokenKind.WORD
    word = unescape(token.text) if token.kind is TokenKind.STRING else token.text
    try:
        value = _READERS[info.type](word, info, quoted)
    except (ValueError, InvalidOperation):
        value = None
    if value is None:
        raise FilterError(f'"{word}" is no {_WANTED[info.type]}, which {info.name} needs', text, token.start)
    if isinstance(value, int) and info.type is FieldType.UINT and value > info.max:
        raise FilterError(f"{word} is too big for {info.name}, the largest is {info.max}", text, token.start)
    return value


def _number(word: str, info: FieldInfo, quoted: bool) -> int | None:
    named = {name.lower(): value for value, name in info.values.items()}
    if word.lower() in named:
        return named[word.lower()]
    if quoted or not re.fullmatch(r"0[xX][0-9a-fA-F]+|0[bB][01]+|[0-9]+", word) or len(word) > 80:
        return None
    if word[:2].lower() in {"0x", "0b"}:
        return int(word, 0)
    return int(word, 8) if word.startswith("0") and len(word) > 1 else int(word)


def _boolean(word: str, info: FieldInfo, quoted: bool) -> int | None:
    if word.lower() in _BOOLEANS:
        return _BOOLEANS[word.lower()]
    number = _number(word, info, quoted)
    return None if number is None else int(number != 0)


def _string(word: str, info: FieldInfo, quoted: bool) -> str:
    return word


def _octets(word: str, info: FieldInfo, quoted: bool) -> bytes | None:
    if quoted:
        return word.encode("latin-1") if word.isascii() or max(map(ord, word)) < 256 else word.encode()
    word = word.removeprefix("0x")
    if not _BYTES.fullmatch(word):
        return None
    return bytes.fromhex(re.sub(r"[:\-.]", "", word))


def _address(word: str, info: FieldInfo, quoted: bool) -> Network | None:
    if word.startswith("lid:"):
        return Network(int.from_bytes(lid_bytes(word), "big"), 128)
    network = ipaddress.ip_interface(word).network
    bits = network.network_address.packed
    if network.version == 4:
        return Network(int.from_bytes(V4_PREFIX + bits, "big"), 96 + network.prefixlen)
    return Network(int.from_bytes(bits, "big"), network.prefixlen)


def _time(word: str, info: FieldInfo, quoted: bool) -> int | None:
    seconds = Decimal(word)
    return int(seconds * NS_PER_S) if seconds.is_finite() and abs(seconds) < _TIME_LIMIT_S else None


def _nothing(word: str, info: FieldInfo, quoted: bool) -> None:
    return None


_READERS = {
    FieldType.UINT: _number,
    FieldType.BOOL: _boolean,
    FieldType.STRING: _string,
    FieldType.BYTES: _octets,
    FieldType.ADDRESS: _address,
    FieldType.TIME: _time,
    FieldType.NONE: _nothing,
}
_WANTED = {
    FieldType.UINT: "number",
    FieldType.BOOL: "truth value (true, false, 1, 0)",
    FieldType.STRING: "text",
    FieldType.BYTES: 'byte string (aa:bb:cc or "text")',
    FieldType.ADDRESS: "IP address or network",
    FieldType.TIME: "number of seconds",
    FieldType.NONE: "value: it is either there or not",
}
