"""A reliable connection: a queue pair, and the dialogue of management datagrams that makes and ends it (§12.9).

    active    IDLE -> REQ_SENT ------------------> ESTABLISHED -> DREQ_SENT -> TIMEWAIT
    passive   IDLE -> REQ_RCVD -> REP_SENT ------> ESTABLISHED -> TIMEWAIT

REQ, REP and DREQ are sent again until they are answered. MRA only makes the other side wait longer. A packet of the
queue pair itself does as well as the RTU that should have come before it. What has ended stays in TIMEWAIT for the
rest of its life: a new attempt is a new connection.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Protocol

from rdstool.protocol.errors import LocalProtocolError
from rdstool.protocol.timers import Timer
from rdstool.transport.ib.provider import Completed, ConnectionOptions, Event, Operation, Status
from rdstool.transport.ib.roce.counters import Counters
from rdstool.transport.ib.roce.mads import ManagementMessage
from rdstool.transport.ib.roce.memory import MemoryTable
from rdstool.transport.ib.roce.queue_pair import QueuePair


class CmState(IntEnum):
    """States of the dialogue, with the kernel's names (``enum ib_cm_state``) where it has the same ones."""

    IDLE = 0
    REQ_SENT = 1
    REQ_RCVD = 2
    REP_SENT = 3
    ESTABLISHED = 4
    DREQ_SENT = 5
    TIMEWAIT = 6


class CmInput(Enum):
    """What moves the dialogue."""

    CONNECT = "connect is called"
    REQUEST = "REQ has come"
    ACCEPT = "accept is called"
    READY = "REP or RTU has come, or a packet that says as much"
    DISCONNECT = "disconnect is called"
    END = "REJ, DREQ or DREP has come, no answer has, or reject is called"


S, G = CmState, CmInput

TRANSITIONS: dict[tuple[CmState, CmInput], CmState] = {
    (S.IDLE, G.CONNECT): S.REQ_SENT,
    (S.IDLE, G.REQUEST): S.REQ_RCVD,
    (S.REQ_RCVD, G.ACCEPT): S.REP_SENT,
    (S.REQ_SENT, G.READY): S.ESTABLISHED,
    (S.REP_SENT, G.READY): S.ESTABLISHED,
    (S.ESTABLISHED, G.DISCONNECT): S.DREQ_SENT,
    (S.IDLE, G.END): S.TIMEWAIT,
    (S.REQ_SENT, G.END): S.TIMEWAIT,
    (S.REQ_RCVD, G.END): S.TIMEWAIT,
    (S.REP_SENT, G.END): S.TIMEWAIT,
    (S.ESTABLISHED, G.END): S.TIMEWAIT,
    (S.DREQ_SENT, G.END): S.TIMEWAIT,
}
"""(state, input) -> next state."""


class Dialogues(Protocol):
    """Who speaks for a connection with its peer."""

    def accept(self, connection: RoceConnection, private_data: bytes, options: ConnectionOptions) -> None:
        """Send REP."""

    def reject(self, connection: RoceConnection, private_data: bytes) -> None:
        """Send REJ."""

    def disconnect(self, connection: RoceConnection, private_data: bytes) -> None:
        """Send DREQ, or REJ where it is not established."""


class Owner(Protocol):
    """What a connection needs of its device."""

    memory: MemoryTable
    counters: Counters
    events: list[Event]

    @property
    def manager(self) -> Dialogues:
        """Makes and ends connections."""

    def wake(self, pair: QueuePair) -> None:
        """A queue pair may have something to send."""

    def broke(self, connection: RoceConnection, detail: str) -> None:
        """A queue pair failed by itself."""


class RoceConnection(QueuePair):
    """One reliable connection of a device; implements ``provider.Connection``."""

    def __init__(self, device: Owner, number: int, receive_psn: int, peer: str, options: ConnectionOptions) -> None:
        super().__init__(number, receive_psn, device.memory, device.counters, self._done, self._failed, device.wake)
        self._device = device
        self.peer = peer
        self.options = options
        self.cm_state = CmState.IDLE
        self.service_id = 0
        self.local_id = 0
        """Our communication ID; 0 for a queue pair without a dialogue."""
        self.remote_id = 0
        self.remote_number = 0
        """The peer's queue pair."""
        self.transaction = 0
        self.request: ManagementMessage | None = None
        """The REQ that it began with."""
        self.repeated: bytes | None = None
        """The message that is sent until it is answered, or sent again when the peer shows that it was lost."""
        self.repeats_left = 0
        self.answer_timer: Timer | None = None

    def __repr__(self) -> str:
        return f"<RoceConnection {self.number:#x} to {self.peer} {self.cm_state.name} {self.state.name}>"

    def move(self, given: CmInput) -> None:
        """Change the state of the dialogue. Raises ``LocalProtocolError`` where ``given`` is not possible in it."""
        try:
            self.cm_state = TRANSITIONS[self.cm_state, given]
        except KeyError:
            state = self.cm_state.name
            raise LocalProtocolError(f"a connection in {state} cannot take {given.name}: {given.value}") from None

    def accept(self, private_data: bytes = b"", options: ConnectionOptions | None = None) -> None:
        """Answer the peer's request with REP."""
        self._device.manager.accept(self, private_data, options or self.options)

    def reject(self, private_data: bytes = b"") -> None:
        """Answer the peer's request with REJ."""
        self._device.manager.reject(self, private_data)

    def disconnect(self, private_data: bytes = b"") -> None:
        """End the connection, or the attempt. Once more does no harm."""
        self._device.manager.disconnect(self, private_data)

    def _done(
        self,
        wr_id: int,
        operation: Operation,
        status: Status,
        data: bytes = b"",
        original: int = 0,
        solicited: bool = False,
        /,
    ) -> None:
        # As Completed(...), in a third of the time.
        self._device.events.append(
            tuple.__new__(Completed, (self, wr_id, operation, status, data, original, solicited))
        )

    def _failed(self, detail: str) -> None:
        self._device.broke(self, detail)
