"""The packets that requests are sent in (§9.3, §9.4)."""

from __future__ import annotations

from dissectors.wire.infiniband import Opcode
from rdstool.transport.ib.provider import Operation
from rdstool.transport.ib.roce.flow import PADDING
from rdstool.transport.ib.roce.packets import (
    ACK_REQUEST,
    ATOMIC_OPCODES,
    ATOMIC_VALUES,
    BTH_WORDS,
    DEFAULT_PKEY,
    NUMBER_MASK,
    PAD_SHIFT,
    RETH_VALUES,
    SEND_OPCODES,
    SOLICITED_SHIFT,
    WRITE_OPCODES,
)
from rdstool.transport.ib.roce.work import WorkRequest

ASK_EVERY = 16
"""Packets after which an acknowledgement is asked for, though more follow."""
_SEND = Operation.SEND
_READ_REQUEST = int(Opcode.READ_REQUEST)


class RequestPackets:
    """Makes datagrams for the peer's queue pair. ``psn`` counts without wrapping."""

    __slots__ = ("_mtu", "_queue_pair")

    def __init__(self, queue_pair: int, mtu: int) -> None:
        self._queue_pair = queue_pair
        self._mtu = mtu

    def data(self, out: list[bytes], work: WorkRequest, psn: int, end: int, asked: int, asks: int) -> int:
        """The packets of a SEND or WRITE from ``psn`` on that are before ``end``.

        The packet ``asks`` wants to be acknowledged, and so does one in ``ASK_EVERY``, counted from ``asked``; gives
        what to count from next.
        """
        queue_pair, mtu, data = self._queue_pair, self._mtu, work.data
        opcodes = SEND_OPCODES if work.operation is _SEND else WRITE_OPCODES
        first, last = work.first, work.last
        at = (psn - first) * mtu
        for number in range(psn, end):
            payload = data[at : at + mtu]
            at += mtu
            flags, pad = 0, b""
            if number == last:
                short = -len(payload) & 3
                flags = short << PAD_SHIFT | work.solicited << SOLICITED_SHIFT
                pad = PADDING[short]
            word = number & NUMBER_MASK
            if number == asks or number - asked >= ASK_EVERY:
                word |= ACK_REQUEST
                asked = number + 1
            head = BTH_WORDS.pack(opcodes[number == first, number == last], flags, DEFAULT_PKEY, queue_pair, word)
            if opcodes is WRITE_OPCODES and number == first:
                head += RETH_VALUES.pack(work.address, work.rkey, work.length)
            packet = head + payload
            out.append(packet + pad if pad else packet)
        return asked

    def read(self, out: list[bytes], work: WorkRequest, psn: int, count: int) -> None:
        """The packet that asks for ``count`` packets of response of a READ, from ``psn`` on."""
        start = (psn - work.first) * self._mtu
        length = min(work.length - start, count * self._mtu)
        word = psn & NUMBER_MASK | ACK_REQUEST
        head = BTH_WORDS.pack(_READ_REQUEST, 0, DEFAULT_PKEY, self._queue_pair, word)
        out.append(head + RETH_VALUES.pack(work.address + start, work.rkey, length))

    def atomic(self, out: list[bytes], work: WorkRequest) -> None:
        """The packet of an atomic operation, which is its first one."""
        word = work.first & NUMBER_MASK | ACK_REQUEST
        head = BTH_WORDS.pack(ATOMIC_OPCODES[work.operation], 0, DEFAULT_PKEY, self._queue_pair, word)
        values = ATOMIC_VALUES.pack(work.address, work.rkey, work.swap, work.compare)
        out.append(head + values)
