"""One chunk's segments into the connections that they belong to; messages, acknowledgements and events out.

Which connection that is, :mod:`rdstool.capture.tcp.streams` has found out before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdstool.capture.columns import ACK, Ints, Segments
from rdstool.capture.events import Closing, Gap, GapReason, StreamClosed, StreamOpened
from rdstool.capture.gather import joined
from rdstool.capture.part import Part, PayloadOptions
from rdstool.capture.tcp.bulk import Lanes, acknowledged, take_in_order
from rdstool.capture.tcp.connection import ACK_FLAG, FIN, REORDER_FRAMES, RST, SEQUENCE_SPACE, SYN, Connection
from rdstool.capture.tcp.half import MAX_HOLD_FRAMES, Chunk, Extents, Half, SegmentColumns, nearest
from rdstool.capture.tcp.messages import Framing
from rdstool.capture.tcp.rows import RowBuilder
from rdstool.capture.tcp.search import BoundarySearch

LATE_NS = 1_000_000_000
"""How long after a reset what was on its way may still come; captures of kernels have it 0.12 s later."""


class Unsettled:
    """Halves with a hole, in search, or reset within a message.

    Their messages are reported when that is over, behind later ones of others.
    """

    def __init__(self) -> None:
        self._halves: dict[int, Half] = {}
        """By identity; those with a hole or in search."""
        self._reset: dict[int, tuple[Connection, Half]] = {}
        """By identity of the half, in the order of the resets."""

    def note(self, half: Half) -> None:
        """Segments of the half were taken."""
        if half.regular:
            self._halves.pop(id(half), None)
        else:
            self._halves[id(half)] = half

    def forget(self, half: Half) -> None:
        """Nothing more comes of the half."""
        self._halves.pop(id(half), None)
        self._reset.pop(id(half), None)

    def reset(self, connection: Connection, half: Half) -> None:
        """The connection was reset within a message of the half, at ``half.closing``."""
        self._reset[id(half)] = connection, half

    def take_over(self, last_frame: int, last_time: int) -> list[tuple[Connection, Half]]:
        """Halves that were reset so long before that nothing more is on its way."""
        over: list[tuple[Connection, Half]] = []
        for connection, half in self._reset.values():
            frame, time = half.closing or (0, 0)
            if frame > last_frame - MAX_HOLD_FRAMES and time > last_time - LATE_NS:
                break
            over.append((connection, half))
        for _, half in over:
            del self._reset[id(half)]
        return over

    def first_frame(self, last_frame: int) -> int | None:
        """The first frame after ``last_frame - MAX_HOLD_FRAMES`` that waits; None where none does."""
        waiting = [half.pending or half.carry for half in self._halves.values()]
        frames = [pieces[0].frame for pieces in waiting if pieces]
        frames += [half.closing[0] for _, half in self._reset.values() if half.closing]
        return min((frame for frame in frames if frame > last_frame - MAX_HOLD_FRAMES), default=None)


class Intake:
    """Takes the segments of one chunk, and collects what they bring.

    ``last_frame`` is the chunk's last one; ``rows`` are indices of segments, in capture order.
    """

    def __init__(self, segments: Segments, options: PayloadOptions, unsettled: Unsettled, last_frame: int) -> None:
        self._segments = segments
        self._chunk = Chunk(segments.data)
        self._rows = RowBuilder(options)
        self._acks: list[NDArray[Any]] = []
        self._unsettled = unsettled
        self._last_frame = last_frame

    def part(self) -> Part:
        """All that came of the chunk."""
        rows = self._rows
        return Part(rows.rows(self._chunk), rows.payloads, rows.digests, joined(self._acks, ACK), rows.events)

    def opened(self, connection: Connection, row: int) -> None:
        """Report a connection that began in ``row``."""
        frame, time = self._when(row)
        self._rows.events.append(StreamOpened(frame, time, connection.stream.number, 0))

    def take(self, connection: Connection, rows: Ints, directions: NDArray[np.bool_]) -> None:
        """Take segments that belong to one connection; ``directions`` tells of each the half."""
        of_a, of_b = rows[~directions], rows[directions]
        forward, back = connection.halves
        self._take_half(connection, forward, of_a)
        self._take_half(connection, back, of_b)
        for half, others in ((forward, of_b), (back, of_a)):
            if half.base is not None:
                number = np.array([connection.stream.number])
                bounds = np.array([0, len(others)])
                self._acks.append(acknowledged(self._segments, others, bounds, [half], number))
                if half.pending:
                    self._give_up_acknowledged(connection, half, others)
        self.close(connection, rows, directions)

    def take_many(self, connections: Sequence[Connection], lanes: Lanes, rows: Ints, bounds: Ints) -> None:
        """Take segments of connections that were regular so far, all but what ends them.

        ``lanes`` has those with payload. Segments ``rows[bounds[i]:bounds[i + 1]]`` are those of half ``i``; each
        connection has two, one after the other.
        """
        numbers = np.repeat([connection.stream.number for connection in connections], 2)
        for index, extents in enumerate(take_in_order(self._segments, lanes, self._chunk)):
            half = lanes.halves[index]
            if extents is None:
                self._take_half(connections[index // 2], half, rows[bounds[index] : bounds[index + 1]])
            elif extents.start:
                Framing(half, extents, self._chunk, int(numbers[index]), self._rows).run()
                self._unsettled.note(half)
        # What one direction carries acknowledges the other.
        others = [half for connection in connections for half in reversed(connection.halves)]
        self._acks.append(acknowledged(self._segments, rows, bounds, others, numbers))
        for index, half in enumerate(others):
            if half.pending:
                self._give_up_acknowledged(connections[index // 2], half, rows[bounds[index] : bounds[index + 1]])

    def close(self, connection: Connection, rows: Ints, directions: NDArray[np.bool_]) -> None:
        """Take note of what ends a direction, or the connection."""
        for at in np.flatnonzero(self._segments.flags[rows] & (FIN | RST)).tolist():
            self._close_half(connection, connection.halves[int(directions[at])], int(rows[at]))

    def end_resets(self, last_time: int) -> None:
        """Report what is left of messages within which a connection was reset, once nothing more is on its way."""
        for connection, half in self._unsettled.take_over(self._last_frame, last_time):
            if half.closing and not half.pending:
                self._flush(connection, half, *half.closing)
                half.closing = None

    def end_before(self, connection: Connection, row: int) -> None:
        """Report what is left of a connection that the segment in ``row`` shows to be over."""
        self.end(connection, *self._when(row))

    def end(self, connection: Connection, frame: int, time: int) -> None:
        """Report what is left of a connection that is over; ``frame`` shows it, at ``time`` (ns)."""
        for half in connection.halves:
            if not half.idle:
                extents = half.take(_no_segments(), self._chunk)
                self._settle(connection, half, extents, acked=half.acked, final=True)
                self._flush(connection, half, *(half.closing or (frame, time)))
            self._unsettled.forget(half)
            # FIN takes one number of the sequence space, so an acknowledgement may reach one beyond the data.
            behind = half.acked - half.next - (1 if half.ended else 0)
            if half.base is not None and behind > 0:
                half.coverage.missing += behind
                half.coverage.gaps += 1
                number = connection.stream.number
                gap = Gap(frame, time, number, half.direction, half.next, behind, GapReason.NOT_CAPTURED)
                self._rows.events.append(gap)

    def _take_half(self, connection: Connection, half: Half, rows: Ints) -> None:
        segments = self._segments
        lengths = segments.length[rows]
        loaded = lengths > 0
        if not loaded.all():
            rows, lengths = rows[loaded], lengths[loaded]
        if not len(rows):
            return
        seq = segments.seq[rows]
        syn = segments.flags[rows] & SYN
        if syn.any():
            seq = seq + (syn != 0)  # A SYN takes the number before the payload's first.
        if half.base is None:
            half.search = BoundarySearch(0, 0)
        columns = SegmentColumns(
            half.offsets(seq),
            lengths,
            segments.captured[rows],
            segments.payload[rows],
            segments.frame[rows],
            segments.time[rows],
        )
        self._settle(connection, half, half.take(columns, self._chunk), acked=half.acked)

    def _settle(self, connection: Connection, half: Half, extents: Extents, *, acked: int, final: bool = False) -> None:
        """Give up holes that can no longer fill, then read the messages."""
        number = connection.stream.number
        oldest = self._last_frame - MAX_HOLD_FRAMES
        while half.pending:
            reason = half.hole_to_give_up(acked, oldest) or (GapReason.END if final else None)
            if reason is None:
                break
            position, size, first = half.give_up_hole(extents, self._chunk)
            gap = Gap(first.frame, first.time, number, half.direction, position, size, reason)
            self._rows.events.append(gap)
        Framing(half, extents, self._chunk, number, self._rows).run(final=final)
        self._unsettled.note(half)

    def _give_up_acknowledged(self, connection: Connection, half: Half, rows: Ints) -> None:
        """Give up holes that the peer has acknowledged: what it has received will not be sent again."""
        segments = self._segments
        sure = rows[
            (segments.flags[rows] & ACK_FLAG != 0) & (segments.frame[rows] <= self._last_frame - REORDER_FRAMES)
        ]
        if not len(sure) or half.base is None:
            return
        offsets = segments.ack[sure].astype(np.int64) - (half.base + half.next) % SEQUENCE_SPACE
        acked = int(nearest(offsets).max()) + half.next
        if half.hole_to_give_up(acked, 0) is not None:
            self._settle(connection, half, half.take(_no_segments(), self._chunk), acked=acked)

    def _close_half(self, connection: Connection, half: Half, row: int) -> None:
        segments = self._segments
        reset = bool(segments.flags[row] & RST)
        if half.ended or connection.reset:
            return
        half.ended = True
        connection.reset = reset
        touched = connection.halves if reset else (half,)
        pending = sum(_unfinished(other) for other in touched)
        frame, time = self._when(row)
        how = Closing.RST if reset else Closing.FIN
        self._rows.events.append(StreamClosed(frame, time, connection.stream.number, half.direction, how, pending))
        behind = (int(segments.seq[row]) + int(segments.length[row]) - (half.base or 0) - half.next) % SEQUENCE_SPACE
        for other in touched:
            # What lies before a FIN and was not seen may still come, and what was on its way when a reset went out.
            if other.pending and (reset or behind == 0):
                other.closing = other.closing or (frame, time)
            elif reset and other.open is not None:
                other.closing = other.closing or (frame, time)
                self._unsettled.reset(connection, other)
            elif behind == 0:
                self._flush(connection, other, frame, time)

    def _flush(self, connection: Connection, half: Half, frame: int, time: int) -> None:
        Framing(half, Extents(), self._chunk, connection.stream.number, self._rows).flush(frame, time)

    def _when(self, row: int) -> tuple[int, int]:
        return int(self._segments.frame[row]), int(self._segments.time[row])


def _unfinished(half: Half) -> int:
    """Bytes of a message that has begun and not ended."""
    if half.open is not None:
        return half.next - half.open.position
    return 0 if half.search is not None else half.next - half.boundary


def _no_segments() -> SegmentColumns:
    return SegmentColumns(*(np.empty(0, np.int64) for _ in range(6)))
