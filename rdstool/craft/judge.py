"""Whether what a peer does meets an expectation, and how that is told."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

from dissectors.wire.rds import Flags
from rdstool.craft.hearing import Came
from rdstool.craft.scenario import ENDS, SILENCE, Action, Expect, Scenario, Send, Strictness
from rdstool.protocol.kinds import Transport
from rdstool.transport.ib.names import ROCE
from rdstool.transport.tcp.sockets import MakeSocket

_UNASKED = frozenset({"congestion", "probe"})
"""What every peer sends without being asked: it breaks no silence."""


@dataclass(frozen=True, slots=True)
class Line:
    """Something that happened in a scenario."""

    time_s: float
    """Since the beginning."""
    arrow: str
    """``->`` we did it, ``<-`` the peer did, or nothing: a judgement."""
    text: str
    path: str = ""
    line: int | None = None
    """Line of the scenario's file."""
    verdict: str = ""
    """``ok`` or ``differs``, behind an expectation."""


@dataclass(slots=True)
class Verdict:
    """How a scenario ended."""

    scenario: Scenario
    difference: str = ""
    """What the peer did otherwise; empty where it kept to the scenario."""
    line: int = 0
    """The step that showed it."""
    lines: list[Line] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether the peer did all that it has to."""
        return not self.difference or self.scenario.strictness is Strictness.SHOULD


@dataclass(frozen=True, slots=True)
class Match:
    """Who plays against whom."""

    own: str
    peer: str
    seed: int
    """Generation number and source ports are drawn from it: in every run we are to look like a host just started."""
    patience: float = 1.0
    """Factor for the time that the peer is given to act; silence is as long as the scenario says."""
    transport: Transport = Transport.TCP
    provider: str = ROCE
    """Provider of InfiniBand."""
    cookie: int | None = None
    """Of memory that the peer offers, for scenarios that use it."""
    make_socket: MakeSocket = socket.socket
    """Makes a socket of a family and kind for ``roce``, in another network namespace, say."""


class Differs(Exception):  # noqa: N818 - no error of ours
    """The peer did otherwise."""


@dataclass(slots=True)
class Seen:
    """What an expectation has met so far."""

    count: int = 0
    last: str = ""
    near: str = ""
    """What was wrong with messages of the right kind."""


def meets(came: Came, step: Expect, seen: Seen) -> bool:
    """True where the expectation is met now. Raises ``Differs`` where it cannot be any more."""
    if "flags" not in step.fields and (came.field("flags") or 0) & Flags.RETRANSMITTED:
        return False  # was sent on an earlier connection first, perhaps in another run
    if came.what in step.outcomes:
        wrong = _mismatch(came, step)
        seen.near = wrong or seen.near
        seen.count += not wrong
        seen.last = came.words()
        if wrong and came.what in ENDS:
            raise Differs(f"the connection was {came.words()}{wrong}")
        return came.what in ENDS or (not wrong and seen.count >= step.count)
    if came.what in ENDS:
        raise Differs(f"the connection was {came.words()}")
    if SILENCE in step.outcomes and came.what not in _UNASKED:
        raise Differs(f"{came.words()} came")
    return False


def _mismatch(came: Came, step: Expect) -> str:
    """What is otherwise in a message; empty where it is as expected."""
    wrong = [
        f"{name} {came.field(name)} instead of {value}"
        for name, value in step.fields.items()
        if came.has_fields and came.field(name) != value
    ]
    return f"; a {came.what} had {', '.join(wrong)}" if wrong else ""


def words(step: Expect) -> str:
    """An expectation for people."""
    what = " or ".join(step.outcomes)
    fields = "".join(f" {name} {value}" for name, value in step.fields.items())
    times = f" {step.count} times" if step.count > 1 else ""
    limit = f" of {step.at_most} at most" if step.at_most is not None else ""
    return f"{what}{fields}{times}{limit}"


def sent_words(step: Send, count: int) -> str:
    """What was sent, for people."""
    what = "bytes" if step.action is Action.BYTES else step.action.value
    times = f" {count} times" if count > 1 else ""
    details = ", ".join(f"{key} {_short(value)}" for key, value in step.values.items())
    return f"{what}{times}{f' ({details})' if details else ''}"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
