"""RDMA of a run: requests offer memory, and who answers moves bytes to or from it before the ack (protocol.md §12.2).

Both sides do both parts, with memory of its own for each slot. With verification the memory that is read, and the
bytes that are written, are a pattern which the request tells; what arrives is compared with it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

from dissectors.wire.stress import STRESS_MESSAGE, RdmaMode, RdmaOp, StressMessage
from rdstool.endpoint.node import AsyncSocket
from rdstool.protocol.control import RdmaArgs, RdmaDest, RdmaMap, SendControl
from rdstool.protocol.ib.memory import RdmaFlags
from rdstool.protocol.reasons import SendStatus
from rdstool.stress.counters import Counters
from rdstool.stress.failure import RdmaFailedError, StressError
from rdstool.stress.parameters import RdmaParameters

LAST_WITHOUT_RDMA = 10
"""Sequence number of a pair of tasks, after which requests ask for RDMA."""
_FIRST_BYTE = STRESS_MESSAGE.table["rdma_op"].offset
Controls = Sequence[SendControl]


class _Asked(NamedTuple):
    """RDMA that a request of the peer asks for."""

    header: StressMessage
    cookie: int


class _Slot:
    """One slot: a request of ours and one of the peer's."""

    def __init__(self, size: int) -> None:
        self.offered = bytearray(size)
        """Memory of ours, for the peer to use."""
        self.local = bytearray(size)
        """Where bytes of the peer's memory go to and come from."""
        self.cookie = 0
        """Cookie of ``offered``, where it is registered."""
        self.offer: RdmaMap | None = None
        """What registers it, under way with a request."""
        self.operation = RdmaOp.NONE
        self.pattern = b""
        self.asked: _Asked | None = None
        self.busy = False


