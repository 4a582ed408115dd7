"""One thing to do when it is time, on an event loop; the time may be set anew at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Alarm:
    """Calls ``ring`` at the time that was set last, or earlier: whoever is called looks at what is due."""

    __slots__ = ("_loop", "_ring", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None

    def set(self, due: float | None) -> None:
        """Ring at ``due`` seconds of the monotonic clock; None for not at all. One that rings before stays."""
        if self._timer is not None:
            if due is not None and self._timer.when() <= due and not self._timer.cancelled():
                return
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer = self._loop.call_at(due, self._fired)

    def _fired(self) -> None:
        self._timer = None
        self._ring()
