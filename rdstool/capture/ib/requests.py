"""Request packets in order to SENDs, which are RDS frames, and RDMA operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from dissectors.wire.infiniband import ATOMIC_ACK_ETH, ATOMIC_ETH, RETH, Opcode
from dissectors.wire.rds import HEADER_BYTES
from rdstool.capture.columns import Ints
from rdstool.capture.events import RdmaKind
from rdstool.capture.gather import gather
from rdstool.capture.ib.frames import Frame, Frames
from rdstool.capture.ib.messages import MAX_ANNOUNCED, MAX_FRAGMENT_BYTES, Joiner
from rdstool.capture.ib.packets import ENDS, HEADER_OF, PART_OF, STARTS, Packets, Part
from rdstool.capture.ib.rdma import Operations, Pending

_HEADER = np.dtype(("V", HEADER_BYTES))
BULK_PACKETS = 48
"""A run of fewer packets is read one at a time: columns cost more than they save."""
_STARTS, _ENDS, _PART_OF, _HEADER_OF = STARTS.tolist(), ENDS.tolist(), PART_OF.tolist(), HEADER_OF.tolist()


_Target = tuple[int, int, int]
"""Address, key and length of remote memory."""


@dataclass(slots=True)
class _Open:
    """A SEND or WRITE whose last packet is still to come."""

    part: int
    first_frame: int
    position: int
    header: bytes = b""
    length: int = 0
    captured: int = 0
    reth: _Target | None = None
    """What a WRITE writes to; None where that was not captured."""
    wanted: bool = False
    payload: list[bytes] = field(default_factory=list)


class RequestReader:
    """Reads what one direction asks for. ``span`` tells how many numbers a READ of so many bytes takes."""

    __slots__ = ("_high", "_open", "_span", "joiner", "operations")

    def __init__(self, joiner: Joiner, operations: Operations, span: Callable[[int], int]) -> None:
        self.joiner = joiner
        self.operations = operations
        self._span = span
        self._open: _Open | None = None
        self._high = (0, 0)

    def gap(self) -> None:
        """Packets are missing here."""
        self._open = None
        self.joiner.lose_boundary()

    def read(self, packets: Packets) -> None:
        """Take the next packets; their numbers are unwrapped and follow one another."""
        count, done = len(packets), 0
        if count >= BULK_PACKETS and self._rises(packets):
            if self._open is not None:
                ends = np.flatnonzero(ENDS[packets.opcode])
                done = int(ends[0]) + 1 if len(ends) else count
                self._one_by_one(packets.part(slice(0, done)))
            if self._open is None and count - done >= BULK_PACKETS:
                done += self._units(packets.part(slice(done, count)))
        if done < count:
            self._one_by_one(packets.part(slice(done, count)))

    def _rises(self, packets: Packets) -> bool:
        """Frame numbers only rise: no packet waited for another."""
        frames = packets.frame
        return int(frames[0]) >= self._high[0] and bool((frames[1:] > frames[:-1]).all())

    def _units(self, packets: Packets) -> int:
        """Read all well-formed requests from the start as columns; the number of packets read."""
        opcode = packets.opcode
        part, begins, ends, header = (table.take(opcode) for table in (PART_OF, STARTS, ENDS, HEADER_OF))
        wrong = begins != np.append(True, ends[:-1])
        wrong[1:] |= ~begins[1:] & (part[1:] != part[:-1])
        wrong |= packets.captured < np.where(begins & (part == Part.SEND), HEADER_BYTES + header, header)
        stop = int(np.argmax(wrong)) if wrong.any() else len(packets)
        last = np.flatnonzero(ends[:stop])
        if not len(last):
            return 0
        stop = int(last[-1]) + 1
        first = np.flatnonzero(begins[:stop])
        length = (packets.length - header)[:stop]
        captured = (packets.captured - header)[:stop]
        sizes, seen = np.add.reduceat(length, first), np.add.reduceat(captured, first)
        start_at = (packets.at + header)[:stop]
        sends = part[first] == Part.SEND
        if sends.all():
            self.joiner.add_many(self._frames(packets, first, last, sizes, seen, start_at, captured))
        else:
            self._mixed(packets, first, last, sizes, seen, start_at, captured, sends.nonzero()[0])
        self._high = int(packets.frame[stop - 1]), int(packets.time[stop - 1])
        return stop

    def _mixed(
        self,
        packets: Packets,
        first: Ints,
        last: Ints,
        sizes: Ints,
        seen: Ints,
        at: Ints,
        captured: Ints,
        sends: Ints,
    ) -> None:
        """SENDs with RDMA operations between them."""
        frames = self._frames(packets, first[sends], last[sends], sizes[sends], seen[sends], at, captured)
        taken = 0
        others = np.setdiff1d(np.arange(len(first)), sends, assume_unique=True)
        before = np.searchsorted(sends, others).tolist()
        for unit, count in zip(others.tolist(), before, strict=True):
            if count > taken:
                self.joiner.add_many(frames.part(taken, count))
                taken = count
            self._operation(packets, int(first[unit]), int(last[unit]), int(sizes[unit]), int(seen[unit]))
        if taken < len(frames):
            self.joiner.add_many(frames.part(taken, len(frames)))

    def _frames(
        self, packets: Packets, first: Ints, last: Ints, sizes: Ints, seen: Ints, at: Ints, captured: Ints
    ) -> Frames:
        data = packets.data
        header = gather(data, at.take(first), _HEADER).view(np.uint8).reshape(len(first), HEADER_BYTES)

        def payload(start: int, stop: int) -> list[memoryview]:
            view = data.data
            pieces = []
            for begin, end in zip(first[start:stop].tolist(), last[start:stop].tolist(), strict=True):
                skip = HEADER_BYTES
                for index in range(begin, end + 1):
                    where = int(at[index])
                    pieces.append(view[where + skip : where + int(captured[index])])
                    skip = 0
            return pieces

        return Frames(
            packets.frame[last],
            packets.time[last],
            packets.frame[first],
            packets.psn[first],
            packets.opcode[last],
            packets.solicited[last],
            sizes,
            seen,
            header,
            payload,
        )

    def _operation(self, packets: Packets, first: int, last: int, size: int, seen: int) -> None:
        """An RDMA operation that lies whole in a run."""
        at, opcode = int(packets.at[first]), int(packets.opcode[first])
        raw = packets.data[at : at + int(packets.captured[first])].tobytes()
        begin, frame, time = int(packets.frame[first]), int(packets.frame[last]), int(packets.time[last])
        psn = int(packets.psn[first])
        if _PART_OF[opcode] == Part.WRITE:
            self._announce(RdmaKind.WRITE, _reth(raw), begin, psn, int(packets.psn[last]), frame, time, seen)
        else:
            self._ask(opcode, raw, psn, begin, frame, time)

    # One packet at a time.

    def _one_by_one(self, packets: Packets) -> None:
        data = packets.data
        columns = (
            packets.frame,
            packets.time,
            packets.opcode,
            packets.solicited,
            packets.psn,
            packets.at,
            packets.captured,
            packets.length,
        )
        for frame, time, opcode, solicited, position, at, captured, length in zip(
            *(column.tolist() for column in columns), strict=True
        ):
            if frame > self._high[0]:
                self._high = frame, time
            part = _PART_OF[opcode]
            if _STARTS[opcode]:
                if self._open is not None:
                    self.joiner.unassigned += 1
                self._open = _Open(part, frame, position)
            unit = self._open
            if unit is None or unit.part != part:
                self._open = None
                self.joiner.unassigned += 1
                continue
            skip = _HEADER_OF[opcode]
            begin, end = at + skip, at + max(skip, captured)
            if part == Part.SEND:
                if _STARTS[opcode]:
                    unit.header = data[begin : min(end, begin + HEADER_BYTES)].tobytes()
                    unit.wanted = self.joiner.wants_payload(unit.header)
                    if unit.wanted and end - begin > HEADER_BYTES:
                        unit.payload.append(data[begin + HEADER_BYTES : end].tobytes())
                elif unit.wanted and unit.captured <= HEADER_BYTES + MAX_FRAGMENT_BYTES:
                    unit.payload.append(data[begin:end].tobytes())
            elif part != Part.WRITE:
                self._open = None
                self._ask(opcode, data[at : at + captured].tobytes(), position, frame, *self._high)
                continue
            elif _STARTS[opcode]:
                unit.reth = _reth(data[at : at + min(captured, RETH.size)].tobytes())
            unit.length += max(0, length - skip)
            unit.captured += end - begin
            if _ENDS[opcode]:
                self._open = None
                self._complete(unit, position, opcode, solicited)

    def _complete(self, unit: _Open, position: int, opcode: int, solicited: bool) -> None:
        frame, time = self._high
        if unit.part == Part.WRITE:
            seen = unit.captured
            self._announce(RdmaKind.WRITE, unit.reth, unit.first_frame, unit.position, position, frame, time, seen)
            return
        self.joiner.add(
            Frame(
                frame,
                time,
                unit.first_frame,
                unit.position,
                opcode,
                solicited,
                unit.length,
                unit.captured,
                unit.header,
                unit.payload,
            )
        )

    # RDMA operations.

    def _ask(self, opcode: int, raw: bytes, psn: int, first_frame: int, frame: int, time: int) -> None:
        """A READ or an atomic: one packet."""
        if opcode == Opcode.READ_REQUEST:
            reth = _reth(raw)
            end = psn + self._span(reth[2] if reth is not None else 0) - 1
            self._announce(RdmaKind.READ, reth, first_frame, psn, end, frame, time, 0)
            return
        atomic = ATOMIC_ETH.unpack_from(raw.ljust(ATOMIC_ETH.size, b"\0"))
        whole = len(raw) >= ATOMIC_ETH.size
        swaps = opcode == Opcode.COMPARE_SWAP
        kind, operands = (
            (RdmaKind.COMPARE_SWAP, (atomic.compare, atomic.swap)) if swaps else (RdmaKind.FETCH_ADD, (atomic.swap,))
        )
        target = (atomic.va, atomic.rkey, ATOMIC_ACK_ETH.size) if whole else None
        self._announce(kind, target, first_frame, psn, psn, frame, time, 0, operands)

    def _announce(
        self,
        kind: RdmaKind,
        target: _Target | None,
        first_frame: int,
        psn: int,
        end: int,
        frame: int,
        time: int,
        seen: int,
        operands: tuple[int, ...] = (),
    ) -> None:
        """An operation on remote memory: it waits for its answer, and for its message."""
        joiner = self.joiner
        va, rkey, length = target or (0, 0, 0)
        operation = Pending(
            joiner.stream,
            joiner.direction,
            kind,
            va,
            rkey,
            length,
            psn,
            end,
            first_frame,
            frame,
            time,
            seen,
            operands=operands,
            cut=target is None,
        )
        if len(joiner.announced) < MAX_ANNOUNCED:
            joiner.announced.append(operation)
        self.operations.request(operation, joiner.output.events)


def _reth(raw: bytes) -> _Target | None:
    """What a request asks for; None where that was not captured."""
    if len(raw) < RETH.size:
        return None
    reth = RETH.unpack_from(raw)
    return reth.va, reth.rkey, reth.dlen
