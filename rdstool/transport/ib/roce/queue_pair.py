"""A queue pair: requester, responder, and the state that says what they may do."""

from __future__ import annotations

from collections.abc import Callable

from dissectors.wire.encapsulation import ICRC_BYTES
from dissectors.wire.infiniband import BTH
from rdstool.errors import TransportError
from rdstool.protocol.ib.memory import Access
from rdstool.protocol.timers import Timer
from rdstool.transport.ib.checks import check_atomic, check_remote
from rdstool.transport.ib.provider import MAX_MESSAGE_BYTES, Buffer, ConnectionOptions, Operation, Segment, Status
from rdstool.transport.ib.roce.counters import Counters
from rdstool.transport.ib.roce.flow import Flow
from rdstool.transport.ib.roce.memory import MemoryTable
from rdstool.transport.ib.roce.packets import (
    ATOMIC_ACK,
    NUMBER_MASK,
    PAD_SHIFT,
    PacketKind,
    Part,
)
from rdstool.transport.ib.roce.requester import Requester
from rdstool.transport.ib.roce.responder import Responder
from rdstool.transport.ib.roce.states import QueuePairInput, QueuePairState, step
from rdstool.transport.ib.roce.work import MAX_WORK_REQUESTS, Receive, Report, WorkRequest

TakesSend = Callable[[int, int, int, bytes], bool]
"""Opcode, flags and last word of its BTH, datagram."""
_SEND = Operation.SEND
_RTS = QueuePairState.RTS
_MANY = MAX_WORK_REQUESTS // 2
_U64 = 1 << 64


