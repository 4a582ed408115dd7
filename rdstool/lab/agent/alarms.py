"""Calls to the kernel that end in time: a signal interrupts those that do not."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from time import monotonic

_AGAIN_S = 0.5
"""A signal that came before the call had begun has interrupted nothing."""


class Alarms:
    """One thread watches all calls: to start one for each call takes longer than most calls do."""

    def __init__(self) -> None:
        self._due: dict[int, float] = {}
        """When the calls that are under way should have ended, by their threads."""
        self._wakes = inf
        self._changed = threading.Condition()
        self._watcher: threading.Thread | None = None
        signal.signal(signal.SIGUSR1, lambda number, frame: None)

    @contextmanager
    def after(self, seconds: float) -> Iterator[None]:
        """Interrupt what this thread waits for in the context after so many seconds."""
        due = monotonic() + seconds
        with self._changed:
            self._due[threading.get_ident()] = due
            if self._watcher is None:
                self._watcher = threading.Thread(target=self._watch, daemon=True)
                self._watcher.start()
            elif due < self._wakes:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                del self._due[threading.get_ident()]

    def _watch(self) -> None:
        with self._changed:
            while True:
                now = monotonic()
                for thread, due in self._due.items():
                    if due <= now:
                        signal.pthread_kill(thread, signal.SIGUSR1)
                        self._due[thread] = now + _AGAIN_S
                self._wakes = min(self._due.values(), default=inf)
                self._changed.wait(None if self._wakes == inf else self._wakes - now)
