"""RDMA READ, WRITE and atomic operations: from request to answer (InfiniBand Architecture vol. 1, §9.4, §9.7)."""

from __future__ import annotations

from dataclasses import dataclass, field

from dissectors.wire.infiniband import AckKind, NakCode, Opcode
from rdstool.capture.events import Event, Nak, RdmaKind, RdmaOperation

MAX_PENDING = 1024
"""Operations of one direction that may wait for their answer; no adapter has more in flight."""
MAX_EARLY = 1024
"""Responses kept that came before their request was read: it waits behind a hole, or the capture reorders."""
SETTLE_FRAMES = 64
"""Frames after the last response in which missing ones may still come, in a capture that reorders."""
NAK_NAMES: dict[int, str] = {
    NakCode.PSN_SEQUENCE: "PSN sequence error",
    NakCode.INVALID_REQUEST: "invalid request",
    NakCode.REMOTE_ACCESS: "remote access error",
    NakCode.REMOTE_OPERATIONAL: "remote operational error",
    NakCode.INVALID_RD_REQUEST: "invalid RD request",
}
RNR_NAME = "receiver not ready"
UNKNOWN = "unknown"
_ACKNOWLEDGE, _ATOMIC_ACKNOWLEDGE = int(Opcode.ACKNOWLEDGE), int(Opcode.ATOMIC_ACKNOWLEDGE)
_READ_RESPONSES = range(Opcode.READ_RESPONSE_FIRST, Opcode.READ_RESPONSE_ONLY + 1)
_ATOMICS = (RdmaKind.COMPARE_SWAP, RdmaKind.FETCH_ADD)
_ANSWERED = (_ACKNOWLEDGE, _ATOMIC_ACKNOWLEDGE, int(Opcode.READ_RESPONSE_LAST), int(Opcode.READ_RESPONSE_ONLY))
"""Opcodes that say that all requests before were carried out."""


@dataclass(slots=True, eq=False)
class Pending:
    """An operation on its way. ``end`` is the number of its last packet or response."""

    stream: int
    direction: int
    kind: RdmaKind
    va: int
    rkey: int
    length: int
    psn: int
    end: int
    first_frame: int
    frame: int
    time: int
    seen: int = 0
    received: int = 0
    """Bytes of the responses on the wire."""
    status: str = UNKNOWN
    operands: tuple[int, ...] = ()
    cut: bool = False
    """Its header with memory and length was not captured."""
    settled: bool = False
    answered: int = 0
    """Frame of an answer that says that all responses were sent; 0: none yet."""
    numbers: set[int] = field(default_factory=set)
    """Responses that were counted, to tell repeated ones."""

    def event(self) -> RdmaOperation:
        """The operation as it is known now."""
        return RdmaOperation(
            self.frame,
            self.time,
            self.stream,
            self.direction,
            self.kind,
            self.va,
            self.rkey,
            self.length,
            self.seen,
            self.first_frame,
            self.psn,
            self.status,
            self.operands,
            self.cut,
        )


@dataclass(frozen=True, slots=True)
class Response:
    """A packet that answers requests. ``psn`` is unwrapped, ``original`` the value that an atomic found."""

    frame: int
    time: int
    opcode: int
    psn: int
    size: int
    seen: int
    """Payload bytes on the wire, and in the capture."""
    syndrome: int
    original: int


