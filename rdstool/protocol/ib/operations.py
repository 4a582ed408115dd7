"""RDMA and atomics under way: made by sendmsg, done by work requests, ended once (kernel ``rdma.c``, ``ib_send.c``)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from dissectors.wire.extensions import RdmaDirection
from rdstool.protocol.control import Atomic, CompareSwap, FetchAdd, RdmaArgs
from rdstool.protocol.ib.memory import Access, Memory, RdmaFlags, Region, Registrar, split_cookie
from rdstool.protocol.ib.work import CompareSwapWork, FetchAddWork, Read, Work, WorkStatus, Write
from rdstool.protocol.outgoing import Outbox, Outgoing
from rdstool.protocol.reasons import SendStatus

_WORD = (1 << 64) - 1


class RemoteOperation:
    """One RDMA operation or atomic. What it is, subclasses say; how it ends is told once."""

    length = 0
    """Bytes that are moved."""
    direction: RdmaDirection | None = None
    """Direction for RDMA_BYTES; None for atomics."""

    def __init__(self, socket: Outbox, item: RdmaArgs | Atomic) -> None:
        self._socket = socket
        self.rkey, start = split_cookie(item.cookie)
        self.address = start + item.remote_offset
        """Where it begins in the peer's address space."""
        self.fence = bool(item.flags & RdmaFlags.FENCE)
        self.silent = bool(item.flags & RdmaFlags.SILENT)
        self._notify = bool(item.flags & RdmaFlags.NOTIFY_ME)
        self._token = item.token
        self._told = item.ended
        self._recverr = socket.recverr
        self._pending = 0
        self.ended = False

    @property
    def unfinished(self) -> bool:
        """More work may follow what is under way; the message behind it has to wait."""
        return False

    def more(self, _new_id: Callable[[], int]) -> Sequence[Work]:
        """Work requests that follow from what was done."""
        return ()

    def start(self, new_id: Callable[[], int]) -> Sequence[Work]:
        """The work requests, in order."""
        work = self._work(new_id)
        self._pending = len(work)
        return work

    def _work(self, new_id: Callable[[], int]) -> Sequence[Work]:
        raise NotImplementedError

    def done(self, status: int, original: int) -> None:
        """One work request is completed; ``original`` is what an atomic found."""
        self._pending -= 1
        if status == WorkStatus.SUCCESS:
            self._succeeded(original)
            if not self._pending:
                self.finish(SendStatus.ACKNOWLEDGED)
        elif status != WorkStatus.FLUSHED:
            refused = status == WorkStatus.REMOTE_ACCESS_ERROR
            self.finish(SendStatus.REMOTE_ERROR if refused else SendStatus.OTHER_ERROR)
        if not self._pending:
            self._release()

    def abandon(self) -> None:
        """The connection is gone with what it had not done. RDMA is never done again (§7.8)."""
        self._pending = 0
        self.finish(SendStatus.DROPPED)

    def finish(self, status: SendStatus) -> None:
        """Tell how it ended, where anybody wants to know."""
        if not self.ended:
            self.ended = True
            if self._told is not None:
                self._told(status)
            elif self._notify or (self._recverr and status):
                self._socket.notify(self._token, status)
        if not self._pending:
            self._release()

    def _succeeded(self, _original: int) -> None:
        pass

    def _release(self) -> None:
        pass


class WriteOperation(RemoteOperation):
    """RDMA WRITE of one or more pieces."""

    direction = RdmaDirection.WRITE

    def __init__(self, socket: Outbox, args: RdmaArgs) -> None:
        super().__init__(socket, args)
        pieces = [memoryview(piece).cast("B") for piece in args.local]
        self._data: bytes | memoryview = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self.length = len(self._data)

    def _work(self, new_id: Callable[[], int]) -> Sequence[Work]:
        return [Write(new_id(), self._data, self.address, self.rkey, self.fence)]


