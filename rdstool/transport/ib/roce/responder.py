"""The receiving side of a queue pair: requests in, acknowledgements and responses out (§9.7, §9.9.3).

Requests are executed in the order of their packets, each once. A packet ahead of the expected one gets one NAK, and
what follows it is dropped until the expected one comes. One behind it is a duplicate: a SEND or WRITE is acknowledged
again, a READ is executed again, an atomic operation is answered from what is remembered.

Responses wait in a queue until they can be sent, so that those of a long READ take no memory. One acknowledgement
stands for all that came before it: while one waits to be sent, newer ones take its place.
"""

from __future__ import annotations

import struct
from collections import deque
from dataclasses import dataclass

from dissectors.wire.infiniband import BTH, NakCode, Opcode
from rdstool.protocol.ib.memory import Access
from rdstool.transport.ib.provider import ATOMIC_BYTES, MAX_MESSAGE_BYTES, Operation, Status
from rdstool.transport.ib.roce.counters import Counters
from rdstool.transport.ib.roce.flow import PADDING
from rdstool.transport.ib.roce.memory import MemoryTable
from rdstool.transport.ib.roce.numbers import PSN_WINDOW, packets_of
from rdstool.transport.ib.roce.packets import (
    ACK_REQUEST,
    AETH_WORD,
    ATOMIC_ACK,
    ATOMIC_VALUES,
    BTH_WORDS,
    DEFAULT_PKEY,
    NO_CREDITS,
    NUMBER_MASK,
    PAD_SHIFT,
    RESPONSE_OPCODES,
    RETH_VALUES,
    SENDS,
    SOLICITED,
    VERSION_MASK,
    PacketKind,
    Part,
    nak,
    rnr_nak,
)
from rdstool.transport.ib.roce.work import Receive, Report

_ACKNOWLEDGE = int(Opcode.ACKNOWLEDGE)
_ATOMIC_ACKNOWLEDGE = int(Opcode.ATOMIC_ACKNOWLEDGE)
_COMPARE_SWAP = int(Opcode.COMPARE_SWAP)
_VALUE = struct.Struct("=Q")
"""What atomic operations work on is in the byte order of the machine (§9.4.5)."""
_VALUE_MASK = (1 << 64) - 1
_BTH_BYTES = BTH.size
_ICRC = -4
_LEAST_BYTES = _BTH_BYTES - _ICRC
_RECEIVE, _SUCCESS = Operation.RECEIVE, Status.SUCCESS


@dataclass(slots=True)
class _Acknowledge:
    psn: int
    msn: int
    syndrome: int


@dataclass(slots=True)
class _Read:
    """A READ that was executed, or a part of one that is executed again."""

    first: int
    """PSN of the first packet of response."""
    packets: int
    rkey: int
    address: int
    length: int
    """Bytes."""
    msn: int
    sent: int = 0
    """Packets of response that have been sent."""


@dataclass(slots=True)
class _Atomic:
    """An atomic operation that was executed."""

    first: int
    msn: int
    original: int


