"""What the story of an address pair is made of: sendings of messages, and what each connection carried."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from rdstool.protocol.receive_rule import Expected, Verdict
from rdstool.validate.moments import Moment
from rdstool.validate.rules.delivery.journal import Kept, Sent
from rdstool.validate.rules.delivery.lanes import Lane


class Refusal(Enum):
    """Signs that the receiver's RDS never took a connection up."""

    NONE = "no sign that it did not"
    LIKELY = "it said nothing and closed the connection as soon as it can have accepted it"
    CERTAIN = "it ended without having sent the bitmap that comes first"


@dataclass(frozen=True, slots=True)
class Copy:
    """One sending and what the model says of it."""

    sent: Sent
    verdict: Verdict
    expected: Expected
    arrived: bool
    """Acknowledged while the receiver had not ended the connection: RDS has read it."""
    missed: bool
    """It never reached the receiver's RDS: cut short, too late, or the connection was given up without being read."""
    refusal: Refusal

    @property
    def delivered(self) -> bool:
        """RDS has read it and handed it on."""
        return self.verdict is Verdict.ACCEPTED and self.arrived

    @property
    def dropped(self) -> bool:
        """RDS has read it and taken it for a duplicate."""
        return self.verdict is Verdict.DROPPED and self.arrived

    @property
    def unread(self) -> bool:
        """Whether it reached no RDS, surely or very likely."""
        return self.missed or self.refusal is not Refusal.NONE


@dataclass(slots=True)
class Leg:
    """One direction of one connection."""

    stream: int
    flow: int
    lane: Lane
    known: bool
    """The lane was there before."""
    proved: bool
    """It is this lane: its number says so, or messages that it has sent before."""
    kept: Kept
    refusal: Refusal
    ended: Moment | None
    """How the receiver ended the connection, if it did."""
    heard: bool
    """The receiver sent messages on it."""

    @property
    def sent(self) -> list[Sent]:
        """Its messages, at least one."""
        return self.kept.sent
