"""Runs a provider on an asyncio loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from rdstool.transport.ib.provider import Event, Provider


class Driver:
    """Calls a provider whenever it has something to do, and ``handle`` with each event.

    What ``handle`` posts goes out at once; after posting at any other time, call :meth:`poke`.
    Make it where the loop runs. An error of ``handle`` goes to the loop's exception handler.
    """

    def __init__(self, provider: Provider, handle: Callable[[Event], None]) -> None:
        self._provider = provider
        self._handle = handle
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._soon: asyncio.Handle | None = None
        self._filenos = tuple(provider.filenos())
        for fileno in self._filenos:
            self._loop.add_reader(fileno, self._run)
        self.poke()

    def poke(self) -> None:
        """Something was posted: have it sent."""
        if self._soon is None:
            self._soon = self._loop.call_soon(self._run)

    def close(self) -> None:
        """Leave the loop. The provider stays open."""
        for fileno in self._filenos:
            self._loop.remove_reader(fileno)
        for handle in (self._timer, self._soon):
            if handle is not None:
                handle.cancel()

    def _run(self) -> None:
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        events = self._provider.process(self._loop.time())
        if events:
            self.poke()
            for event in events:
                self._handle(event)
        if self._timer is not None:
            self._timer.cancel()
        due = self._provider.next_timer()
        self._timer = None if due is None else self._loop.call_at(due, self._run)
