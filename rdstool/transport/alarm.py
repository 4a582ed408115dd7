"""One thing to do when it is time, on an event loop; the time may be set anew at any moment, in any thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from math import inf


class Alarm:
    """Calls ``ring`` in the loop at the time that was set last, or earlier: whoever is called looks at what is due.

    It may ring once more than it was set. Calls of ``set`` are for one thread at a time.
    """

    __slots__ = ("_loop", "_ring", "_timer", "_when")

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop = loop
        self._ring = ring
        self._timer: asyncio.TimerHandle | None = None
        self._when = inf
        """When the loop rings next, or has been told to; ``inf`` for never."""

    def set(self, due: float | None) -> None:
        """Ring at ``due`` seconds of the monotonic clock; None for not at all. One that rings before stays."""
        if due is None or self._when <= due:
            return
        self._when = due
        if _runs_here(self._loop):
            self._arm()
        else:
            self._loop.call_soon_threadsafe(self._arm)

    def stop(self) -> None:
        """Ring no more until it is set again. Called in the loop."""
        self._when = inf
        self._arm()

    @property
    def is_set(self) -> bool:
        """It is going to ring."""
        return self._when != inf

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._when != inf:
            self._timer = self._loop.call_at(self._when, self._fired)

    def _fired(self) -> None:
        self._timer = None
        self._when = inf
        self._ring()


def _runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    """The loop runs in this thread."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
