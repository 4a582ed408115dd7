"""Which path a socket's messages take (protocol.md §5.4; kernel ``RDS_MPATH_HASH`` in ``net/rds/rds.h``)."""

from __future__ import annotations

from functools import lru_cache

_MASK = 0xFFFFFFFF
_GOLDEN = 0xDEADBEEF
_WORD_BYTES = 4


def _rotl(value: int, count: int) -> int:
    return (value << count | value >> (32 - count)) & _MASK


@lru_cache(maxsize=1 << 16)
def jhash_1word(word: int, initval: int = 0) -> int:
    """The kernel's hash of one 32-bit word (``include/linux/jhash.h``); arithmetic modulo 2^32."""
    b = c = (initval + _GOLDEN + _WORD_BYTES) & _MASK
    a = (word + b) & _MASK
    c = ((c ^ b) - _rotl(b, 14)) & _MASK
    a = ((a ^ c) - _rotl(c, 11)) & _MASK
    b = ((b ^ a) - _rotl(a, 25)) & _MASK
    c = ((c ^ b) - _rotl(b, 16)) & _MASK
    a = ((a ^ c) - _rotl(c, 4)) & _MASK
    b = ((b ^ a) - _rotl(a, 14)) & _MASK
    return ((c ^ b) - _rotl(b, 24)) & _MASK


def path_of_port(port: int, npaths: int, initval: int = 0) -> int:
    """The path of messages from RDS port ``port`` when ``npaths`` are agreed; 0 with a single path.

    ``initval`` is random for the first socket bound after the module was loaded, 0 for all others.
    """
    return jhash_1word(port, initval) & (npaths - 1) if npaths > 1 else 0
