"""Messages of communication management that wait to be sent, and the wait for their answers (§12.9.8)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from dissectors.wire.cm import Attribute, CmRej, RejectReason
from rdstool.transport.ib.roce import letters
from rdstool.transport.ib.roce.connection import RoceConnection
from rdstool.transport.ib.roce.letters import ABOUT_REQ, REJ_ROOM, RESPONSE_TIME, RETRIES
from rdstool.transport.ib.roce.mads import ManagementMessage, pack
from rdstool.transport.ib.roce.numbers import coded_time_s
from rdstool.transport.ib.roce.queue_pairs import QueuePairs

MAX_QUEUED = 1_024
"""Messages that wait to be sent."""
WAIT_S = coded_time_s(RESPONSE_TIME)
"""How long an answer is waited for before a message is sent again."""


class Outbox:
    """Where a device takes its messages from. ``unheard`` is told of a connection whose answer did not come in time."""

    def __init__(self, device: QueuePairs, unheard: Callable[[RoceConnection], None]) -> None:
        self._device = device
        self._unheard = unheard
        self._waiting: deque[tuple[str, bytes, RoceConnection | None]] = deque()
        """(peer, message, who waits for an answer to it)"""

    # ---- Messages

    def say(self, connection: RoceConnection, attribute: Attribute, body: object, *, repeat: bool = False) -> None:
        """Send a message of a dialogue; with ``repeat`` until it is answered."""
        message = pack(ManagementMessage(attribute, connection.transaction, body))
        if repeat:
            connection.repeated, connection.repeats_left = message, RETRIES
        self._put(connection.peer, message, connection if repeat else None)

    def say_again(self, connection: RoceConnection, *, wait: bool = False) -> None:
        """Send what is repeated once more; with ``wait`` for an answer."""
        if connection.repeated is not None:
            self._put(connection.peer, connection.repeated, connection if wait else None)

    def refuse(
        self, connection: RoceConnection, reason: RejectReason, about: int, private_data: bytes = bytes(REJ_ROOM)
    ) -> None:
        """End a dialogue that has not come to a connection."""
        body = letters.refusal(connection, self._device.address, reason, about, private_data)
        self.say(connection, Attribute.REJ, body)

    def turn_away(self, peer: str, message: ManagementMessage, reason: RejectReason) -> None:
        """Refuse a request for which nothing is kept."""
        self._device.counters.requests_refused += 1
        body = CmRej(remote_comm_id=message.body.local_comm_id, message=ABOUT_REQ, reason=reason)
        self.answer(peer, message, Attribute.REJ, body)

    def answer(self, peer: str, heard: ManagementMessage, attribute: Attribute, body: object) -> None:
        """Answer a message outside of any dialogue."""
        self._put(peer, pack(ManagementMessage(attribute, heard.transaction, body)))

    def _put(self, peer: str, message: bytes, waits: RoceConnection | None = None) -> None:
        if len(self._waiting) >= MAX_QUEUED and waits is None:
            self._device.counters.mads_dropped += 1
        else:
            self._waiting.append((peer, message, waits))

    def next_message(self, now: float) -> tuple[str, bytes] | None:
        """The next message to send, and to whom. The time for its answer begins."""
        if not self._waiting:
            return None
        peer, message, waits = self._waiting.popleft()
        if waits is not None and waits.repeated is message:
            self.wait(waits, now, WAIT_S)
        return peer, message

    # ---- Answers

    def wait(self, connection: RoceConnection, now: float, wait_s: float) -> None:
        """Wait so long for the answer, from now on."""
        self.answered(connection)
        connection.answer_timer = self._device.timers.at(now + wait_s, lambda _: self._unheard(connection))

    @staticmethod
    def answered(connection: RoceConnection) -> None:
        """Stop waiting for an answer."""
        if connection.answer_timer is not None:
            connection.answer_timer.cancel()
            connection.answer_timer = None