class QueuePair:
    """One end of a reliable connection. The device feeds it packets and time, and takes what it has to send.

    ``broken`` is called once, with the reason, when it fails by itself.
    """

    def __init__(
        self,
        number: int,
        receive_psn: int,
        memory: MemoryTable,
        counters: Counters,
        report: Report,
        broken: Callable[[str], None],
        wake: Callable[[QueuePair], None],
    ) -> None:
        self.number = number
        self.receive_psn = receive_psn
        """Number of the first packet that it wants to receive."""
        self.state = step(QueuePairState.RESET, QueuePairInput.POST)
        self.flow: Flow | None = None
        """The flow to the peer, once that is known."""
        self.requester = Requester(report, counters)
        self.responder = Responder(report, counters, memory)
        self.timer: Timer | None = None
        """Kept here for the device."""
        self._memory = memory
        self._counters = counters
        self._report = report
        self._broken = broken
        self._wake = wake

    def receive_from(
        self, flow: Flow, number: int, send_psn: int, mtu: int, depth: int, options: ConnectionOptions
    ) -> None:
        """The peer is ``number`` at the end of ``flow``, and wants ``send_psn`` first: INIT to RTR.

        ``depth``: READs and atomics that the peer can answer at once.
        """
        self.state = step(self.state, QueuePairInput.RECEIVE)
        self.flow = flow
        resources, timer = options.responder_resources, options.min_rnr_timer
        self.responder.start(number, self.receive_psn, mtu, resources, timer)
        self.requester.start(number, send_psn, mtu, min(depth, options.initiator_depth), options)

    def send(self) -> None:
        """The peer can receive: RTR to RTS."""
        self.state = step(self.state, QueuePairInput.SEND)
        self._wake(self)

    def fail(self) -> None:
        """End it, and flush what is posted."""
        if self.state is not QueuePairState.ERROR:
            self.state = step(self.state, QueuePairInput.FAIL)
            self.requester.flush()
            self.responder.flush()
            if self.responder.replies:
                self._wake(self)

    # ---- Work

    def post_receive(self, wr_id: int, size: int, count: int = 1) -> None:
        """Take one SEND, or ``count`` of them, of at most ``size`` bytes each."""
        receives = self.responder.receives
        receive = Receive(wr_id, size)
        for _ in range(count):
            if self._takes(wr_id, Operation.RECEIVE, len(receives)):
                receives.append(receive)

    def post_send(
        self, wr_id: int, data: Buffer, *, solicited: bool = False, fence: bool = False, signaled: bool = True
    ) -> None:
        """Post a SEND."""
        content, length = (data, len(data)) if type(data) is bytes else _viewed(data)
        work = WorkRequest(wr_id, _SEND, content, length, 0, 0, 0, 0, solicited, fence, -1, -1, signaled)
        waiting = self.requester.waiting
        if waiting and self.state is _RTS and len(waiting) < _MANY and length <= MAX_MESSAGE_BYTES:
            waiting.append(work)  # what stands before it has woken the device
        else:
            self._post(work)

    def post_write(self, wr_id: int, data: Buffer, address: int, rkey: int, *, fence: bool = False) -> None:
        """Post an RDMA WRITE."""
        check_remote(address, rkey)
        self._post(WorkRequest(wr_id, Operation.WRITE, *_viewed(data), address, rkey, fence=fence))

    def post_read(self, wr_id: int, into: Segment, address: int, rkey: int, *, fence: bool = False) -> None:
        """RDMA READ into registered memory."""
        view = self._memory.local(into, Access.LOCAL_WRITE)
        if view is None:
            where = f"{into.length} bytes at {into.address:#x}"
            raise TransportError(f"no region with local key {into.lkey:#x} can be written for {where}: register it")
        check_remote(address, rkey)
        work = WorkRequest(wr_id, Operation.READ, b"", into.length, address, rkey, fence=fence, into=view)
        work.responds = True
        self._post(work)

    def post_compare_swap(
        self, wr_id: int, address: int, rkey: int, compare: int, swap: int, *, fence: bool = False
    ) -> None:
        """Put ``swap`` where the peer has ``compare``."""
        self._post_atomic(wr_id, Operation.COMPARE_SWAP, address, rkey, swap, compare, fence)

    def post_fetch_add(self, wr_id: int, address: int, rkey: int, add: int, *, fence: bool = False) -> None:
        """Add to the peer's value."""
        self._post_atomic(wr_id, Operation.FETCH_ADD, address, rkey, add, 0, fence)

    def _post_atomic(
        self, wr_id: int, operation: Operation, address: int, rkey: int, value: int, compare: int, fence: bool
    ) -> None:
        check_atomic(address, rkey)
        work = WorkRequest(wr_id, operation, b"", 0, address, rkey, value % _U64, compare % _U64, fence=fence)
        work.responds = True
        self._post(work)

    def _post(self, work: WorkRequest) -> None:
        if work.length > MAX_MESSAGE_BYTES:
            raise TransportError(f"{work.length} bytes are more than the {MAX_MESSAGE_BYTES} of one message")
        requester = self.requester
        if self._takes(work.wr_id, work.operation, len(requester)):
            requester.post(work)
            if self.state is QueuePairState.RTS:
                self._wake(self)

    def _takes(self, wr_id: int, operation: Operation, posted: int) -> bool:
        """Whether there is room for a request. One that comes after the end is flushed at once, as with verbs."""
        if self.state is QueuePairState.ERROR:
            self._report(wr_id, operation, Status.FLUSHED)
            return False
        if posted >= MAX_WORK_REQUESTS:
            raise TransportError(f"{posted} work requests are posted: wait until some are done")
        return True

    @property
    def next_psn(self) -> int:
        """Number of the next packet that is sent for the first time."""
        return self.requester.reached & NUMBER_MASK

    # ---- Packets

    @property
    def takes_send(self) -> TakesSend | None:
        """What may be called with each packet, until it gives False: then ``packet`` has to be. None where it may not.

        The queue pair has something to send after a packet that asks for an acknowledgement.
        """
        return self.responder.send if self.state is _RTS else None

    def packet(self, kind: PacketKind, opcode: int, flags: int, word: int, datagram: bytes, now: float) -> None:
        """A packet from the peer has come, with a good ICRC. ``word`` is the last one of its BTH."""
        if self.state < QueuePairState.RTR or self.state is QueuePairState.ERROR:
            self._counters.not_ready += 1
            return
        pad = flags >> PAD_SHIFT & 3
        if len(datagram) < kind.header + pad + ICRC_BYTES:
            self._counters.malformed += 1
            return
        if kind.response:
            self._response(kind, word & NUMBER_MASK, datagram, pad, now)
            if self.requester.failed is not None:
                self._break(f"a request failed: {self.requester.failed.name}")
                return
        else:
            responder = self.responder
            responder.request(kind, opcode, flags, word, datagram)
            if responder.failed is not None:
                self._break(responder.failed)
                return
            if not responder.replies:
                return
        self._wake(self)

    def _response(self, kind: PacketKind, psn: int, datagram: bytes, pad: int, now: float) -> None:
        if self.state is not QueuePairState.RTS:
            self._counters.stale_responses += 1
        elif kind.part is Part.ACKNOWLEDGE:
            self.requester.acknowledged(psn, datagram[BTH.size], now)
        elif kind.part is Part.READ_RESPONSE:
            self.requester.read_response(psn, memoryview(datagram)[kind.header : -ICRC_BYTES - pad], now)
        else:
            _, original = ATOMIC_ACK.unpack_from(datagram, BTH.size)
            self.requester.atomic_response(psn, original, now)

    def emit(self, now: float, budget: int, out: list[bytes]) -> int:
        """Append at most ``budget`` datagrams to ``out``; responses first. Tells how many."""
        sent = self.responder.emit(budget, out)
        if self.responder.failed is not None and self.state is not QueuePairState.ERROR:
            self._break(self.responder.failed)
        if sent < budget and self.state is QueuePairState.RTS:
            sent += self.requester.emit(now, budget - sent, out)
            if self.requester.failed is not None:
                self._break(f"a request failed: {self.requester.failed.name}")
        return sent

    @property
    def due(self) -> float | None:
        """When ``timer_expired`` is to be called."""
        return self.requester.due if self.state is QueuePairState.RTS else None

    def timer_expired(self, now: float) -> None:
        """Take note that ``due`` is reached."""
        self.requester.timer_expired(now)
        if self.requester.failed is not None:
            self._break(f"a request failed: {self.requester.failed.name}")
        else:
            self._wake(self)

    def _break(self, detail: str) -> None:
        self.fail()
        self._broken(detail)


def _viewed(data: Buffer) -> tuple[bytes | memoryview, int]:
    """Data as bytes one by one, and how many."""
    view = memoryview(data).cast("B")
    return view, len(view)