class ReadOperation(RemoteOperation):
    """RDMA READ into one or more pieces, each of which is a region as long as the operation lasts."""

    direction = RdmaDirection.READ

    def __init__(self, socket: Outbox, args: RdmaArgs, registrar: Registrar) -> None:
        super().__init__(socket, args)
        self._registrar = registrar
        self._regions: list[Region] = []
        for piece in args.local:
            assert not isinstance(piece, bytes)
            self._regions.append(registrar.register(piece, Access.LOCAL_WRITE))
        self.length = sum(region.length for region in self._regions)

    def _work(self, new_id: Callable[[], int]) -> Sequence[Work]:
        work: list[Work] = []
        at = self.address
        for region in self._regions:
            work.append(Read(new_id(), region, at, self.rkey, self.fence))
            at += region.length
        return work

    def _release(self) -> None:
        regions, self._regions = self._regions, []
        for region in regions:
            self._registrar.deregister(region)


class AtomicOperation(RemoteOperation):
    """Fetch and add, or compare and swap, without masks."""

    def __init__(self, socket: Outbox, atomic: Atomic) -> None:
        super().__init__(socket, atomic)
        self._atomic = atomic
        self._result: Memory = atomic.result

    def _work(self, new_id: Callable[[], int]) -> Sequence[Work]:
        atomic = self._atomic
        if isinstance(atomic, FetchAdd):
            return [FetchAddWork(new_id(), self.address, self.rkey, atomic.add & _WORD, self.fence)]
        return [
            CompareSwapWork(new_id(), self.address, self.rkey, atomic.compare & _WORD, atomic.swap & _WORD, self.fence)
        ]

    def _succeeded(self, original: int) -> None:
        memoryview(self._result).cast("B")[:] = original.to_bytes(8, sys.byteorder)


class MaskedOperation(AtomicOperation):
    """An atomic with masks, made of what InfiniBand has: what the adapter's own would put on the wire is no standard.

    The number is fetched, and swapped for what it should become where it is still the same; else that begins anew with
    what it is now. To others on the peer's memory this is one step, as any atomic is.
    """

    def __init__(self, socket: Outbox, atomic: Atomic) -> None:
        super().__init__(socket, atomic)
        self._expected: int | None = None
        """What the number was; None before it is known."""
        self._wanted: int | None = None
        """What it is to become, where that is yet to be posted."""

    @property
    def unfinished(self) -> bool:
        """Whether the number has yet to be found as it was expected."""
        return not self.ended

    def _work(self, new_id: Callable[[], int]) -> Sequence[Work]:
        return [FetchAddWork(new_id(), self.address, self.rkey, 0, self.fence)]

    def _succeeded(self, original: int) -> None:
        wanted = masked_result(self._atomic, original)
        if original in {self._expected, wanted}:
            super()._succeeded(original)
            return
        self._expected, self._wanted = original, wanted
        self._pending += 1

    def more(self, new_id: Callable[[], int]) -> Sequence[Work]:
        """The swap, where one is due."""
        wanted, self._wanted = self._wanted, None
        if wanted is None or self._expected is None or self.ended:
            return ()
        return [CompareSwapWork(new_id(), self.address, self.rkey, self._expected, wanted, self.fence)]


def masked_result(atomic: Atomic, original: int) -> int:
    """What a number becomes (kernel ``IB_WR_MASKED_ATOMIC_*``): itself, where the bits compared differ."""
    if isinstance(atomic, CompareSwap):
        if (original ^ atomic.compare) & atomic.compare_mask & _WORD:
            return original
        return (original & ~atomic.swap_mask | atomic.swap & atomic.swap_mask) & _WORD
    total = start = 0
    ends = [place for place in range(64) if atomic.nocarry_mask >> place & 1]
    for end in (*ends, 63):
        if end >= start:
            field = (1 << end - start + 1) - 1
            total |= ((original >> start) + ((atomic.add & _WORD) >> start) & field) << start
        start = end + 1
    return total


class RemoteOutgoing(Outgoing):
    """A message behind an operation."""

    __slots__ = ("operation",)

    def __init__(
        self, socket: Outbox, sport: int, dport: int, payload: bytes, exthdr: bytes, operation: RemoteOperation
    ) -> None:
        super().__init__(socket, sport, dport, payload, None, exthdr)
        self.operation = operation

    @property
    def is_silent(self) -> bool:
        """There is nothing to tell the peer: no message is sent at all (§8.1)."""
        return self.operation.silent and not self.payload
