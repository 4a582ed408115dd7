"""Credit flow control over InfiniBand, as both ends count it (protocol.md §7.6; kernel ``net/rds/ib_send.c``)."""

from __future__ import annotations

from dataclasses import dataclass

MAX_GRANT = 255
"""Credits that one frame grants at most: the field has eight bits."""
CREDIT_LIMIT = 16384
"""Credits that must stay unspent below this: the kernel keeps them in half of a word."""


@dataclass(slots=True)
class SendCredits:
    """What one side may still send: one credit for each SEND; RDMA costs none."""

    available: int
    """Starts with the credits of the peer's private data."""

    def grant(self, more: int) -> None:
        """The peer's frame carries ``h_credit``."""
        self.available += more

    def spend(self, sends: int) -> bool:
        """Send so many frames; False where they were not covered. The count goes on from zero then."""
        covered = sends <= self.available
        self.available = max(0, self.available - sends)
        return covered

    @property
    def overflown(self) -> bool:
        """More are unspent than the kernel can count."""
        return self.available >= CREDIT_LIMIT
