"""What ``rdstool send`` sends: messages that somebody wrote, or made-up ones of chosen sizes and contents."""

from __future__ import annotations

import asyncio
import math
import os
import random
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

from dissectors.wire.rds import MAX_MESSAGE_BYTES
from rdstool.cli.choices import one_of
from rdstool.cli.numbers import byte_count
from rdstool.errors import UsageError

DISTRIBUTIONS = ("uniform", "log", "exponential")
STANDARD_INPUT = "-"
"""Instead of a file's name."""
PATTERNS = ("counter", "zeros", "random", "number")

_BYTES = bytes(range(256))
_PERIODS = MAX_MESSAGE_BYTES // len(_BYTES) + 2


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of made-up messages, in bytes."""

    smallest: int
    largest: int
    distribution: str = "uniform"
    """``uniform``; ``log``: each power of two as often; ``exponential``: most are small, the mean is in the middle."""

    def draw(self, chance: random.Random) -> int:
        """The next size."""
        low, high = self.smallest, self.largest
        if low == high:
            return low
        if self.distribution == "log":
            return min(high, max(low, int(math.exp(chance.uniform(math.log(low + 1), math.log(high + 2))) - 1)))
        if self.distribution == "exponential":
            return min(high, low + int(chance.expovariate(2 / (high - low))))
        return chance.randint(low, high)


def sizes(text: str, distribution: str) -> Sizes:
    """``N`` or ``MIN-MAX``; suffixes K and M are binary. Raises ``UsageError``."""
    one_of("--distribution", distribution, DISTRIBUTIONS)
    low, dash, high = text.partition("-")
    smallest = byte_count(low, f"--size {text}")
    largest = byte_count(high, f"--size {text}") if dash else smallest
    if smallest > largest or largest > MAX_MESSAGE_BYTES:
        raise UsageError(f"--size {text}: write N or MIN-MAX, {MAX_MESSAGE_BYTES} at most")
    return Sizes(smallest, largest, distribution)


def made_up(count: int, wanted: Sizes, pattern: str, seed: int) -> Iterator[bytes]:
    """``count`` messages, the same ones for the same ``seed``. Raises ``UsageError`` where there is no such pattern.

    ``counter``: bytes 0 to 255, again and again, beginning one further in each message; ``number``: the message's
    number from 0 as decimal digits, then spaces.
    """
    one_of("--pattern", pattern, PATTERNS)
    return _made_up(count, wanted, pattern, random.Random(seed))  # noqa: S311


def _made_up(count: int, wanted: Sizes, pattern: str, chance: random.Random) -> Iterator[bytes]:
    counter = _BYTES * _PERIODS if pattern == "counter" else b""
    for number in range(count):
        size = wanted.draw(chance)
        if pattern == "counter":
            first = number % len(_BYTES)
            yield counter[first : first + size]
        elif pattern == "random":
            yield chance.randbytes(size)
        elif pattern == "number":
            yield (b"%d" % number).ljust(size)[:size]
        else:
            yield bytes(size)


def from_file(path: Path, bound: str = "the longest message of RDS; split it") -> bytes:
    """A whole file as one message; ``-`` is standard input. Raises ``UsageError`` where it is longer than 1 MiB.

    ``bound`` says what is no longer than that.
    """
    if str(path) == STANDARD_INPUT:
        data = sys.stdin.buffer.read(MAX_MESSAGE_BYTES + 1)
    else:
        with path.open("rb") as source:
            data = source.read(MAX_MESSAGE_BYTES + 1)
    if len(data) > MAX_MESSAGE_BYTES:
        raise UsageError(f"{path}: longer than {MAX_MESSAGE_BYTES} bytes, {bound}")
    return data


async def stdin_lines() -> AsyncIterator[bytes]:
    """Each line of standard input, without its end. Raises ``UsageError`` where one is too long."""
    if not _can_be_waited_for(sys.stdin.fileno()):
        for line in iter(lambda: sys.stdin.buffer.readline(MAX_MESSAGE_BYTES + 2), b""):
            yield _without_end(line)
        return
    reader = asyncio.StreamReader(limit=MAX_MESSAGE_BYTES + 2)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while True:
        try:
            line = await reader.readline()
        except ValueError:
            raise UsageError(_TOO_LONG) from None
        if not line:
            return
        yield _without_end(line)


def _can_be_waited_for(descriptor: int) -> bool:
    """False for files and devices as /dev/null, which epoll refuses: reading from those does not block anyway."""
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor)


_TOO_LONG = f"a line of standard input is longer than {MAX_MESSAGE_BYTES} bytes, the longest message of RDS"


def _without_end(line: bytes) -> bytes:
    text = line.removesuffix(b"\n").removesuffix(b"\r")
    if len(text) > MAX_MESSAGE_BYTES:
        raise UsageError(_TOO_LONG)
    return text
