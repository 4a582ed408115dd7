"""Finds what a CRC says about bytes that were not seen: the identification field of an IPv4 header.

A UDP socket does not show the IP header of what it receives, and of the fields that the ICRC covers one cannot be
known: the identification (with the flags beside it). A CRC is linear, so the difference between the CRC that came and
the one computed with zeros in that place is the unknown 32-bit word, multiplied by x to the power of the number of
bits behind it, modulo the CRC's polynomial. Multiplying by the inverse of that power gives the word back.
"""

from __future__ import annotations

from functools import lru_cache
from zlib import crc32

_POLYNOMIAL = 0xEDB88320
"""CRC-32 with bits reflected: bit 31 is the coefficient of x^0, bit 0 that of x^31."""
_ONE = 0x8000_0000
CACHED_LENGTHS = 128
"""Distances for which tables are kept: 45 kB each."""

Tables = tuple[list[int], list[int], list[int], list[int]]


def unknown_word(difference: int, distance: int) -> int:
    """The word that makes this ``difference`` of two CRCs, ``distance`` bytes before their end.

    The word's least significant byte is the first on the wire. ``distance`` counts from the word's first byte.
    """
    a, b, c, d = _tables(distance)
    return a[difference & 0xFF] ^ b[difference >> 8 & 0xFF] ^ c[difference >> 16 & 0xFF] ^ d[difference >> 24]


def difference_of(word: bytes, distance: int) -> int:
    """The difference of two CRCs where one has ``word`` and the other zeros, ``distance`` bytes before their end."""
    return crc32(word + bytes(distance - len(word))) ^ crc32(bytes(distance))


@lru_cache(maxsize=CACHED_LENGTHS)
def _tables(distance: int) -> Tables:
    """What each byte of a difference contributes to the word."""
    factor = _power(_INVERSE_OF_BYTE, distance)
    # Bit i of a difference stands for x^(31 - i).
    columns = [factor]
    for _ in range(31):
        columns.append(_times_x(columns[-1]))
    columns.reverse()
    first, second, third, fourth = (_table(columns[8 * byte : 8 * byte + 8]) for byte in range(4))
    return first, second, third, fourth


def _table(columns: list[int]) -> list[int]:
    table = [0]
    for column in columns:
        table += [column ^ value for value in table]
    return table


def _times_x(value: int) -> int:
    return value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)


def _over_x(value: int) -> int:
    return ((value ^ _POLYNOMIAL) << 1 | 1) & 0xFFFF_FFFF if value & 0x8000_0000 else value << 1


def _product(one: int, other: int) -> int:
    product = 0
    while other:
        if other & _ONE:
            product ^= one
        one = _times_x(one)
        other = other << 1 & 0xFFFF_FFFF
    return product


def _power(base: int, exponent: int) -> int:
    result = _ONE
    while exponent:
        if exponent & 1:
            result = _product(result, base)
        base = _product(base, base)
        exponent >>= 1
    return result


def _inverse_of_byte() -> int:
    value = _ONE
    for _ in range(8):
        value = _over_x(value)
    return value


_INVERSE_OF_BYTE = _inverse_of_byte()
"""The inverse of x^8."""
