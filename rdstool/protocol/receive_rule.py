"""What a receiver does with a message's number (protocol.md §4.7; kernel ``rds_recv_incoming``, ``net/rds/recv.c``)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """What becomes of a message that arrives."""

    ACCEPTED = "accepted"
    DROPPED = "dropped as a duplicate"
    EITHER = "accepted or dropped, as it is not known what arrived before"


def is_duplicate(sequence: int, retransmitted: bool, next_rx: int) -> bool:
    """True where the receiver drops the message: its number is below the expected one *and* it is flagged."""
    return retransmitted and sequence < next_rx


@dataclass(slots=True)
class Expected:
    """The number that a path expects next, known to lie in ``low`` .. ``high``.

    A kernel knows it; who looks on from outside does not know whether a message arrived that nobody acknowledged.
    """

    low: int = 0
    high: int = 0

    def receive(self, sequence: int, *, retransmitted: bool, arrived: bool) -> Verdict:
        """Judge a message and count it. ``arrived`` is False where only its sending is known."""
        if is_duplicate(sequence, retransmitted, self.low):
            return Verdict.DROPPED
        after = sequence + 1
        if is_duplicate(sequence, retransmitted, self.high):
            # Dropped by who expected more, else accepted: both expect at least the number after it.
            if arrived:
                self.low = after
            return Verdict.EITHER
        if arrived:
            self.low = self.high = after
        else:
            self.low, self.high = min(self.low, after), max(self.high, after)
        return Verdict.ACCEPTED
