"""The states of a queue pair (InfiniBand Architecture vol. 1, §10.3.1), in one table.

    RESET -> INIT -> RTR -> RTS
      any of them -> ERROR

INIT takes work requests and does nothing yet; RTR (ready to receive) answers the peer; RTS (ready to send) also sends
requests. In ERROR everything that is posted is flushed.
"""

from __future__ import annotations

from enum import Enum, IntEnum

from rdstool.protocol.errors import LocalProtocolError


class QueuePairState(IntEnum):
    """States of a queue pair, with the numbers of ``ibv_qp_state``."""

    RESET = 0
    INIT = 1
    RTR = 2
    RTS = 3
    ERROR = 6


class QueuePairInput(Enum):
    """What happens to a queue pair."""

    POST = "work may be posted"
    RECEIVE = "the peer is known"
    SEND = "the peer is ready"
    FAIL = "it failed, or its connection has ended"


S, G = QueuePairState, QueuePairInput

TRANSITIONS: dict[tuple[QueuePairState, QueuePairInput], QueuePairState] = {
    (S.RESET, G.POST): S.INIT,
    (S.INIT, G.RECEIVE): S.RTR,
    (S.RTR, G.SEND): S.RTS,
    (S.RESET, G.FAIL): S.ERROR,
    (S.INIT, G.FAIL): S.ERROR,
    (S.RTR, G.FAIL): S.ERROR,
    (S.RTS, G.FAIL): S.ERROR,
    (S.ERROR, G.FAIL): S.ERROR,
}
"""(state, input) -> next state."""


def step(state: QueuePairState, given: QueuePairInput) -> QueuePairState:
    """What ``given`` leads to. Raises ``LocalProtocolError`` where it is not possible in ``state``."""
    try:
        return TRANSITIONS[state, given]
    except KeyError:
        raise LocalProtocolError(f"a queue pair in {state.name} cannot take {given.name}: {given.value}") from None
