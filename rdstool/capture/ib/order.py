"""Requests of one direction of a queue pair in the order of their packet sequence numbers.

A reliable connection numbers its request packets with 24 bits; an RDMA READ takes as many numbers as its
response has packets (InfiniBand Architecture vol. 1, §9.7.2, §9.7.3). What came before is dropped here, what is
early waits until the hole before it fills, or until too much waits: then the hole is a gap of the capture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dissectors.wire.infiniband import PSN_MASK, Opcode
from rdstool.capture.columns import Ints
from rdstool.capture.events import GapReason
from rdstool.capture.ib.packets import Packets, psn_distance, words_at
from rdstool.capture.streams import Coverage

MAX_WAITING_PACKETS = 1024
"""Packets of one direction that may wait for a hole to fill."""
MAX_WAITING_NS = 10_000_000_000
"""Time, by the capture's clock, that packets wait for a hole to fill: no transport retries for longer."""
FAR_AHEAD_PACKETS = 1 << 22
"""A jump ahead by more than this is no loss but another use of the queue pair's number."""
FAR_BEHIND_PACKETS = 1 << 16
"""The same for a jump back: retransmission reaches back no further than what is in flight."""
FAR_CHAIN = 3
"""Consecutive packets that a far jump needs: a single stray packet starts nothing."""
MTUS = (256, 512, 1024, 2048, 4096)
"""Path MTUs in bytes (InfiniBand Architecture vol. 1, §9.5.1)."""
DEFAULT_MTU = 1024
"""Assumed where nothing tells, until a number after a READ does."""


class Budget:
    """Bytes that all flows of a capture together may keep."""

    def __init__(self, limit_bytes: int) -> None:
        self.left = limit_bytes

    def take(self, size: int) -> bool:
        """Take ``size`` bytes; False where that is more than was left, and something should be given back soon."""
        self.left -= size
        return self.left >= 0

    def give(self, size: int) -> None:
        """Give back what was taken."""
        self.left += size


@dataclass(frozen=True, slots=True)
class Hole:
    """Numbers that were never seen, found missing at ``frame``."""

    frame: int
    time: int
    position: int
    size: int
    reason: GapReason


@dataclass(frozen=True, slots=True)
class Restart:
    """The numbers jumped far away: what follows is another connection."""

    frame: int
    time: int
    coverage: Coverage
    """Coverage of the new connection."""


@dataclass(slots=True)
class _Waiting:
    """One early packet: in the batch at hand, or in a buffer of its own."""

    packets: Packets
    index: int
    span: int
    size: int


@dataclass(slots=True)
class _Sorted:
    """Packets in order, cut where the buffer changes or something must be said in between."""

    items: list[Packets | Hole | Restart] = field(default_factory=list)
    packets: Packets | None = None
    index: list[int] = field(default_factory=list)
    position: list[int] = field(default_factory=list)

    def add(self, packets: Packets, index: int, position: int) -> None:
        if packets is not self.packets:
            self.close()
            self.packets = packets
        self.index.append(index)
        self.position.append(position)

    def say(self, item: Hole | Restart) -> None:
        self.close()
        self.items.append(item)

    def close(self) -> list[Packets | Hole | Restart]:
        if self.packets is not None and self.index:
            run = self.packets.take(np.array(self.index))
            run.psn = np.array(self.position, np.int64)
            self.items.append(run)
        self.packets, self.index, self.position = None, [], []
        return self.items


