"""What a node holds of messages whose last fragment is yet to come, over all InfiniBand connections.

Over TCP such bytes wait in the system's buffers; here the node has to take each fragment. So their sum is bounded:
beyond that the connection is ended that waits longest for its next fragment. An honest peer sends the message again.
"""

from __future__ import annotations

from typing import Protocol

from rdstool.protocol.counters import Counters
from rdstool.protocol.reasons import DropReason


class Receiver(Protocol):
    """The lane of a connection."""

    def drop(self, reason: DropReason, detail: str, now: float, *, abort: bool = False) -> None:
        """End the connection."""


class Unfinished:
    """Counts them, up to ``limit`` bytes."""

    def __init__(self, limit: int, counters: Counters) -> None:
        self._limit = limit
        self._counters = counters
        self._held: dict[Receiver, int] = {}
        """Bytes, by lane; first the one that has had no fragment for longest."""
        self.held = 0
        """Bytes of all."""

    def __contains__(self, lane: Receiver) -> bool:
        return lane in self._held

    def note(self, lane: Receiver, held: int, now: float) -> None:
        """A lane holds so many bytes after a fragment. Makes room where that is too much."""
        self.forget(lane)
        if held:
            self._held[lane] = held
            self.held += held
        while self.held > self._limit:
            oldest = next(iter(self._held))
            self.forget(oldest)
            self._counters.dropped_unfinished += 1
            oldest.drop(DropReason.UNFINISHED_MESSAGE, "", now, abort=True)

    def forget(self, lane: Receiver) -> None:
        """Forget a connection: it holds nothing any more."""
        self.held -= self._held.pop(lane, 0)
