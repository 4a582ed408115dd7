"""Whether what one end sent reached RDS at the other before that end gave the connection up.

A capture shows both at one place. From there to the receiver and back is a round trip: what passes less than that
before the receiver's FIN or RST comes by cannot have been there in time, wherever the capture was made.
"""

from __future__ import annotations

from rdstool.capture.events import Closing
from rdstool.validate.moments import Moment
from rdstool.validate.rules.delivery.journal import RoundTrip, Sent

SURELY_WITHIN = 0.75
"""Of the shortest round trip seen: what came by so shortly before the end was late, give or take some jitter."""
ABOUT = 1.25
"""Round trips in which a kernel that closes a connection as soon as it has accepted it does so, give or take."""
PROMPT_NS = 2_000_000
"""Time that a kernel takes to do so at least counts as prompt, where the round trip is shorter."""


def came_too_late(sent: Sent, ended: Moment | None, trip: RoundTrip) -> bool:
    """The receiver had reset the connection before the message can have reached it.

    Behind its own FIN a kernel may still read (protocol.md §4.6; seen: 6.1).
    """
    if ended is None or ended.how is not Closing.RST or sent.acked:
        return False
    left = ended.time - sent.time
    if ended.frame < sent.frame and left <= 0:
        return True
    return trip.known and left < SURELY_WITHIN * trip.shortest


def was_told(sent: Sent, ended: Moment | None, trip: RoundTrip) -> bool:
    """The acknowledgement reached the sender before that one ended the connection: it forgets the message.

    ``trip`` is that from the place of the capture to the sender.
    """
    if not sent.acked:
        return False
    return ended is None or ended.time - sent.acked_time > trip.shortest


def closed_at_once(first: Sent, opened: Moment | None, ended: Moment | None, trip: RoundTrip) -> bool:
    """The receiver ended the connection as soon as it can have accepted it: it had no path for it."""
    if opened is None or ended is None or not trip.known or first.time < opened.time:
        return False
    return ended.time - first.time <= max(ABOUT * trip.shortest, PROMPT_NS)