class Rdma:
    """What one pair of tasks does of RDMA."""

    def __init__(
        self,
        socket: AsyncSocket,
        parameters: RdmaParameters,
        depth: int,
        counters: Counters,
        number: int,
        *,
        verify: bool,
    ) -> None:
        self._socket = socket
        self._parameters = parameters
        self._counters = counters
        self._verify = verify
        self._slots = [_Slot(parameters.bytes) for _ in range(depth)]
        self._next = RdmaOp.READ if number % 2 else RdmaOp.WRITE
        self._failure: StressError | None = None
        self.changed: Callable[[], None] = lambda: None
        """Called when an operation has ended."""

    # ---- Our requests

    def request(self, seq: int, index: int) -> tuple[bytes, Controls]:
        """The rest of a request's header, from ``rdma_op``, and what offers the memory."""
        slot, run = self._slots[index], self._parameters
        slot.operation = self._next
        self._next = {
            RdmaMode.BOTH: RdmaOp.READ if self._next is RdmaOp.WRITE else RdmaOp.WRITE,
            RdmaMode.READ_ONLY: RdmaOp.READ,
            RdmaMode.WRITE_ONLY: RdmaOp.WRITE,
        }[run.mode]
        number = seq << 32 | os.getpid() & 0xFFFFFFFF
        if self._verify:
            slot.pattern = _pattern(number, run.size)
            slot.offered[: run.size] = slot.pattern if slot.operation is RdmaOp.READ else bytes(run.size)
        flags = RdmaFlags.READWRITE | (RdmaFlags.USE_ONCE if run.use_once else RdmaFlags(0))
        control: SendControl
        if run.use_get_mr:
            if not slot.cookie:
                slot.cookie = self._socket.offer_memory(slot.offered, flags)
                self._counters.keys.add(slot.cookie)
            control = RdmaDest(slot.cookie)
        else:
            control = slot.offer = RdmaMap(slot.offered, flags)
        header = StressMessage(
            rdma_op=slot.operation,
            rdma_pattern=number,
            rdma_key=slot.cookie,
            rdma_size=run.size,
            rdma_vector=run.vector,
        )
        return STRESS_MESSAGE.pack(header)[_FIRST_BYTE:], [control]

    def ack_came(self, index: int) -> None:
        """The peer has used the memory of a request. Raises ``StressError`` where it is not as it should be."""
        slot, run = self._slots[index], self._parameters
        operation, slot.operation = slot.operation, RdmaOp.NONE
        if operation is RdmaOp.NONE:
            return
        if slot.offer is not None:
            slot.cookie, slot.offer = slot.offer.cookie, None
            self._counters.keys.add(slot.cookie)
        if not run.cache:
            if not run.use_once:
                self._socket.free_memory(slot.cookie)
            slot.cookie = 0
        if operation is RdmaOp.READ:
            self._counters.rdma_bytes_out += run.bytes
            return
        self._counters.rdma_bytes_in += run.bytes
        if self._verify:
            _compare(slot.offered, slot.pattern, "the peer wrote into our memory")

    # ---- The peer's requests

    def request_came(self, index: int, header: StressMessage, control: Sequence[object]) -> None:
        """Note what a request asks for. Raises ``StressError``."""
        slot, run = self._slots[index], self._parameters
        slot.asked = None
        if header.rdma_op == RdmaOp.NONE:
            return
        cookie = next((item.cookie for item in control if isinstance(item, RdmaDest)), header.rdma_key)
        agreed = (header.rdma_size, header.rdma_vector) == (run.size, run.vector)
        if not agreed or not cookie or header.rdma_op not in {RdmaOp.READ, RdmaOp.WRITE}:
            raise StressError(
                f"a request asks for RDMA {header.rdma_op} of {header.rdma_vector} times {header.rdma_size} bytes with "
                f"key {cookie:#x}; {run.vector} times {run.size} were agreed"
            )
        slot.asked = _Asked(header, cookie)

    def check(self) -> None:
        """Raises ``StressError`` where RDMA has failed, or moved other bytes than agreed."""
        if self._failure is not None:
            raise self._failure

    def busy(self, index: int) -> bool:
        """The slot's memory is still being moved, for the ack before."""
        return self._slots[index].busy

    def ack(self, index: int) -> tuple[bytes, Controls]:
        """The rest of an ack's header, and the RDMA that goes before it."""
        slot, run = self._slots[index], self._parameters
        asked, slot.asked = slot.asked, None
        if asked is None:
            return STRESS_MESSAGE.pack(StressMessage())[_FIRST_BYTE:], ()
        header, cookie = asked
        writes = header.rdma_op == RdmaOp.WRITE
        flags = RdmaFlags.NOTIFY_ME
        expected = _pattern(header.rdma_pattern, run.size) if self._verify else b""
        if writes:
            flags |= RdmaFlags.READWRITE
            slot.local[: len(expected)] = expected
            self._counters.rdma_bytes_out += run.bytes
        else:
            flags |= RdmaFlags.FENCE if run.fence else RdmaFlags(0)
            self._counters.rdma_bytes_in += run.bytes

        def ended(status: SendStatus) -> None:
            slot.busy = False
            try:
                if status:
                    raise RdmaFailedError(f"RDMA {'write' if writes else 'read'} failed: {status.name.lower()}")
                if not writes:
                    _compare(slot.local, expected, "we read from the peer's memory")
            except StressError as problem:
                self._failure = problem
            self.changed()

        slot.busy = True
        whole = memoryview(slot.local)
        pieces = [whole[at : at + run.size] for at in range(0, run.bytes, run.size)]
        rest = StressMessage(
            rdma_op=header.rdma_op,
            rdma_addr=header.rdma_addr,
            rdma_phyaddr=header.rdma_phyaddr,
            rdma_pattern=header.rdma_pattern,
            rdma_key=cookie,
            rdma_size=header.rdma_size,
            rdma_vector=header.rdma_vector,
        )
        args = RdmaArgs(cookie, pieces, header.rdma_phyaddr, run.bytes, flags, ended=ended)
        return STRESS_MESSAGE.pack(rest)[_FIRST_BYTE:], [args]


def _pattern(number: int, size: int) -> bytes:
    """The first buffer of an RDMA: a number of 64 bits in native order, over and over."""
    return (number.to_bytes(8, sys.byteorder) * (-(-size // 8)))[:size]


def _compare(memory: bytearray, expected: bytes, what: str) -> None:
    """Raises ``StressError`` where memory does not begin as it should."""
    whole = len(expected) // 8 * 8  # rds-stress fills and compares whole numbers
    if memory[:whole] != expected[:whole]:
        wrong = next(at for at in range(whole) if memory[at] != expected[at])
        raise StressError(f"what {what} is damaged, first at byte {wrong} of {len(memory)}")
