"""One source of messages for several readers, each of which goes at its own pace."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

KEPT_BYTES = 64 << 20
"""What waits for one reader while others are ahead of it."""
OVERHEAD_BYTES = 64
"""Bytes that a message takes beside its content, about."""
LOOK_AGAIN_S = 1.0
"""After which a reader that holds up others is asked for again."""


class Copies:
    """Gives each message of ``source`` to all readers. It is read no faster than the fastest of them wants.

    A reader behind which ``kept_bytes`` wait holds up the others, unless ``let_go``, called with its index, says that
    it is gone: it must not read on then.
    """

    def __init__(
        self, source: AsyncIterator[bytes], readers: int, let_go: Callable[[int], bool], kept_bytes: int = KEPT_BYTES
    ) -> None:
        self._source = source
        self._let_go = let_go
        self._kept_bytes = kept_bytes
        self._waiting: dict[int, deque[bytes]] = {index: deque() for index in range(readers)}
        self._kept = [0] * readers
        self._reading = False
        """One of the readers is reading from the source, for all of them."""
        self._news = asyncio.Event()
        """Set when that reader is done."""
        self._taken = asyncio.Event()

    async def of(self, index: int) -> AsyncIterator[bytes]:
        """Yield all messages, for one reader."""
        waiting = self._waiting[index]
        while True:
            # Readers do not take turns: whoever reads goes on while there is something, and the others find it all.
            while not waiting:
                if self._reading:
                    self._news.clear()
                    await self._news.wait()
                elif not await self._read():
                    return
            data = waiting.popleft()
            self._kept[index] -= len(data) + OVERHEAD_BYTES
            self._taken.set()
            yield data

    async def _read(self) -> bool:
        """Give one more message to all. False where there is none."""
        self._reading = True
        try:
            return await self._give()
        finally:
            self._reading = False
            self._news.set()

    async def _give(self) -> bool:
        while slow := [index for index in self._waiting if self._kept[index] >= self._kept_bytes]:
            self._taken.clear()
            for index in slow:
                if self._let_go(index):
                    del self._waiting[index]
                    break
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_AGAIN_S):
                        await self._taken.wait()
        data = await anext(self._source, None)
        if data is None:
            return False
        for index, waiting in self._waiting.items():
            waiting.append(data)
            self._kept[index] += len(data) + OVERHEAD_BYTES
        return True
