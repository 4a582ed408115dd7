"""Flows: what goes to one queue pair from one address. Two of them are the directions of a connection."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from dissectors.wire.infiniband import AETH, ATOMIC_ACK_ETH, Opcode
from rdstool.capture.events import Gap
from rdstool.capture.ib.evidence import Evidence, NumberRange
from rdstool.capture.ib.messages import Joiner
from rdstool.capture.ib.order import MTUS, Budget, Hole, PacketOrder, Restart, lowest_position
from rdstool.capture.ib.packets import HEADER_OF, LEARNS_MTU, PART_OF, Packets, Part
from rdstool.capture.ib.rdma import Operations, Response
from rdstool.capture.ib.requests import RequestReader
from rdstool.capture.streams import Stream, address_bytes

MAX_UNDECIDED_PACKETS = 256
"""Packets that are kept of a flow that may yet turn out to be RDS."""
MAX_LIKELY_PACKETS = 4096
"""The same where a header says so: the next one may come behind RDMA operations, of 1 MiB each."""
SETTLED_PACKETS = 16
"""Request packets that a flow without RDMA-CM is judged on: reordering at its start is undone within them."""
PAIRING_PACKETS = 128
"""Packets of a flow in which the proof is awaited that it is the other direction of a known one."""

_ATOMIC_ACKNOWLEDGE = int(Opcode.ATOMIC_ACKNOWLEDGE)

_DECIDED = Evidence()

Key = tuple[int, int, int, int, int]
"""Source and destination address in halves, destination queue pair."""
Hosts = tuple[int, int, int, int]


@dataclass(slots=True, eq=False)
class Direction:
    """A flow that is RDS: from packets to messages."""

    stream: Stream
    number: int
    """0: from ``stream.a`` to ``stream.b``."""
    order: PacketOrder
    joiner: Joiner
    operations: Operations
    reader: RequestReader
    answered: tuple[int, int, int] = (-1, 0, 0)
    """Unwrapped number of the last packet that the other end has acknowledged, and by which frame and when."""

    @property
    def held_frame(self) -> int | None:
        """The frame of the oldest packet or message that waits here; None where nothing waits."""
        frames = [frame for frame in (self.order.held_frame, self.joiner.held_frame) if frame is not None]
        return min(frames, default=None)

    def requests(self, items: list[Packets | Hole | Restart]) -> None:
        """Take what the order gives; no restart among it."""
        for item in items:
            if isinstance(item, Packets):
                self.reader.read(item)
            elif isinstance(item, Hole):
                self.joiner.output.events.append(
                    Gap(item.frame, item.time, self.stream.number, self.number, item.position, item.size, item.reason)
                )
                self.reader.gap()

    def responses(self, packets: Packets) -> None:
        """Take the answers to this direction's requests."""
        order, operations, events = self.order, self.operations, self.joiner.output.events
        if order.expected is None:
            return
        known = packets.captured >= 1
        with_aeth = packets.opcode != Opcode.READ_RESPONSE_MIDDLE
        syndrome = np.zeros(len(packets), np.uint8)
        here = known & with_aeth
        syndrome[here] = packets.data[packets.at[here]]
        plain = (packets.opcode == Opcode.ACKNOWLEDGE) & (syndrome < 0x20)
        for index in np.flatnonzero(plain)[-1:].tolist():
            psn = order.expected + order.distance(int(packets.psn[index]))
            self.answered = max(self.answered, (psn, int(packets.frame[index]), int(packets.time[index])))
        if operations.idle and plain.all():
            last = len(packets) - 1
            psn = order.expected + order.distance(int(packets.psn[last]))
            operations.acknowledged(psn, int(packets.frame[last]), int(packets.time[last]), events)
            return
        header = HEADER_OF.take(packets.opcode)
        columns = (
            packets.frame,
            packets.time,
            packets.opcode,
            packets.psn,
            packets.length - header,
            np.maximum(packets.captured - header, 0),
            syndrome,
            packets.at,
        )
        for frame, time, opcode, psn, size, seen, code, at in zip(*(part.tolist() for part in columns), strict=True):
            position = order.expected + order.distance(psn)
            original, moved, held = 0, size, seen
            if opcode == _ATOMIC_ACKNOWLEDGE:
                raw = packets.data[at + AETH.size : at + AETH.size + ATOMIC_ACK_ETH.size].tobytes()
                original, moved, held = int.from_bytes(raw, "big"), ATOMIC_ACK_ETH.size, len(raw)
            response = Response(frame, time, opcode, position, moved, held, code, original)
            operations.response(response, events, self.stream.number, self.number)

    def finish(self) -> None:
        """Take note that nothing more will come."""
        self.requests([*self.order.finish(), *self.order.answered_beyond(*self.answered)])
        self.end()

    def end(self) -> None:
        """The same, but another connection takes over what waits for its order."""
        self.joiner.finish()
        self.operations.finish(self.joiner.output.events)
        self.stream.coverage[self.number].unassigned += self.joiner.unassigned
        self.joiner.unassigned = 0


