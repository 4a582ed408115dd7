"""Virtual time."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

BETWEEN_CHECKS = 32
"""Steps after which the invariants are looked at."""


class Clock:
    """Runs what is scheduled, in order of time and then of scheduling."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def after(self, delay: float, action: Callable[[], None]) -> None:
        """Do ``action`` in ``delay`` seconds."""
        self.at(self.now + delay, action)

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Do ``action`` at ``when``."""
        heappush(self._heap, (when, next(self._order), action))

    def run(self, until: float, done: Callable[[], bool]) -> int:
        """Run to the time ``until``, or until ``done``, which is asked now and then; gives the number of steps."""
        steps = 0
        while self._heap and self._heap[0][0] <= until:
            self.now, _, action = heappop(self._heap)
            action()
            steps += 1
            if steps % BETWEEN_CHECKS == 0 and done():
                return steps
        return steps
