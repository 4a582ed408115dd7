"""Things to do at a time: the engine's only view of the future."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count

SPARSE = 64
"""Timers, cancelled ones among them, that are kept without looking which still stand."""


class Timer:
    """One thing to do at ``when``. It is due once, unless cancelled."""

    __slots__ = ("action", "when")

    def __init__(self, when: float, action: Callable[[float], None]) -> None:
        self.when = when
        """Seconds, on the caller's clock."""
        self.action: Callable[[float], None] | None = action
        """Called with the time; None once cancelled or done."""

    def cancel(self) -> None:
        """Never call the action."""
        self.action = None


class Timers:
    """Timers in order of time; those of the same time in the order in which they were set."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = count()
        self._crowded = SPARSE

    def __len__(self) -> int:
        """Timers that are kept: those that stand, and cancelled ones that have not been cleared away yet."""
        return len(self._heap)

    def at(self, when: float, action: Callable[[float], None]) -> Timer:
        """Do ``action(now)`` at ``when`` seconds."""
        if len(self._heap) >= self._crowded:
            self._clear_away()
        timer = Timer(when, action)
        heappush(self._heap, (when, next(self._order), timer))
        return timer

    def _clear_away(self) -> None:
        """Drop cancelled timers: a peer that connects and goes, again and again, has two of them made each time."""
        self._heap = [entry for entry in self._heap if entry[2].action is not None]
        heapify(self._heap)
        self._crowded = max(SPARSE, 2 * len(self._heap))

    def next(self) -> float | None:
        """The time of the first timer that still stands, or None."""
        heap = self._heap
        while heap and heap[0][2].action is None:
            heappop(heap)
        return heap[0][0] if heap else None

    def run(self, now: float) -> None:
        """Do everything that is due at ``now``. What it sets for ``now`` waits for the next call."""
        due = []
        heap = self._heap
        while heap and heap[0][0] <= now:
            due.append(heappop(heap)[2])
        for timer in due:
            action, timer.action = timer.action, None
            if action is not None:
                action(now)