@dataclass(slots=True, eq=False)
class Flow:
    """Everything known of one flow. ``direction`` is set once it is RDS."""

    key: Key
    first_frame: int
    direction: Direction | None = None
    peer: Flow | None = None
    lives: list[Stream] = field(default_factory=list)
    """The streams that used this queue pair's number, one after the other; the same list as the peer's."""
    life: int = 0
    """Which of them this direction is at."""
    foreign: bool = False
    mtu: int | None = None
    evidence: Evidence = field(default_factory=Evidence)
    """Of no use any more once it is decided."""
    request_numbers: NumberRange = field(default_factory=NumberRange)
    response_numbers: NumberRange = field(default_factory=NumberRange)
    kept: list[Packets] = field(default_factory=list)
    """Packets from before it was decided."""
    kept_packets: int = 0
    requests_seen: int = 0
    packets_seen: int = 0

    @property
    def ends(self) -> tuple[bytes, bytes, int]:
        """Addresses of source and destination, and the queue pair that it goes to."""
        return address_bytes(self.key[0], self.key[1]), address_bytes(self.key[2], self.key[3]), self.key[4]

    @property
    def hosts(self) -> Hosts:
        """Addresses of source and destination."""
        return self.key[:4]

    @property
    def reverse_hosts(self) -> Hosts:
        """Addresses of source and destination of the other direction."""
        return self.key[2], self.key[3], self.key[0], self.key[1]

    def note(self, packets: Packets) -> None:
        """Learn what helps to find the other direction, and the path MTU."""
        self.packets_seen += len(packets)
        responses = PART_OF[packets.opcode] == Part.RESPONSE
        self._note_range(self.response_numbers, packets, responses)
        self._note_range(self.request_numbers, packets, ~responses)
        if self.mtu is None:
            first = np.flatnonzero(LEARNS_MTU[packets.opcode])
            for index in first[:1].tolist():
                size = int(packets.length[index] - HEADER_OF[packets.opcode[index]])
                if size in MTUS:
                    self.mtu = size

    @staticmethod
    def _note_range(numbers: NumberRange, packets: Packets, which: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> None:
        index = np.flatnonzero(which)
        if len(index):
            numbers.add(int(packets.psn[index[0]]), int(packets.psn[index[-1]]))

    def keep(self, packets: Packets, budget: Budget) -> None:
        """Hold packets until the flow is decided; the oldest go where it takes long."""
        self.requests_seen += int((PART_OF[packets.opcode] != Part.RESPONSE).sum())
        most = MAX_LIKELY_PACKETS if self.evidence.good else MAX_UNDECIDED_PACKETS
        own = packets.owned()
        if not budget.take(own.bytes_held):
            budget.give(own.bytes_held)
            return
        self.kept.append(own)
        self.kept_packets += len(own)
        while self.kept_packets - len(self.kept[0]) >= most:
            self._forget(budget)

    def _forget(self, budget: Budget) -> Packets:
        old = self.kept.pop(0)
        self.kept_packets -= len(old)
        budget.give(old.bytes_held)
        return old

    def release(self, budget: Budget) -> list[Packets]:
        """Give back what was kept, oldest first."""
        return [self._forget(budget) for _ in range(len(self.kept))]

    def decide(self) -> None:
        """It is RDS. There can be very many of these: what led to it is forgotten."""
        self.evidence = _DECIDED

    def first_position(self) -> int | None:
        """The lowest packet sequence number of the first requests."""
        numbers = [packets.psn[PART_OF[packets.opcode] != Part.RESPONSE] for packets in self.kept]
        psns = np.concatenate(numbers)[:SETTLED_PACKETS] if numbers else np.zeros(0, np.int64)
        return lowest_position(psns) if len(psns) else None

    def fits(self, other: Flow) -> int:
        """Whether ``other`` is the opposite direction: above 0 for yes, below for no, 0 for not known.

        The answers in one flow carry the numbers of the requests in the other.
        """
        score = 0
        for asks, answers in ((self, other), (other, self)):
            numbers, replies = asks.request_numbers, answers.response_numbers
            if numbers.low >= 0 and replies.low >= 0:
                score += 1 if numbers.near(replies.high) else -1
        return score
