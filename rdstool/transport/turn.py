"""Takes turns at the connections of a node: its event loop, and threads of the application that wait."""

from __future__ import annotations

import threading
from collections.abc import Callable

REFUSALS = 20
"""Times in a row that the loop comes again because threads of the application are at it."""


class Turn:
    """Whose turn it is has ``lock`` as well; ``with`` waits for both.

    Whoever touches the engine holds the lock. Whoever reads or closes connections needs the turn: it may let go of the
    lock for a while, and finds the connections as they were.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._turn = threading.Lock()
        self._refused = 0
        """Times in a row that the loop came in vain."""

    def begin(self) -> None:
        """Wait until the others have done."""
        self._turn.acquire()
        self.lock.acquire()

    def end(self) -> None:
        """Let others go on."""
        self.lock.release()
        self._turn.release()

    def __enter__(self) -> None:
        self.begin()

    def __exit__(self, *_exc: object) -> None:
        self.end()

    def politely(self, do: Callable[[], None]) -> bool:
        """Have the loop do something in a turn; False where it is to come again, for an application's thread is at it.

        That thread would have to wake the loop, and often wait for it: it gets on faster alone. One that is always at
        it is interrupted in the end.
        """
        if self._refused < REFUSALS:
            if not self._turn.acquire(blocking=False):
                self._refused += 1
                return False
            if not self.lock.acquire(blocking=False):
                self._turn.release()
                self._refused += 1
                return False
        else:
            self.begin()
        self._refused = 0
        try:
            do()
        finally:
            self.end()
        return True

    def begin_locked(self) -> bool:
        """Begin, by a thread that holds the lock and goes on holding it; False where another thread is at it."""
        return self._turn.acquire(blocking=False)

    def end_locked(self) -> None:
        """End, and go on holding the lock."""
        self._turn.release()
