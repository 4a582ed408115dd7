"""One source for several readers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from rdstool.cli.copies import OVERHEAD_BYTES, Copies

TEN = 10 * OVERHEAD_BYTES
"""Room for ten empty messages."""


class Source:
    """Empty messages without end, or as many as are wanted."""

    def __init__(self, number: int) -> None:
        self.given = 0
        self.number = number

    async def messages(self) -> AsyncIterator[bytes]:
        while self.given < self.number:
            self.given += 1
            yield b""


async def test_all_readers_get_all_messages_in_order() -> None:
    async def source() -> AsyncIterator[bytes]:
        for number in range(100):
            await asyncio.sleep(0)
            yield b"%d" % number

    copies = Copies(source(), 3, lambda _: False)
    got = await asyncio.gather(*[_all(copies.of(index)) for index in range(3)])
    assert got == [[b"%d" % number for number in range(100)]] * 3


async def test_nothing_is_read_before_somebody_wants_it() -> None:
    source = Source(100)
    copies = Copies(source.messages(), 2, lambda _: False)
    first = copies.of(0)
    for _ in range(5):
        await anext(first)
    assert source.given == 5


async def test_a_slow_reader_holds_up_the_fast_one_where_too_much_waits_for_it() -> None:
    source = Source(100)
    asked = asyncio.Event()

    def let_go(index: int) -> bool:
        assert index == 1
        asked.set()
        return False

    copies = Copies(source.messages(), 2, let_go, TEN)
    fast = asyncio.create_task(_all(copies.of(0)))
    await asked.wait()
    assert source.given == 10
    assert len(await _all(copies.of(1))) == 100
    assert len(await fast) == 100


async def test_a_reader_that_is_let_go_holds_up_nobody() -> None:
    source = Source(100)
    gone: list[int] = []

    def let_go(index: int) -> bool:
        if index == 2:
            gone.append(index)
        return index == 2

    copies = Copies(source.messages(), 3, let_go, TEN)
    got = await asyncio.gather(_all(copies.of(0)), _all(copies.of(1)))
    assert [len(each) for each in got] == [100, 100]
    assert gone == [2]


async def _all(messages: AsyncIterator[bytes]) -> list[bytes]:
    return [message async for message in messages]
