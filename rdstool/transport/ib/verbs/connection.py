"""A reliable connection of a device: a queue pair that RDMA-CM connects.

    active    RESOLVING -> ASKING -----------> ESTABLISHED -> ENDED
    passive   ASKED -> ANSWERED -------------> ESTABLISHED -> ENDED

Requests are posted at any time. Receives go to the device at once, others when the connection is established. Its end
flushes everything; the queue pair is gone from then on.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Protocol

import pyverbs.enums as e
from pyverbs.pyverbs_error import PyverbsError

from rdstool.errors import TransportError
from rdstool.protocol.errors import LocalProtocolError
from rdstool.transport.ib.checks import check_atomic, check_remote
from rdstool.transport.ib.provider import (
    ATOMIC_BYTES,
    MAX_MESSAGE_BYTES,
    Buffer,
    ConnectionOptions,
    Operation,
    Segment,
    Status,
)
from rdstool.transport.ib.verbs.memory import Pool, Slot
from rdstool.transport.ib.verbs.pair import RECEIVE_DEPTH, SEND_DEPTH, Pair, Request
from rdstool.transport.ib.verbs.rdmacm import (
    ANSWER_ROOM,
    REJECT_ROOM,
    ConnectionId,
    ConnectionParameters,
    check_room,
)

MAX_WORK_REQUESTS = 16_384
"""Receives, and other requests, that may be posted at a time."""
_U64 = 1 << 64


class State(Enum):
    """States of a connection."""

    RESOLVING = "looking for the peer"
    ASKING = "REQ is sent"
    ASKED = "REQ has come"
    ANSWERED = "REP is sent"
    ESTABLISHED = "both ends are ready"
    ENDED = "ended"


class Owner(Protocol):
    """What a connection needs of its device."""

    most_reads: int
    """RDMA READs and atomics that it has under way at a time."""
    pool: Pool
    """Memory that it knows."""

    def forget(self, connection: VerbsConnection) -> None:
        """The connection has ended, or has not come to be."""

    def disconnect(self, connection: VerbsConnection) -> None:
        """End the connection, or the attempt."""

    def stir(self, connection: VerbsConnection) -> None:
        """The connection has work for the device."""

    def number(self, connection: VerbsConnection) -> int:
        """A number for a work request of the connection."""

    def drop_number(self, number: int) -> None:
        """Forget the number of a work request, of which nothing is to be heard any more."""

    def completed(self, connection: VerbsConnection, request: Request, status: Status) -> None:
        """A request has ended."""


class VerbsConnection:
    """One reliable connection; implements ``provider.Connection``."""

    def __init__(
        self, provider: Owner, identifier: ConnectionId, pair: Pair, peer: str, options: ConnectionOptions
    ) -> None:
        self.identifier = identifier
        self.pair = pair
        self.peer = peer
        self.options = options
        self.state = State.RESOLVING
        self.request_data = b""
        """Private data for REQ."""
        self.most_resources = self.most_depth = 0xFF
        """What the peer has asked for."""
        self._provider = provider
        self._receives: deque[Request] = deque()
        self._requests: deque[Request] = deque()
        self._posted: dict[int, Request] = {}
        """At the device, by number, in order."""
        self._receives_posted = 0

    def __repr__(self) -> str:
        return f"<VerbsConnection {self.pair.number:#x} to {self.peer} {self.state.name}>"

    # ---- The dialogue

    def parameters(self, private_data: bytes, options: ConnectionOptions) -> ConnectionParameters:
        """The parameters of REQ and REP."""
        most = self._provider.most_reads
        return ConnectionParameters(
            private_data,
            min(options.responder_resources, most, self.most_depth),
            min(options.initiator_depth, most, self.most_resources),
            options.retry_count,
            options.rnr_retry,
            self.pair.number,
        )

    def accept(self, private_data: bytes = b"", options: ConnectionOptions | None = None) -> None:
        """Answer the peer's request with REP."""
        self._expect(State.ASKED, "accept")
        check_room(private_data, ANSWER_ROOM)
        self.options = options or self.options
        self.pair.connect(self.identifier, self.options.min_rnr_timer)
        self.identifier.accept(self.parameters(private_data, self.options))
        self.state = State.ANSWERED

    def reject(self, private_data: bytes = b"") -> None:
        """Answer the peer's request with REJ."""
        self._expect(State.ASKED, "reject")
        check_room(private_data, REJECT_ROOM)
        self.identifier.reject(private_data)
        self._provider.forget(self)

    def disconnect(self, private_data: bytes = b"") -> None:
        """End the connection, or the attempt. Once more does no harm. RDMA-CM has no way to send private data."""
        self._provider.disconnect(self)

    def _expect(self, state: State, what: str) -> None:
        if self.state is not state:
            raise LocalProtocolError(
                f"{what}: the peer does not wait for an answer, the connection is {self.state.name}"
            )

    # ---- Work

    def post_receive(self, wr_id: int, size: int, count: int = 1) -> None:
        """Take one SEND, or ``count`` of them, of at most ``size`` bytes each."""
        for _ in range(count):
            request = Request(wr_id, Operation.RECEIVE, size=size)
            if self._takes(request, len(self._receives) + self._receives_posted):
                self._receives.append(request)

    def post_send(
        self, wr_id: int, data: Buffer, *, solicited: bool = False, fence: bool = False, signaled: bool = True
    ) -> None:
        """Post a SEND."""
        flags = e.IBV_SEND_SOLICITED if solicited else 0
        self._post(Request(wr_id, Operation.SEND, data, _size(data), flags=flags, signaled=signaled), fence)

    def post_write(self, wr_id: int, data: Buffer, address: int, rkey: int, *, fence: bool = False) -> None:
        """Post an RDMA WRITE."""
        check_remote(address, rkey)
        self._post(Request(wr_id, Operation.WRITE, data, _size(data), None, address, rkey), fence)

    def post_read(self, wr_id: int, into: Segment, address: int, rkey: int, *, fence: bool = False) -> None:
        """Post an RDMA READ."""
        check_remote(address, rkey)
        self._post(Request(wr_id, Operation.READ, None, 0, into, address, rkey), fence)

    def post_compare_swap(
        self, wr_id: int, address: int, rkey: int, compare: int, swap: int, *, fence: bool = False
    ) -> None:
        """Atomic compare and swap."""
        self._post_atomic(wr_id, Operation.COMPARE_SWAP, address, rkey, compare, swap, fence)

    def post_fetch_add(self, wr_id: int, address: int, rkey: int, add: int, *, fence: bool = False) -> None:
        """Atomic fetch and add."""
        self._post_atomic(wr_id, Operation.FETCH_ADD, address, rkey, add, 0, fence)

    def _post_atomic(
        self, wr_id: int, operation: Operation, address: int, rkey: int, first: int, second: int, fence: bool
    ) -> None:
        check_atomic(address, rkey)
        numbers = first % _U64, second % _U64
        self._post(Request(wr_id, operation, None, ATOMIC_BYTES, None, address, rkey, *numbers), fence)

    def _post(self, request: Request, fence: bool) -> None:
        if request.size > MAX_MESSAGE_BYTES:
            raise TransportError(f"{request.size} bytes are more than the {MAX_MESSAGE_BYTES} of one message")
        if fence:
            request.flags |= e.IBV_SEND_FENCE
        if self._takes(request, len(self._requests) + len(self._posted) - self._receives_posted):
            self._requests.append(request)

    def _takes(self, request: Request, posted: int) -> bool:
        """Whether there is room. What comes after the end is flushed at once."""
        if self.state is State.ENDED:
            self._provider.completed(self, request, Status.FLUSHED)
            return False
        if posted >= MAX_WORK_REQUESTS:
            raise TransportError(f"{posted} work requests are posted: wait until some are done")
        self._provider.stir(self)
        return True

    # ---- For the provider

    @property
    def waiting(self) -> bool:
        """The device has requests, beside receives."""
        return len(self._posted) > self._receives_posted

    def flush(self) -> None:
        """Give the device what it can take. Raises ``TransportError`` where it takes nothing any more."""
        try:
            self._flush_receives()
            if self.state is State.ESTABLISHED:
                self._flush_requests()
        except PyverbsError as problem:
            raise TransportError(f"the device takes no work: {problem}") from None

    def _flush_receives(self) -> None:
        provider = self._provider
        batch: list[tuple[int, Slot, int]] = []
        while self._receives and self._receives_posted < RECEIVE_DEPTH:
            request = self._receives[0]
            request.slot = provider.pool.take(request.size)
            self._receives.popleft()
            number = self._number(request)
            self._receives_posted += 1
            batch.append((number, request.slot, request.size))
        if batch:
            self.pair.post_receives(batch)

    def _flush_requests(self) -> None:
        provider = self._provider
        batch: list[tuple[int, Request]] = []
        room = SEND_DEPTH - len(self._posted) + self._receives_posted
        while self._requests and len(batch) < room:
            request = self._requests[0]
            if request.into is None:
                request.slot = provider.pool.take(request.size)
                if request.data is not None:
                    request.slot.write(request.data)
            self._requests.popleft()
            batch.append((self._number(request), request))
        if batch:
            self.pair.post_requests(batch)

    def _number(self, request: Request) -> int:
        number = self._provider.number(self)
        self._posted[number] = request
        return number

    def done(self, number: int) -> Request | None:
        """The device is done with a request."""
        request = self._posted.pop(number, None)
        if request is not None and request.operation is Operation.RECEIVE:
            self._receives_posted -= 1
        if request is not None and (self._requests if request.operation is not Operation.RECEIVE else self._receives):
            self._provider.stir(self)
        return request

    def left(self) -> list[Request]:
        """What will not be done any more, in order."""
        left = [*self._posted.values(), *self._requests, *self._receives]
        for number in self._posted:
            self._provider.drop_number(number)
        self._posted.clear()
        self._requests.clear()
        self._receives.clear()
        self._receives_posted = 0
        return left


def _size(data: Buffer) -> int:
    return len(data) if type(data) is bytes else memoryview(data).nbytes
