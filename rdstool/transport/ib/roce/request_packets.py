"""The packets that requests are sent in (§9.3, §9.4)."""

from __future__ import annotations

from dissectors.wire.infiniband import Opcode
from rdstool.transport.ib.provider import Buffer, Operation
from rdstool.transport.ib.roce.bursts import Bursts
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
    SOLICITED,
    WRITE_OPCODES,
)
from rdstool.transport.ib.roce.work import WorkRequest

_READ_REQUEST = int(Opcode.READ_REQUEST)


class RequestPackets:
    """Makes datagrams for the peer's queue pair. ``psn`` counts without wrapping."""

    __slots__ = ("_mtu", "_queue_pair")

    def __init__(self, queue_pair: int, mtu: int) -> None:
        self._queue_pair = queue_pair
        self._mtu = mtu

    def data(self, out: Bursts, work: WorkRequest, psn: int, *, ask: bool) -> None:
        """The packet of a SEND or WRITE; with ``ask`` it wants to be acknowledged."""
        first, last = psn == work.first, psn == work.last
        payload: Buffer = work.data
        if not (first and last):
            start = (psn - work.first) * self._mtu
            payload = work.data[start : start + self._mtu]
        pad = -len(payload) & 3
        flags = pad << PAD_SHIFT
        word = psn & NUMBER_MASK
        if ask:
            word |= ACK_REQUEST
        if work.operation is Operation.SEND:
            if last and work.solicited:
                flags |= SOLICITED
            head = BTH_WORDS.pack(SEND_OPCODES[first, last], flags, DEFAULT_PKEY, self._queue_pair, word)
        else:
            head = BTH_WORDS.pack(WRITE_OPCODES[first, last], flags, DEFAULT_PKEY, self._queue_pair, word)
            if first:
                head += RETH_VALUES.pack(work.address, work.rkey, work.length)
        out.add(head, payload, pad)

    def read(self, out: Bursts, work: WorkRequest, psn: int, count: int) -> None:
        """The packet that asks for ``count`` packets of response of a READ, from ``psn`` on."""
        start = (psn - work.first) * self._mtu
        length = min(work.length - start, count * self._mtu)
        word = psn & NUMBER_MASK | ACK_REQUEST
        head = BTH_WORDS.pack(_READ_REQUEST, 0, DEFAULT_PKEY, self._queue_pair, word)
        out.add(head + RETH_VALUES.pack(work.address + start, work.rkey, length))

    def atomic(self, out: Bursts, work: WorkRequest) -> None:
        """The packet of an atomic operation, which is its first one."""
        word = work.first & NUMBER_MASK | ACK_REQUEST
        head = BTH_WORDS.pack(ATOMIC_OPCODES[work.operation], 0, DEFAULT_PKEY, self._queue_pair, word)
        values = ATOMIC_VALUES.pack(work.address, work.rkey, work.swap, work.compare)
        out.add(head + values)