class PacketOrder:
    """Puts the request packets of one flow in order. ``expected`` is the next number, unwrapped."""

    __slots__ = ("_budget", "_choices", "_far", "_fresh", "_since", "_waiting", "coverage", "expected", "mtu")

    def __init__(self, coverage: Coverage, budget: Budget, expected: int | None = None) -> None:
        self.coverage = coverage
        self.expected = expected
        self.mtu: int | None = None
        self._budget = budget
        self._fresh = expected is not None
        self._waiting: dict[int, _Waiting] = {}
        self._since = 0
        self._far: list[_Waiting] = []
        self._choices: dict[int, int] = {}

    def feed(self, packets: Packets) -> list[Packets | Hole | Restart]:
        """Take the next request packets in capture order; give those that are now in order, positions unwrapped."""
        if not len(packets):
            return []
        reads = self._reads(packets)
        if self.expected is None:
            self.expected = int(packets.psn[0])
        if not self._waiting and not self._far and not self._choices and (self.mtu is not None or not reads):
            spans = np.ones(len(packets), np.int64)
            for index, size in reads.items():
                spans[index] = self.span(size)
            ends = np.cumsum(spans)
            position = self.expected + ends - spans
            if bool(((position & PSN_MASK) == packets.psn).all()):
                self.expected += int(ends[-1])
                self.coverage.seen += len(packets)
                self._fresh = False
                packets.psn = position
                return [packets]
        return self._one_by_one(packets, reads)

    def soon(self, psns: Ints) -> NDArray[np.bool_]:
        """Which numbers are those of the next few packets."""
        expected = self.expected if self.expected is not None else 0
        return ((psns - expected) & PSN_MASK) < MAX_WAITING_PACKETS

    def finish(self) -> list[Packets | Hole | Restart]:
        """Give what waits: holes before it will not fill any more."""
        out = _Sorted()
        while self._waiting:
            self._give_up(out, GapReason.END)
        return out.close()

    def answered_beyond(self, psn: int, frame: int, time: int) -> list[Hole]:
        """The packets at the end that the other side has acknowledged and the capture does not hold."""
        if self.expected is None or psn < self.expected:
            return []
        hole = Hole(frame, time, self.expected, psn + 1 - self.expected, GapReason.NOT_CAPTURED)
        self.coverage.gaps += 1
        self.coverage.missing += hole.size
        self.expected = psn + 1
        return [hole]

    @property
    def held_frame(self) -> int | None:
        """The earliest frame of the packets that wait."""
        return min((int(entry.packets.frame[entry.index]) for entry in self._waiting.values()), default=None)

    def distance(self, psn: int) -> int:
        """How far a 24-bit number lies behind (above 0: ahead of) the expected one."""
        expected = self.expected if self.expected is not None else psn
        return psn_distance(psn, expected)

    def _reads(self, packets: Packets) -> dict[int, int]:
        """Index -> bytes asked for, of the RDMA READ requests."""
        index = np.flatnonzero((packets.opcode == Opcode.READ_REQUEST) & (packets.captured >= 16))
        if not len(index):
            return {}
        return dict(zip(index.tolist(), words_at(packets.data, packets.at[index] + 12).tolist(), strict=True))

    def span(self, size: int) -> int:
        """Packet sequence numbers that a READ of ``size`` bytes takes."""
        mtu = self.mtu or DEFAULT_MTU
        return max(1, -(-size // mtu))

    def _one_by_one(self, packets: Packets, reads: dict[int, int]) -> list[Packets | Hole | Restart]:
        assert self.expected is not None
        out = _Sorted()
        for index, psn in enumerate(packets.psn.tolist()):
            delta = psn_distance(psn, self.expected)
            if delta and self._choices:
                self._learn(psn)
                delta = psn_distance(psn, self.expected)
            if delta == 0:
                size = reads.get(index)
                self._accept(out, packets, index, 1 if size is None else self.span(size))
                if size is not None and self.mtu is None:
                    self._choices = {(psn + max(1, -(-size // mtu))) & PSN_MASK: mtu for mtu in MTUS if size > MTUS[0]}
                    if self._choices:
                        self._choices[-1] = self.expected - self.span(size)
            elif -FAR_BEHIND_PACKETS <= delta < 0:
                self.coverage.retransmitted += 1
            else:
                size = reads.get(index)
                span = 1 if size is None else self.span(size)
                entry = _Waiting(packets, index, span, int(packets.captured[index]))
                if 0 < delta <= (FAR_BEHIND_PACKETS if self._fresh else FAR_AHEAD_PACKETS):
                    self._wait(out, self.expected + delta, entry)
                else:
                    self._wander(out, psn, entry)
        self._keep(packets)
        return out.close()

    def _learn(self, psn: int) -> None:
        """A number after an RDMA READ of unknown MTU tells how many packets its response has."""
        base = self._choices.pop(-1)
        mtu = self._choices.get(psn)
        if mtu is not None:
            self.mtu = mtu
            self.expected = base + ((psn - base) & PSN_MASK)
        self._choices = {}

    def _accept(self, out: _Sorted, packets: Packets, index: int, span: int) -> None:
        assert self.expected is not None
        out.add(packets, index, self.expected)
        self.expected += span
        self.coverage.seen += 1
        self._fresh = False
        self._choices = {}
        self._far = []
        while self._waiting:
            entry = self._waiting.pop(self.expected, None)
            if entry is None:
                break
            self._budget.give(entry.size)
            out.add(entry.packets, entry.index, self.expected)
            self.expected += entry.span
            self.coverage.seen += 1

    def _wait(self, out: _Sorted, position: int, entry: _Waiting) -> None:
        if position in self._waiting:
            self.coverage.retransmitted += 1
            return
        time = int(entry.packets.time[entry.index])
        if not self._waiting:
            self._since = time
        room = self._budget.take(entry.size)
        self._waiting[position] = entry
        patience = time - self._since <= MAX_WAITING_NS
        while self._waiting and (not room or not patience or len(self._waiting) > MAX_WAITING_PACKETS):
            reason = GapReason.NOT_CAPTURED if room else GapReason.BUFFER_LIMIT
            self._give_up(out, reason, entry)
            room = room or self._budget.left >= 0
            self._since, patience = time, True

    def _give_up(self, out: _Sorted, reason: GapReason, seen: _Waiting | None = None) -> None:
        """Take the hole before the first waiting packet as a gap, and go on behind it."""
        assert self.expected is not None
        position = min(self._waiting)
        entry = self._waiting.pop(position)
        self._budget.give(entry.size)
        at = seen or entry
        missing = position - self.expected
        frame, time = int(at.packets.frame[at.index]), int(at.packets.time[at.index])
        out.say(Hole(frame, time, self.expected, missing, reason))
        self.coverage.gaps += 1
        self.coverage.missing += missing
        self.expected = position
        self._accept(out, entry.packets, entry.index, entry.span)

    def _wander(self, out: _Sorted, psn: int, entry: _Waiting) -> None:
        """A number far from the expected one; several in a row are a new connection."""
        if self._far:
            last = self._far[-1]
            following = int(last.packets.psn[last.index]) + last.span & PSN_MASK
            if psn != following:
                if psn != int(last.packets.psn[last.index]):
                    self._far = [entry]
                return
        self._far.append(entry)
        needed = 1 if self._fresh else FAR_CHAIN
        if len(self._far) < needed:
            return
        far, self._far = self._far, []
        while self._waiting:
            self._give_up(out, GapReason.END)
        first = far[0]
        if not self._fresh:
            self.coverage = Coverage()
            out.say(Restart(int(first.packets.frame[first.index]), int(first.packets.time[first.index]), self.coverage))
        self.expected = int(first.packets.psn[first.index])
        for item in far:
            self._accept(out, item.packets, item.index, item.span)

    def _keep(self, packets: Packets) -> None:
        """Give waiting packets of this batch a buffer of their own."""
        here = [entry for entry in (*self._waiting.values(), *self._far) if entry.packets is packets]
        if here:
            own = packets.take(np.array([entry.index for entry in here])).owned()
            for index, entry in enumerate(here):
                entry.packets, entry.index = own, index


def lowest_position(psns: Ints) -> int:
    """The earliest of a few packet sequence numbers that lie near each other."""
    first = int(psns[0])
    return first + int(psn_distance(psns, first).min()) & PSN_MASK


def pieces(items: list[Packets | Hole | Restart]) -> Iterator[Packets]:
    """The packets among the items, without the gaps."""
    return (item for item in items if isinstance(item, Packets))