class Responder:
    """Answers a peer. ``failed`` says what ended it, None while it lives."""

    def __init__(self, report: Report, counters: Counters, memory: MemoryTable) -> None:
        self._report = report
        self._counters = counters
        self._memory = memory
        self.receives: deque[Receive] = deque()
        self._expected = 0
        self._msn = 0
        self._asked = 0
        """Not 0: the packet at hand wants to be acknowledged."""
        self._told = False
        """The peer knows of a gap, or that no receive was posted: what is ahead is dropped without a word."""
        self._part: Part | None = None
        """Part of the message that has begun and not ended."""
        self._pieces: list[bytes] = []
        self._received = 0
        """Bytes of the SEND that has begun."""
        self._rkey = self._address = self._left = 0
        """Where the WRITE that has begun goes on, and how many bytes are to come."""
        self.replies: deque[_Acknowledge | _Read | _Atomic] = deque()
        """Responses that wait to be sent."""
        self._remembered: deque[_Read | _Atomic] = deque()
        self.failed: str | None = None

    def start(self, queue_pair: int, psn: int, mtu: int, resources: int, rnr_timer: int) -> None:
        """Begin with packet ``psn``; ``resources``: READs and atomics to remember."""
        self._queue_pair, self._expected, self._mtu = queue_pair, psn, mtu
        self._resources, self._rnr_timer = resources, rnr_timer
        self._remembered = deque(maxlen=resources)

    # ---- In

    def request(self, kind: PacketKind, opcode: int, flags: int, word: int, datagram: bytes) -> None:
        """A request packet has come, of at least ``kind.header`` bytes, ICRC and pad bytes.

        ``flags`` are those of its BTH, ``word`` is its last one: the wish for an acknowledgement, and the PSN.
        """
        psn, self._asked = word & NUMBER_MASK, word & ACK_REQUEST
        ahead = (psn - self._expected) & NUMBER_MASK
        if ahead:
            if ahead >= PSN_WINDOW:
                self._counters.duplicates += 1
                self._duplicate(kind, psn, datagram)
            elif self._told:
                self._counters.ahead += 1
            else:
                self._counters.sequence_naks_sent += 1
                self._told = True
                self._negative(nak(NakCode.PSN_SEQUENCE))
            return
        self._told = False
        part, pad = kind.part, flags >> PAD_SHIFT & 3
        if (self._part is not None if kind.starts else self._part is not part) or not kind.supported:
            self._fail(NakCode.INVALID_REQUEST, f"opcode {opcode:#x} does not follow what came before")
        elif part is Part.SEND:
            if not self.send(opcode, flags, word, datagram):
                self._refuse_send(kind, len(datagram) - _LEAST_BYTES - pad)
        elif part is Part.WRITE:
            self._write(kind, datagram, pad)
        elif part is Part.READ:
            self._read(datagram)
        else:
            self._atomic(opcode, datagram)

    def send(self, opcode: int, flags: int, word: int, datagram: bytes) -> bool:
        """Take the packet of a SEND, by far the most common request. False where ``request`` has to look at it."""
        kind = SENDS[opcode]
        if kind is None or word & NUMBER_MASK != self._expected or flags & VERSION_MASK:
            return False
        starts, ends = kind
        receives, mtu = self.receives, self._mtu
        if (self._part is not None if starts else self._part is not Part.SEND) or not receives:
            return False
        pad = flags >> PAD_SHIFT & 3
        length = len(datagram) - _LEAST_BYTES - pad
        wr_id, room = receives[0]
        if length != mtu and not (ends and 0 <= length < mtu and (starts or length)):  # as _fits
            return False
        if self._received + length > room:
            return False
        data = datagram[_BTH_BYTES : _ICRC - pad]
        self._told = False
        self._expected = (self._expected + 1) & NUMBER_MASK
        if not ends:
            self._part = Part.SEND
            self._pieces.append(data)
            self._received += length
        else:
            if not starts:
                self._pieces.append(data)
                data = b"".join(self._pieces)
                self._pieces.clear()
                self._part, self._received = None, 0
            self._msn += 1
            receives.popleft()
            self._report(wr_id, _RECEIVE, _SUCCESS, data, 0, bool(flags & SOLICITED))
        if word & ACK_REQUEST:
            self._asked = ACK_REQUEST
            self._acknowledge()
        return True

    def _fits(self, starts: bool, ends: bool, size: int) -> bool:
        """First and middle packets are full, a last one is not empty."""
        if ends:
            return 0 <= size <= self._mtu and (starts or size > 0)
        return size == self._mtu

    def _done(self, packets: int = 1) -> None:
        """A message, or a packet of one, has been executed."""
        self._expected = (self._expected + packets) & NUMBER_MASK

    def _refuse_send(self, kind: PacketKind, length: int) -> None:
        """The packet of a SEND is the expected one, and ``send`` could not take it."""
        receives = self.receives
        if not receives:
            self._counters.rnr_naks_sent += 1
            self._told = True
            self._negative(rnr_nak(self._rnr_timer))
        elif not self._fits(kind.starts, kind.ends, length):
            self._fail(NakCode.INVALID_REQUEST, f"a packet of {length} bytes with path MTU {self._mtu}")
        else:
            wr_id, room = receives.popleft()
            size = self._received + length
            self._report(wr_id, _RECEIVE, Status.LOCAL_LENGTH_ERROR)
            self._fail(NakCode.INVALID_REQUEST, f"a message of {size} bytes or more for a receive of {room}")

    def _write(self, kind: PacketKind, datagram: bytes, pad: int) -> None:
        data = memoryview(datagram)[kind.header : _ICRC - pad]
        size = len(data)
        if kind.starts:
            self._address, self._rkey, self._left = RETH_VALUES.unpack_from(datagram, BTH.size)
        ends_here = size == self._left
        if not self._fits(kind.starts, kind.ends, size) or size > self._left or ends_here != kind.ends:
            self._fail(NakCode.INVALID_REQUEST, f"a packet of {size} bytes, {self._left} are to be written")
            return
        if self._left:
            # The whole of what is left is checked each time: the owner may have taken the region away.
            target = self._memory.remote(self._rkey, self._address, self._left, Access.REMOTE_WRITE)
            if target is None:
                where = f"{self._left} bytes at {self._address:#x}"
                self._fail(NakCode.REMOTE_ACCESS, f"key {self._rkey:#x} allows no write of {where}")
                return
            target[:size] = data
        self._address += size
        self._left -= size
        self._done()
        self._part = None if kind.ends else Part.WRITE
        self._msn += kind.ends
        self._acknowledge()

    def _read(self, datagram: bytes) -> None:
        address, rkey, length = RETH_VALUES.unpack_from(datagram, BTH.size)
        if len(self.replies) >= 2 * self._resources or length > MAX_MESSAGE_BYTES:
            self._fail(NakCode.INVALID_REQUEST, f"a READ of {length} bytes, {len(self.replies)} others unanswered")
            return
        if length and self._memory.remote(rkey, address, length, Access.REMOTE_READ) is None:
            self._fail(NakCode.REMOTE_ACCESS, f"key {rkey:#x} allows no read of {length} bytes at {address:#x}")
            return
        self._msn += 1
        read = _Read(self._expected, packets_of(length, self._mtu), rkey, address, length, self._msn)
        self._done(read.packets)
        self._remembered.append(read)
        self._answer(_Read(read.first, read.packets, rkey, address, length, read.msn))

    def _atomic(self, opcode: int, datagram: bytes) -> None:
        address, rkey, swap, compare = ATOMIC_VALUES.unpack_from(datagram, BTH.size)
        if len(self.replies) >= 2 * self._resources or address % ATOMIC_BYTES:
            self._fail(NakCode.INVALID_REQUEST, f"an atomic operation at {address:#x}")
            return
        target = self._memory.remote(rkey, address, ATOMIC_BYTES, Access.REMOTE_ATOMIC)
        if target is None:
            self._fail(NakCode.REMOTE_ACCESS, f"key {rkey:#x} allows no atomic operation at {address:#x}")
            return
        (original,) = _VALUE.unpack(target)
        if opcode != _COMPARE_SWAP:
            _VALUE.pack_into(target, 0, (original + swap) & _VALUE_MASK)
        elif original == compare:
            _VALUE.pack_into(target, 0, swap)
        self._msn += 1
        atomic = _Atomic(self._expected, self._msn, original)
        self._done()
        self._remembered.append(atomic)
        self._answer(atomic)

    def _duplicate(self, kind: PacketKind, psn: int, datagram: bytes) -> None:
        """A packet that was executed before."""
        if kind.part is Part.READ:
            self._read_again(psn, datagram)
        elif kind.part is Part.ATOMIC:
            for one in self._remembered:
                if isinstance(one, _Atomic) and one.first == psn and one not in self.replies:
                    self._answer(one)
        else:
            self._acknowledge()

    def _read_again(self, psn: int, datagram: bytes) -> None:
        """Execute a READ, or its end, again: only what is remembered, and not more of it (§9.4.4.1)."""
        address, rkey, length = RETH_VALUES.unpack_from(datagram, BTH.size)
        for one in self._remembered:
            skipped = (psn - one.first) & NUMBER_MASK
            if not isinstance(one, _Read) or skipped >= one.packets:
                continue
            start = skipped * self._mtu
            if rkey != one.rkey or address != one.address + start or length > one.length - start:
                return
            again = _Read(psn, packets_of(length, self._mtu), rkey, address, length, one.msn)
            for waiting in self.replies:
                if isinstance(waiting, _Read) and (psn - waiting.first) & NUMBER_MASK < waiting.packets:
                    # It is being answered: begin once more from the packet that is asked for.
                    waiting.sent = min(waiting.sent, (psn - waiting.first) & NUMBER_MASK)
                    return
            if len(self.replies) < 2 * self._resources:
                self._answer(again)
            return

    # ---- Out

    def _acknowledge(self) -> None:
        """Confirm everything up to the last packet executed, where the peer wants to know."""
        if not self._asked:
            return
        psn = (self._expected - 1) & NUMBER_MASK
        last = self.replies[-1] if self.replies else None
        if isinstance(last, _Acknowledge) and last.syndrome == NO_CREDITS:
            last.psn, last.msn = psn, self._msn
        else:
            self.replies.append(_Acknowledge(psn, self._msn, NO_CREDITS))

    def _negative(self, syndrome: int) -> None:
        last = self.replies[-1] if self.replies else None
        if isinstance(last, _Acknowledge):
            self.replies.pop()  # the NAK confirms what came before it, too
        self.replies.append(_Acknowledge(self._expected, self._msn, syndrome))

    def _answer(self, reply: _Read | _Atomic) -> None:
        last = self.replies[-1] if self.replies else None
        if isinstance(last, _Acknowledge) and last.syndrome == NO_CREDITS and self._follows(last, reply):
            self.replies.pop()  # the response confirms what came before it, too
        self.replies.append(reply)

    @staticmethod
    def _follows(acknowledge: _Acknowledge, reply: _Read | _Atomic) -> bool:
        return (reply.first - acknowledge.psn - 1) & NUMBER_MASK < PSN_WINDOW

    def _fail(self, code: NakCode, detail: str) -> None:
        self._counters.fatal_naks_sent += 1
        self._negative(nak(code))
        self.failed = detail

    def emit(self, budget: int, out: list[bytes]) -> int:
        """Append at most ``budget`` datagrams to ``out``; tells how many."""
        sent = 0
        while self.replies and sent < budget:
            reply = self.replies[0]
            if isinstance(reply, _Read):
                if not self._read_packet(out, reply):
                    continue
                if reply.sent == reply.packets:
                    self.replies.popleft()
            elif isinstance(reply, _Acknowledge):
                self.replies.popleft()
                head = BTH_WORDS.pack(_ACKNOWLEDGE, 0, DEFAULT_PKEY, self._queue_pair, reply.psn)
                word = reply.syndrome << 24 | reply.msn & NUMBER_MASK
                out.append(head + AETH_WORD.pack(word))
            else:
                self.replies.popleft()
                head = BTH_WORDS.pack(_ATOMIC_ACKNOWLEDGE, 0, DEFAULT_PKEY, self._queue_pair, reply.first)
                out.append(head + ATOMIC_ACK.pack(NO_CREDITS << 24 | reply.msn & NUMBER_MASK, reply.original))
            sent += 1
        return sent

    def _read_packet(self, out: list[bytes], read: _Read) -> bool:
        """The next packet of response. False where the memory is no longer there: a NAK takes its place."""
        number = read.sent
        start = number * self._mtu
        size = min(self._mtu, read.length - start)
        payload: bytes | memoryview = b""
        if size:
            piece = self._memory.remote(read.rkey, read.address + start, size, Access.REMOTE_READ)
            if piece is None:
                self._counters.fatal_naks_sent += 1
                self.replies.clear()
                psn = (read.first + number) & NUMBER_MASK
                self.replies.append(_Acknowledge(psn, self._msn, nak(NakCode.REMOTE_OPERATIONAL)))
                self.failed = f"the region with key {read.rkey:#x} went while a READ was being answered"
                return False
            payload = piece
        first, last = number == 0, number == read.packets - 1
        pad = -size & 3
        psn = (read.first + number) & NUMBER_MASK
        head = BTH_WORDS.pack(RESPONSE_OPCODES[first, last], pad << PAD_SHIFT, DEFAULT_PKEY, self._queue_pair, psn)
        if first or last:
            head += AETH_WORD.pack(NO_CREDITS << 24 | read.msn & NUMBER_MASK)
        read.sent += 1
        out.append(head + payload + PADDING[pad])
        return True

    # ---- The end

    def flush(self) -> None:
        """End all receives with ``FLUSHED``. What is left to answer, a NAK above all, still goes out."""
        for receive in self.receives:
            self._report(receive.wr_id, Operation.RECEIVE, Status.FLUSHED)
        self.receives.clear()
        self._pieces.clear()
        self._remembered.clear()
        self.replies = deque(one for one in self.replies if isinstance(one, _Acknowledge))
