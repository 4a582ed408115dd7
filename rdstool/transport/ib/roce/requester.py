"""The sending side of a queue pair: requests out, acknowledgements and responses in (§9.7, §9.9.2).

Each packet of a request has a number, and a READ has one for each packet of its response. What is not acknowledged is
sent again from the first such packet on (go back N): when the responder says that one is missing, when a response
skips one, or when nothing is heard for the time of ``ack_timeout``. Numbers are counted without wrapping here;
``oldest <= next <= reached``:

    oldest    the first packet that is not acknowledged
    next      the packet to send next; set back to ``oldest`` when packets have to be sent again
    reached   one behind the last packet that was ever sent

Where the last packets of all are lost, no gap shows. So after a while the last one is sent once more: as a duplicate it
does no harm, and the answer to it tells what is missing, long before the timeout.

An acknowledgement is asked for by one packet in so many, by the last of all, and by one near the end of the window
where none is on its way. A peer that is asked by each packet spends as much on the answers as on what it is sent.

How many packets may be in flight is found out: the window grows while all goes well and is halved at each loss,
because what the peer's socket, or ours, cannot hold is lost. A long READ is asked for in pieces for the same reason.
"""

from __future__ import annotations

from collections import deque

from dissectors.wire.infiniband import AckKind, NakCode, Opcode
from rdstool.transport.ib.provider import ConnectionOptions, Operation, Status
from rdstool.transport.ib.roce.counters import Counters
from rdstool.transport.ib.roce.flow import PADDING
from rdstool.transport.ib.roce.numbers import RNR_TIMER_MS, coded_time_s, nearest, packets_of
from rdstool.transport.ib.roce.packets import (
    ACK_REQUEST,
    BTH_WORDS,
    DEFAULT_PKEY,
    NUMBER_MASK,
    PAD_SHIFT,
    SOLICITED_SHIFT,
)
from rdstool.transport.ib.roce.request_packets import ASK_EVERY, RequestPackets
from rdstool.transport.ib.roce.work import Report, WorkRequest

FIRST_WINDOW = 32
"""Packets in flight at first."""
LEAST_WINDOW = 4
MOST_WINDOW = 128
"""Packets in flight at most; rxe has the same limit (``RXE_MAX_UNACKED_PSNS``)."""
READ_PIECE = 16
"""Packets of response that one READ request asks for at most."""
PROBE_PART = 16
"""After this part of the acknowledgement timeout without news, the last packet is sent once more."""
NO_END = 7
"""``rnr_retry`` that never runs out."""

_SEND = Operation.SEND
_SEND_ONLY = int(Opcode.SEND_ONLY)
_NAK_STATUS = {
    NakCode.INVALID_REQUEST: Status.REMOTE_INVALID_REQUEST,
    NakCode.REMOTE_ACCESS: Status.REMOTE_ACCESS_ERROR,
    NakCode.REMOTE_OPERATIONAL: Status.REMOTE_OPERATION_ERROR,
    NakCode.INVALID_RD_REQUEST: Status.REMOTE_INVALID_REQUEST,
}


