"""One reliable connection of a scenario: what comes on it, in the words of scenarios. No protocol engine."""

from __future__ import annotations

from dissectors.wire.cm import reject_code
from dissectors.wire.infiniband import AckKind, NakCode
from dissectors.wire.rds import HEADER_BYTES, RDS_HEADER, RdsHeader
from rdstool.craft.hearing import Hear, Hearing
from rdstool.craft.scenario import ACCEPTED, BROKEN, CLOSED, DONE, NAK, REJECTED, UNANSWERED
from rdstool.protocol.ib.private import read_greeting
from rdstool.protocol.kinds import MessageKind, Transport, classify
from rdstool.transport.ib import provider as verbs

_ATOMICS = {verbs.Operation.FETCH_ADD, verbs.Operation.COMPARE_SWAP}
_NAKS = {
    verbs.Status.REMOTE_INVALID_REQUEST: NakCode.INVALID_REQUEST,
    verbs.Status.REMOTE_ACCESS_ERROR: NakCode.REMOTE_ACCESS,
    verbs.Status.REMOTE_OPERATION_ERROR: NakCode.REMOTE_OPERATIONAL,
}
"""What a failed request tells of the peer's answer, where no packets are seen."""


class Line(Hearing):
    """A connection, or the attempt at one."""

    connection: verbs.Connection

    def __init__(self, name: str, news: Hear) -> None:
        super().__init__(name, news)
        self.established = False
        self.provoked = False
        """Single packets were sent on it. Else a sequence error tells of a packet that the network has lost."""
        self.ack = 0
        """Highest sequence number of what has come: what our frames acknowledge."""
        self.posted = 0
        """SENDs that are not done."""
        self._first: RdsHeader | None = None
        self._missing = 0

    def begin(self, connection: verbs.Connection) -> None:
        """An attempt is made: the first, or one more after a refusal."""
        self.connection = connection
        self.ended = None

    def happened(self, event: verbs.Event, *, naks_seen: bool) -> None:
        """Tell an event of the connection; with ``naks_seen`` the packets themselves have told of NAKs."""
        match event:
            case verbs.Completed(operation=verbs.Operation.RECEIVE):
                if event.status is verbs.Status.SUCCESS:
                    self._frame(event.data)
            case verbs.Completed():
                self._completed(event, naks_seen=naks_seen)
            case verbs.Established():
                self.established = True
                self._accepted(event.private_data)
            case verbs.Refused():
                code = reject_code(event.private_data[:4].ljust(4, b"\0"))
                self.end_with(REJECTED, {"reason": event.reason, "code": code})
            case verbs.ConnectFailed():
                self.end_with(UNANSWERED)
            case verbs.Disconnected(by_peer=True):
                self.end_with(CLOSED)
            case verbs.Broken():
                self.end_with(BROKEN)

    def _accepted(self, data: bytes) -> None:
        said = read_greeting(data, self.connection.peer)
        if said is None:
            self.tell(ACCEPTED)
            return
        (major, minor), credit = said.version, said.credit
        values = {"major": major, "minor": minor, "minor_mask": said.minor_mask, "tos": said.tos}
        self.tell(ACCEPTED, None, {**values, "ack_seq": said.ack_seq, "credit": credit})

    def _completed(self, event: verbs.Completed, *, naks_seen: bool) -> None:
        if event.operation is verbs.Operation.SEND:
            self.posted -= 1
        elif event.status is verbs.Status.SUCCESS:
            self.tell(DONE, None, {"value": event.original} if event.operation in _ATOMICS else {})
        if event.status in _NAKS and not naks_seen:
            self.tell(NAK, None, {"syndrome": AckKind.NAK << 5 | _NAKS[event.status]})

    def _frame(self, data: bytes) -> None:
        """A SEND of the peer: a message is told when its last fragment has come."""
        if len(data) < HEADER_BYTES:
            return
        if self._first is None:
            self._first = RDS_HEADER.unpack_from(data)
            self._missing = self._first.length
        self._missing -= len(data) - HEADER_BYTES
        if self._missing > 0:
            return
        header, self._first = self._first, None
        kind = MessageKind(classify(header, Transport.IB))
        if kind not in {MessageKind.ACK, MessageKind.CONGESTION}:
            self.ack = max(self.ack, header.sequence)
        self.tell(kind.label, header)
