"""One end's part in credit flow control (protocol.md §7.6; kernel ``rds_ib_send_grab_credits``)."""

from __future__ import annotations

from rdstool.protocol.credits import CREDIT_LIMIT, MAX_GRANT, SendCredits

UPDATE_AT = 16
"""Receives that were posted and not told of: from here on the peer is told even where there is nothing to send. With
a small ring it is told at half of it."""


class FlowControl:
    """What this side may send, and what it has yet to grant. Exists only where both sides use credits."""

    __slots__ = ("_update_at", "send", "to_grant")

    def __init__(self, initial: int, ring: int) -> None:
        """``initial`` credits of the peer's private data; ``ring`` receives are posted here."""
        self._update_at = min(UPDATE_AT, max(1, ring // 2))
        self.send = SendCredits(min(initial, CREDIT_LIMIT - 1))
        """Credits of the peer; at first those of its private data."""
        self.to_grant = 0
        """Receives posted since, which the peer does not know of."""

    def posted(self, receives: int) -> bool:
        """``receives`` more were posted; True where the peer should be told soon."""
        self.to_grant += receives
        return self.to_grant >= self._update_at

    def granted(self, credit: int) -> None:
        """A frame of the peer carries ``h_credit``. More than a kernel can count are not taken."""
        self.send.grant(min(credit, CREDIT_LIMIT - 1 - self.send.available))

    def grab(self, wanted: int) -> tuple[int, int]:
        """Take credits for up to ``wanted`` frames; returns how many may be sent, and what the first one grants.

        The last credit is kept for a frame that grants some itself: else both sides could wait for each other.
        """
        available = self.send.available
        if available and not self.to_grant:
            available -= 1
        frames = min(available, wanted)
        if not frames:
            return 0, 0
        self.send.spend(frames)
        grant = min(self.to_grant, MAX_GRANT)
        self.to_grant -= grant
        return frames, grant