class Requester:
    """Sends what is posted, in order, until the peer has confirmed it.

    ``failed`` is the status that ended it, None while it lives.
    """

    def __init__(self, report: Report, counters: Counters) -> None:
        self._report = report
        self._counters = counters
        self.waiting: deque[WorkRequest] = deque()
        self._started: deque[WorkRequest] = deque()
        """Begun and not confirmed, in order of their packets."""
        self._index = 0
        """Which of ``_started`` the packet ``_next`` is of."""
        self._oldest = self._next = self._reached = 0
        self._asked = 0
        """One behind the last packet that asked for an acknowledgement."""
        self._in_flight: deque[int] = deque()
        """One behind the last response packet of each READ or atomic request that is in flight."""
        self._window = FIRST_WINDOW
        self._grown = 0
        self._lost_at = -1
        """``_oldest`` when packets were last sent again because of a gap: told once, not by each packet behind it."""
        self._quiet_until: float | None = None
        """After receiver-not-ready."""
        self._ack_by: float | None = None
        self._probe_by: float | None = None
        self._probing = False
        """The last packet is to be sent once more."""
        self.failed: Status | None = None

    def start(self, queue_pair: int, psn: int, mtu: int, depth: int, options: ConnectionOptions) -> None:
        """Begin to send to the peer's ``queue_pair``; ``depth`` READs and atomics at a time."""
        self._queue_pair, self._packets = queue_pair, RequestPackets(queue_pair, mtu)
        self._mtu, self._depth = mtu, depth
        self._oldest = self._next = self._reached = self._asked = psn
        self._timeout_s = coded_time_s(options.ack_timeout)
        self._probe_s = self._timeout_s / PROBE_PART
        self._retry_count, self._rnr_retry = options.retry_count, options.rnr_retry
        self._retries, self._rnr_retries = self._retry_count, self._rnr_retry

    def __len__(self) -> int:
        """Requests that are not done."""
        return len(self.waiting) + len(self._started)

    @property
    def reached(self) -> int:
        """The PSN behind the last packet that was ever sent."""
        return self._reached

    @property
    def due(self) -> float | None:
        """When ``timer_expired`` is to be called; None = never."""
        if self._quiet_until is not None:
            return self._quiet_until
        return self._ack_by if self._probe_by is None else self._probe_by

    def post(self, work: WorkRequest) -> None:
        """Queue a request."""
        self.waiting.append(work)

    # ---- Out

    def emit(self, now: float, budget: int, out: list[bytes]) -> int:
        """Append at most ``budget`` datagrams to ``out``; tells how many."""
        if self._quiet_until is not None:
            return 0
        sent = fresh = self._probe(out) if self._probing else 0
        while sent < budget:
            if self._index == len(self._started):
                sent += self._emit_sends(budget - sent, out)
                if sent == budget or not self._begin():
                    break
            work = self._started[self._index]
            psn = self._next
            room = self._oldest + self._window - psn
            if work.responds:
                count, packets = self._responses(work, psn, room), 1
                if not count:
                    break
                self._in_flight.append(psn + count)
                self._response_request(out, work, psn, count)
            else:
                count = packets = min(room, budget - sent, work.last + 1 - psn)
                if count <= 0:
                    break
                self._data(out, work, psn, count)
            sent += packets
            again = min(psn + count, self._reached) - psn
            if again > 0:
                self._counters.sent_again += min(again, packets)
            psn += count
            self._next = psn
            self._reached = max(self._reached, psn)
            if psn > work.last:
                self._index += 1
        if sent > fresh:
            self._probe_by = now + self._probe_s
            if self._ack_by is None:
                self._ack_by = now + self._timeout_s
        return sent

    def _emit_sends(self, budget: int, out: list[bytes]) -> int:
        """Send the next requests as long as they are SENDs that fit, by far the most; tells how many packets."""
        waiting, started, mtu, queue_pair = self.waiting, self._started, self._mtu, self._queue_pair
        first = psn = self._next
        full, brink, answered = self._edge()
        end = min(psn + budget, full)
        while waiting and psn < end:
            work = waiting[0]
            length = work.length
            if work.fence or work.operation is not _SEND:
                break
            if length <= mtu:
                del waiting[0]
                started.append(work)
                work.first = work.last = psn
                word = psn & NUMBER_MASK
                asked = self._asked
                if psn - asked >= ASK_EVERY or not waiting or (psn >= brink and asked <= answered):
                    self._asked = psn + 1
                    word |= ACK_REQUEST
                pad = -length & 3
                flags = pad << PAD_SHIFT | work.solicited << SOLICITED_SHIFT
                packet = BTH_WORDS.pack(_SEND_ONLY, flags, DEFAULT_PKEY, queue_pair, word) + work.data
                out.append(packet + PADDING[pad] if pad else packet)
                psn += 1
            else:
                last = psn + (length - 1) // mtu
                if last >= end:
                    break
                del waiting[0]
                started.append(work)
                work.first, work.last = psn, last
                asks = last if not waiting or (last >= brink and self._asked <= answered) else -1
                self._asked = self._packets.data(out, work, psn, last + 1, self._asked, asks)
                psn = last + 1
        self._index = len(started)
        self._next = self._reached = psn
        return psn - first

    def _begin(self) -> bool:
        """Give the next waiting request its packets; False where there is none, or it has to wait."""
        full = self._next >= self._oldest + self._window
        if not self.waiting or full or (self.waiting[0].fence and self._in_flight):
            return False
        work = self.waiting.popleft()
        work.first = work.last = self._next
        if work.length > self._mtu:
            work.last += packets_of(work.length, self._mtu) - 1
        self._started.append(work)
        return True

    def _probe(self, out: list[bytes]) -> int:
        """Send the last packet once more, unless it has been acknowledged meanwhile; tells how many packets."""
        self._probing = False
        if self._next == self._oldest:
            return 0
        self._counters.probes += 1
        self._last_again(out)
        return 1

    def _last_again(self, out: list[bytes]) -> None:
        """The packet that was sent last: of a READ, what is left of the piece that was asked for last."""
        psn = self._next - 1
        work = next(one for one in self._started if psn <= one.last)
        if not work.responds:
            self._packets.data(out, work, psn, psn + 1, psn, psn)
            return
        begun = psn - (psn - work.first) % READ_PIECE
        psn = max(begun, self._oldest)
        self._response_request(out, work, psn, self._next - psn)

    def _responses(self, work: WorkRequest, psn: int, room: int) -> int:
        """Packets of response that can be asked for now, from ``psn`` on; 0 = none yet.

        The pieces of a READ stay the same when they are asked for again, as a responder remembers them so.
        """
        count = 1
        if not self._depth:
            self.fail(Status.LOCAL_OPERATION_ERROR, psn)
            return 0
        if work.operation is Operation.READ:
            done = (psn - work.first) // READ_PIECE
            count = min(work.first + (done + 1) * READ_PIECE, work.last + 1) - psn
        if len(self._in_flight) >= self._depth or (room < count and psn != self._oldest):
            return 0
        return count

    def _data(self, out: list[bytes], work: WorkRequest, psn: int, count: int) -> None:
        """Packets of a SEND or WRITE."""
        last, (full, brink, answered) = work.last, self._edge()
        asks = -1
        if last < full and self._is_newest():
            asks = last
        elif last >= brink and self._asked <= answered:
            asks = min(last, full - 1)
        self._asked = self._packets.data(out, work, psn, psn + count, self._asked, asks)

    def _edge(self) -> tuple[int, int, int]:
        """One behind the window; from where on a packet asks; and up to which ``_asked`` it does.

        A READ waits for room for a whole piece. In a small window that may be less than what no packet has asked for,
        so all ask that are near the end.
        """
        full = self._oldest + self._window
        return full, full - READ_PIECE, self._oldest if self._window >= 2 * READ_PIECE else full

    def _is_newest(self) -> bool:
        """Whether nothing follows the request that is being sent."""
        return not self.waiting and self._index + 1 == len(self._started)

    def _response_request(self, out: list[bytes], work: WorkRequest, psn: int, count: int) -> None:
        """The packet that asks for ``count`` packets of response of a READ, or for an atomic operation."""
        self._asked = psn + count
        if work.operation is Operation.READ:
            self._packets.read(out, work, psn, count)
        else:
            self._packets.atomic(out, work)

    # ---- In

    def acknowledged(self, psn: int, syndrome: int, now: float) -> None:
        """An acknowledgement, positive or negative, has come."""
        number = nearest(psn, self._oldest)
        kind, value = syndrome >> 5, syndrome & 0x1F
        if number >= self._reached or number < self._oldest - 1:
            self._counters.stale_responses += 1
            return
        if kind == AckKind.ACK:
            if number >= self._oldest and not self._confirm(number + 1, now):
                self._missed(now)
        elif number < self._oldest:
            self._counters.stale_responses += 1
        elif kind == AckKind.RNR_NAK:
            self._receiver_not_ready(number, RNR_TIMER_MS[value] / 1000, now)
        elif kind == AckKind.NAK and value == NakCode.PSN_SEQUENCE:
            self._counters.sequence_naks_received += 1
            self._confirm(number, now)
            self._gap(now)
        elif kind == AckKind.NAK and value in _NAK_STATUS:
            self._confirm(number, now)
            self.fail(_NAK_STATUS[NakCode(value)], number)
        else:
            self._counters.malformed += 1

    def read_response(self, psn: int, payload: memoryview, now: float) -> None:
        """A packet of a READ's response has come."""
        work = self._answered(psn, now, Operation.READ)
        if work is None:
            return
        start = (self._oldest - work.first) * self._mtu
        if len(payload) != min(self._mtu, work.length - start):
            self.fail(Status.BAD_RESPONSE, self._oldest)
            return
        assert work.into is not None
        work.into[start : start + len(payload)] = payload
        self._one_confirmed(work, 0, now)

    def atomic_response(self, psn: int, original: int, now: float) -> None:
        """The response to an atomic operation has come."""
        work = self._answered(psn, now, None)
        if work is not None:
            self._one_confirmed(work, original, now)

    def _answered(self, psn: int, now: float, operation: Operation | None) -> WorkRequest | None:
        """The request that a response is to, where it is the one that is expected next; None = atomic ones."""
        number = nearest(psn, self._oldest)
        if number < self._oldest or number >= self._reached:
            self._counters.stale_responses += 1
            return None
        if number > self._oldest and not self._confirm(number, now):
            self._missed(now)
            return None
        work = self._started[0]
        is_read = work.operation is Operation.READ
        if not work.responds or is_read != (operation is Operation.READ):
            self.fail(Status.BAD_RESPONSE, number)
            return None
        return work

    def _one_confirmed(self, work: WorkRequest, original: int, now: float) -> None:
        """The response packet that was expected is there."""
        self._oldest += 1
        while self._in_flight and self._in_flight[0] <= self._oldest:
            self._in_flight.popleft()
        if self._oldest > work.last:
            self._finish(original)
        self._progress(1, now)

    def _confirm(self, end: int, now: float) -> bool:
        """All packets before ``end`` are acknowledged; False where a response that is missing stands before it."""
        before = self._oldest
        complete = True
        while self._started:
            work = self._started[0]
            if work.first >= end:
                break
            if work.responds:
                end, complete = max(self._oldest, work.first), False
                break
            if work.last >= end:
                break
            self._finish(0)
        if end > before:
            self._oldest = end
            self._progress(end - before, now)
        return complete

    def _finish(self, original: int) -> None:
        work = self._started.popleft()
        if self._index:
            self._index -= 1
        if work.signaled:
            self._report(work.wr_id, work.operation, Status.SUCCESS, b"", original)

    def _progress(self, packets: int, now: float) -> None:
        """Go on after ``_oldest`` has moved."""
        if self._next < self._oldest:
            self._next, self._index = self._oldest, 0
        self._retries, self._rnr_retries = self._retry_count, self._rnr_retry
        self._ack_by = self._probe_by = self._quiet_until = None
        if self._next > self._oldest:
            self._ack_by, self._probe_by = now + self._timeout_s, now + self._probe_s
        self._grown += packets
        if self._grown >= self._window:
            self._grown = 0
            self._window = min(MOST_WINDOW, self._window + self._window // 4)

    # ---- Again

    def _missed(self, now: float) -> None:
        """A response shows that an earlier one, or its request, was lost."""
        self._counters.responses_missed += 1
        self._gap(now)

    def _gap(self, now: float) -> None:
        """The packet ``_oldest``, or the response to it, was lost. Only the first to tell so is listened to."""
        if self._lost_at != self._oldest and self._next > self._oldest:
            self._lost_at = self._oldest
            self._send_again(now)

    def _send_again(self, now: float) -> None:
        """Send again from the first packet that is not acknowledged."""
        self._window = max(LEAST_WINDOW, self._window // 2)
        self._back()
        self._ack_by = now + self._timeout_s

    def _back(self) -> None:
        self._next, self._index, self._grown = self._oldest, 0, 0
        self._asked = self._oldest
        self._in_flight.clear()

    def _receiver_not_ready(self, number: int, wait_s: float, now: float) -> None:
        self._counters.rnr_naks_received += 1
        self._confirm(number, now)
        if self._oldest < number or self._quiet_until is not None:
            return
        if not self._rnr_retries:
            self.fail(Status.RECEIVER_NOT_READY, number)
            return
        if self._rnr_retry != NO_END:
            self._rnr_retries -= 1
        self._back()
        self._quiet_until = now + wait_s
        self._ack_by = self._probe_by = None

    def timer_expired(self, now: float) -> None:
        """``due`` is reached: go on after receiver-not-ready, or send again what was not acknowledged."""
        if self._quiet_until is not None:
            self._quiet_until = None
            return
        if self._probe_by is not None:
            self._probe_by, self._probing = None, True
            return
        self._ack_by = None
        if self._oldest < self._reached and self._started:
            self._counters.timeouts += 1
            self._lost_at = -1
            if self._retries:
                self._retries -= 1
                self._send_again(now)
            else:
                self.fail(Status.RETRIES_EXCEEDED, self._oldest)

    # ---- The end

    def fail(self, status: Status, number: int) -> None:
        """The request that packet ``number`` is of has failed: it ends so, all others are flushed."""
        self.failed = status
        for work in self._started:
            ended = status if work.first <= number <= work.last else Status.FLUSHED
            self._report(work.wr_id, work.operation, ended)
        self._started.clear()
        self.flush()

    def flush(self) -> None:
        """End everything that is posted with ``FLUSHED``, and send no more."""
        for work in (*self._started, *self.waiting):
            self._report(work.wr_id, work.operation, Status.FLUSHED)
        self._started.clear()
        self.waiting.clear()
        self._in_flight.clear()
        self._index, self._next, self._oldest = 0, self._reached, self._reached
        self._ack_by = self._probe_by = self._quiet_until = None
