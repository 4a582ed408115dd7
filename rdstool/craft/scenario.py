"""What a scenario consists of, as it is played."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from rdstool.protocol.kinds import Transport


class Role(Enum):
    """Whose address is the smaller one, which decides who connects (protocol.md §4.2)."""

    SMALLER = "smaller"
    """Ours: we connect."""
    LARGER = "larger"
    """The peer's: it connects to us."""


class Strictness(Enum):
    """What it means that the peer does otherwise."""

    MUST = "must"
    """A peer that does otherwise is at fault."""
    SHOULD = "should"
    """It differs from most, which is told and no more."""


class Action(Enum):
    """What we do in a step; the values are those of ``"->"``."""

    CONNECT = "connect"
    CROWD = "crowd"
    """Connect many times."""
    MESSAGE = "message"
    PING = "ping"
    PONG = "pong"
    PROBE = "probe"
    PROBE_REPLY = "probe-reply"
    CONGESTION = "congestion"
    BYTES = "bytes"
    """Bytes that are no message."""
    FINISH = "finish"
    """Send FIN, and go on reading."""
    RESET = "reset"
    WAIT = "wait"
    WRITE = "write"
    READ = "read"
    FETCH_ADD = "fetch-add"
    COMPARE_SWAP = "compare-swap"
    """RDMA and atomics, over InfiniBand."""
    PACKET = "packet"
    """One packet of a reliable connection, beside those that the connection sends by itself."""


MESSAGES = frozenset({Action.MESSAGE, Action.PING, Action.PONG, Action.PROBE, Action.PROBE_REPLY, Action.CONGESTION})
"""Actions that send messages with a header."""

REMOTE = frozenset({Action.WRITE, Action.READ, Action.FETCH_ADD, Action.COMPARE_SWAP})
"""Actions that use the peer's memory."""
OFFERED = "offered"
"""``rkey`` of memory that the peer offers, as a program told us."""

CLOSED, RESET, SILENCE, CONNECTION, CROWD = "closed", "reset", "silence", "connection", "crowd"
ACCEPTED, REJECTED, UNANSWERED, BROKEN = "accepted", "rejected", "unanswered", "broken"
NAK, DONE = "nak", "done"
ENDS = frozenset({CLOSED, RESET, REJECTED, UNANSWERED, BROKEN})
"""Outcomes after which a connection is no more."""
EXTENSION_FIELDS = frozenset({"npaths", "gen_num", "sport_idx"})
"""Fields of extension headers that a handshake message can be expected to have."""


@dataclass(frozen=True, slots=True)
class Send:
    """A step of ours."""

    line: int
    """Line of the step in the file."""
    action: Action
    path: str
    """Name of the path."""
    after_s: float = 0.0
    """Pause before it."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """Header fields and payload of a message, as the scenario has them; checked when it was read."""
    count: int = 1
    """How many times."""
    every_s: float = 0.0
    """Pause between two of them, or between two chunks."""
    chunk_bytes: int = 0
    """Write so many bytes at a time; 0: as much as goes."""
    cut_bytes: int | None = None
    """Send only so many bytes of the message."""
    reading: bool = True
    """CONNECT: read what comes. Otherwise the peer meets a reader that never reads."""
    source_path: int | None = None
    """CONNECT: take a TCP source port that tells this path; None: that of the path itself."""


@dataclass(frozen=True, slots=True)
class Expect:
    """A step of the peer."""

    line: int
    outcomes: tuple[str, ...]
    """What is allowed; of several, whichever comes first."""
    path: str
    within_s: float
    """How long it may take; with SILENCE alone, how long it must last."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """What the message must have in it."""
    count: int = 1
    """How many such messages."""
    at_most: int | None = None
    """CROWD: connections that may stay open."""


Step = Send | Expect


@dataclass(frozen=True, slots=True)
class Scenario:
    """One behaviour, and what follows from it."""

    file: str
    id: str
    title: str
    requirement: str
    """What the peer has to do, in words."""
    source: str
    """Where that is from."""
    strictness: Strictness
    transport: Transport
    role: Role
    """Over TCP; over InfiniBand either side may connect."""
    ports: Mapping[str, int]
    paths: Mapping[str, int]
    steps: tuple[Step, ...]