class Operations:
    """The RDMA operations that one direction of a stream asks for."""

    __slots__ = ("_acknowledged", "_acknowledged_in", "_early", "_pending")

    def __init__(self) -> None:
        self._pending: list[Pending] = []
        self._early: dict[int, Response] = {}
        """By number, in the order in which they came."""
        self._acknowledged: int | None = None
        self._acknowledged_in = 0

    @property
    def idle(self) -> bool:
        """No operation waits for an answer."""
        return not self._pending

    def request(self, operation: Pending, events: list[Event]) -> None:
        """A request was seen to its last packet."""
        self._pending.append(operation)
        for psn in tuple(self._early):
            if operation.psn <= psn <= operation.end and self._answer(self._early[psn], events):
                del self._early[psn]
        if not operation.settled and self._acknowledged is not None and self._acknowledged >= operation.end:
            # It was read late, behind a hole: that it was carried out was known before.
            operation.status = "ok"
            operation.answered = self._acknowledged_in
            if operation.kind is RdmaKind.WRITE:
                self._pending.remove(operation)
                self._settle(operation, events)
        if len(self._pending) > MAX_PENDING:
            self._settle(self._pending.pop(0), events)

    def response(self, response: Response, events: list[Event], stream: int, direction: int) -> None:
        """An answer to requests of this direction was seen."""
        kind = response.syndrome >> 5 & 3
        if response.opcode == _ACKNOWLEDGE and kind != AckKind.ACK:
            code = response.syndrome & 0x1F
            name = RNR_NAME if kind == AckKind.RNR_NAK else NAK_NAMES.get(code, f"NAK code {code}")
            events.append(Nak(response.frame, response.time, stream, direction, response.psn, name))
            if kind == AckKind.NAK and code != NakCode.PSN_SEQUENCE:
                self._refuse(response, name, events)
            return
        if not self._answer(response, events) and response.opcode != _ACKNOWLEDGE:
            self._early.setdefault(response.psn, response)
            if len(self._early) > MAX_EARLY:
                del self._early[next(iter(self._early))]
        if response.opcode in _ANSWERED:
            self.acknowledged(response.psn, response.frame, response.time, events)

    def acknowledged(self, psn: int, frame: int, time: int, events: list[Event]) -> None:
        """Take note that all requests up to ``psn`` were carried out."""
        if self._acknowledged is None or psn > self._acknowledged:
            self._acknowledged, self._acknowledged_in = psn, frame
        self._acknowledge(psn, frame, time, events)

    def finish(self, events: list[Event]) -> None:
        """No more answers will come."""
        while self._pending:
            self._settle(self._pending.pop(0), events)

    def _answer(self, response: Response, events: list[Event]) -> bool:
        for operation in self._pending:
            if operation.psn <= response.psn <= operation.end:
                break
        else:
            return False
        reads = operation.kind is RdmaKind.READ and response.opcode in _READ_RESPONSES
        atomic = response.opcode == _ATOMIC_ACKNOWLEDGE and operation.kind in _ATOMICS
        if not (reads or atomic) or response.psn in operation.numbers:
            return reads or atomic
        operation.numbers.add(response.psn)
        if response.frame > operation.frame:
            operation.frame, operation.time = response.frame, response.time
        operation.seen += response.seen
        operation.received += response.size
        if atomic:
            operation.operands += (response.original,)
        if operation.received >= operation.length:
            operation.status = "ok"
            self._pending.remove(operation)
            self._settle(operation, events)
        return True

    def _acknowledge(self, psn: int, frame: int, time: int, events: list[Event]) -> None:
        for operation in tuple(self._pending):
            if operation.end > psn:
                return
            operation.status = "ok"
            if operation.kind is RdmaKind.WRITE:
                if frame > operation.frame:
                    operation.frame, operation.time = frame, time
            else:
                operation.answered = operation.answered or frame
                if frame - operation.answered < SETTLE_FRAMES:
                    continue
            self._pending.remove(operation)
            self._settle(operation, events)

    def _refuse(self, response: Response, name: str, events: list[Event]) -> None:
        while self._pending and self._pending[0].psn <= response.psn:
            operation = self._pending.pop(0)
            if operation.end >= response.psn:
                operation.status = name
                operation.frame, operation.time = response.frame, response.time
            else:
                operation.status = "ok"
            self._settle(operation, events)

    @staticmethod
    def _settle(operation: Pending, events: list[Event]) -> None:
        operation.settled = True
        operation.numbers.clear()
        events.append(operation.event())
