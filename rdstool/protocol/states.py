"""The state of one path: the kernel's six states, and what leads from one to another.

``net/rds/connection.c`` and ``threads.c`` keep one atomic per path and let each caller name the states that it
may leave. Here the same is one table, so that what is not in it is an error of the caller.

    DOWN -> CONNECTING -> UP -> ERROR -> DISCONNECTING -> DOWN

DIAL and ACCEPT leave DOWN. A path whose own attempt is overtaken by the peer's connection (only the larger address
can see that, §4.2 and 4.3) goes through RESETTING. Whatever is wrong with a path is a DROP: it leads to ERROR from
anywhere, and from there the one way back is through DISCONNECTING, in which the old TCP connection is emptied.
A larger address whose attempt succeeds has only knocked: it drops the path at once and waits to be connected to.
"""

from __future__ import annotations

from enum import Enum, IntEnum

from rdstool.protocol.errors import LocalProtocolError


class PathState(IntEnum):
    """``RDS_CONN_*`` with the kernel's numbers (protocol.md §10)."""

    DOWN = 0
    CONNECTING = 1
    DISCONNECTING = 2
    UP = 3
    RESETTING = 4
    ERROR = 5


class PathInput(Enum):
    """What happens to a path."""

    DIAL = "we begin to connect"
    ACCEPT = "a connection of the peer takes this path"
    ESTABLISHED = "the TCP connection is ready for messages"
    DIAL_FAILED = "our attempt to connect failed"
    DROP = "the connection failed or is to be given up"
    SHUT_DOWN = "the old TCP connection is being closed"
    CLOSED = "the old TCP connection is gone"


class Action(Enum):
    """What a path does when it changes state."""

    NOTHING = "nothing"
    REPLACE = "give up our own attempt for the peer's connection"
    START = "send the congestion map, what is unacknowledged, and what waits"
    STOP = "send no more"
    CLOSE = "close the TCP connection and hand on what it still brings"
    REQUEUE = "put what was not acknowledged in front of what waits"


S, G, A = PathState, PathInput, Action

TRANSITIONS: dict[tuple[PathState, PathInput], tuple[Action, PathState]] = {
    (S.DOWN, G.DIAL): (A.NOTHING, S.CONNECTING),
    (S.DOWN, G.ACCEPT): (A.NOTHING, S.CONNECTING),
    (S.DOWN, G.DROP): (A.NOTHING, S.ERROR),
    (S.CONNECTING, G.ESTABLISHED): (A.START, S.UP),
    (S.CONNECTING, G.DIAL_FAILED): (A.REQUEUE, S.DOWN),
    (S.CONNECTING, G.ACCEPT): (A.REPLACE, S.RESETTING),
    (S.CONNECTING, G.DROP): (A.STOP, S.ERROR),
    (S.RESETTING, G.ESTABLISHED): (A.START, S.UP),
    (S.RESETTING, G.DROP): (A.STOP, S.ERROR),
    (S.RESETTING, G.SHUT_DOWN): (A.CLOSE, S.DISCONNECTING),
    (S.UP, G.DROP): (A.STOP, S.ERROR),
    (S.UP, G.SHUT_DOWN): (A.CLOSE, S.DISCONNECTING),
    (S.ERROR, G.DROP): (A.NOTHING, S.ERROR),
    (S.ERROR, G.SHUT_DOWN): (A.CLOSE, S.DISCONNECTING),
    (S.DISCONNECTING, G.DROP): (A.NOTHING, S.ERROR),
    (S.DISCONNECTING, G.CLOSED): (A.REQUEUE, S.DOWN),
}
"""(state, input) -> (action, next state)."""


def step(state: PathState, given: PathInput) -> tuple[Action, PathState]:
    """What ``given`` leads to. Raises ``LocalProtocolError`` where it is not possible in ``state``."""
    try:
        return TRANSITIONS[state, given]
    except KeyError:
        raise LocalProtocolError(f"a path that is {state.name} cannot take {given.name}: {given.value}") from None
