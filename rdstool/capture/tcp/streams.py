"""TCP connections that carry RDS: segments in, messages, acknowledgements and events out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dissectors.wire.rds import TCP_PORT
from rdstool.capture.columns import ACK, Ints, Segments
from rdstool.capture.events import Closing, Gap, GapReason, StreamClosed, StreamOpened
from rdstool.capture.gather import ascending, joined
from rdstool.capture.part import Part, PayloadOptions
from rdstool.capture.streams import StreamTable
from rdstool.capture.tcp.bulk import acknowledged, lanes_of, take_in_order
from rdstool.capture.tcp.connection import (
    ACK_FLAG,
    FIN,
    REORDER_FRAMES,
    RST,
    SYN,
    Connection,
    has_begun,
    has_said,
    may_begin,
    may_end,
)
from rdstool.capture.tcp.group import Grouping, Key, by_connection, ends_of
from rdstool.capture.tcp.half import MAX_HOLD_FRAMES, Chunk, Extents, Half, SegmentColumns, nearest
from rdstool.capture.tcp.messages import Framing, RowBuilder
from rdstool.capture.tcp.resting import Connections
from rdstool.capture.tcp.reuse import first_jump
from rdstool.capture.tcp.search import BoundarySearch
from rdstool.protocol.kinds import Transport

_SEQUENCE_SPACE = 1 << 32
_IN_ORDER, _AGAIN = 0, 1
"""Steps of this stage, as turns of the stream table."""
_Waiting = tuple[int, int, Iterator[int] | None]
"""A connection's next frame, its number in the grouping, and what takes its segments, if that has begun."""


@dataclass(slots=True)
class _Output:
    """What one chunk brought."""

    rows: RowBuilder
    acks: list[NDArray[Any]] = field(default_factory=list)


class TcpStreams:
    """All RDS connections of a capture. Feed it the segments of one chunk after the other."""

    def __init__(
        self, table: StreamTable, options: PayloadOptions, ports: frozenset[int] = frozenset({TCP_PORT})
    ) -> None:
        self.table = table
        self.options = options
        self.ports = ports
        self.connections = Connections(table)
        self._unsettled: dict[int, tuple[Connection, Half]] = {}
        """Halves with a hole or in search, by identity."""
        self._last_frame = self._last_time = 0

    def feed(self, segments: Segments, last: tuple[int, int] | None = None) -> Part:
        """Take the segments of one chunk, in capture order.

        ``last`` is frame and time of the chunk's last segment, where these are only some of them.
        """
        if last is not None:
            self._last_frame, self._last_time = last
        if not len(segments):
            return Part.empty()
        if last is None:
            self._last_frame, self._last_time = int(segments.frame[-1]), int(segments.time[-1])
        chunk = Chunk(segments.data)
        out = _Output(RowBuilder(self.options))
        grouping = by_connection(segments)
        regular: list[tuple[int, Connection]] = []
        order = np.argsort(grouping.first)
        frames = segments.frame[grouping.first[order]].tolist()
        # Connections get their numbers in the order of their frames, later ones on ports that were used before too.
        waiting: list[_Waiting] = [(frame, group, None) for frame, group in zip(frames, order.tolist(), strict=True)]
        while waiting:
            frame, group, taking = heappop(waiting)
            self.table.turn = _IN_ORDER, frame
            if taking is None:
                connection = self._prepare(grouping, group, segments, out)
                if connection is not None:
                    regular.append((group, connection))
                    continue
                taking = self._feed_connection(grouping, group, segments, chunk, out)
            for later in taking:
                heappush(waiting, (later, group, taking))
                break
        if regular:
            self._feed_regular(grouping, regular, segments, chunk, out)
        self.connections.rest(grouping.keys)
        return self._part(out, chunk)

    def finish(self) -> Part:
        """Give up all holes, report what is incomplete, and forget all state."""
        chunk = Chunk(np.empty(0, np.uint8))
        out = _Output(RowBuilder(self.options))
        for connection in self.connections.leave():
            self._end(connection, chunk, out, self._last_frame, self._last_time)
        self._unsettled.clear()
        return self._part(out, chunk)

    def settled_frame(self) -> int | None:
        """Return the frame before which no more messages can be completed, None where nothing is open.

        A message behind a hole, or found by a search, is reported when the hole is given up or the search ends;
        what other streams bring meanwhile is to be ordered behind it.
        """
        open_frames = [
            half.pending[0].frame if half.pending else half.carry[0].frame
            for _, half in self._unsettled.values()
            if half.pending or half.carry
        ]
        recent = [frame for frame in open_frames if frame > self._last_frame - MAX_HOLD_FRAMES]
        return min(recent, default=None)

    def _part(self, out: _Output, chunk: Chunk) -> Part:
        rows = out.rows
        return Part(rows.rows(chunk), rows.payloads, rows.digests, joined(out.acks, ACK), rows.events)

    def _prepare(self, grouping: Grouping, group: int, segments: Segments, out: _Output) -> Connection | None:
        """Return a connection all of whose segments can be taken at once; None where they need a closer look."""
        key = grouping.keys[group]
        connection = self.connections.get(key)
        if grouping.flags[group] & SYN:
            rows = grouping.rows(group)
            flags, backward = segments.flags[rows], grouping.backward[rows]
            for at in np.flatnonzero(flags & SYN).tolist():
                row = int(rows[at])
                if connection is None and at == 0:
                    connection = self._open(key, segments, row, flags[at] & ACK_FLAG, backward[at], out)
                if connection is None or connection.over or segments.length[row] or may_end(flags[:at]):
                    return None
                half = connection.halves[int(backward[at]) ^ connection.flipped]
                first_payload = (int(segments.seq[row]) + 1) % _SEQUENCE_SPACE
                if half.base is None and half.search is None and connection.stream.from_start:
                    if has_said(segments, rows[:at], backward[:at] == backward[at]):
                        return None
                    half.base = first_payload
                elif half.base != first_payload:
                    return None
        if connection is None or any(not half.regular for half in connection.halves):
            return None
        return connection

    def _feed_regular(
        self,
        grouping: Grouping,
        regular: list[tuple[int, Connection]],
        segments: Segments,
        chunk: Chunk,
        out: _Output,
    ) -> None:
        """Take all segments of connections that were regular so far, both directions of all of them at once."""
        place = np.full(len(grouping.keys), -1, np.int64)
        place[[group for group, _ in regular]] = np.arange(len(regular))
        flipped = np.array([connection.flipped for _, connection in regular])
        lane = place[grouping.group]
        rows = np.flatnonzero(lane >= 0)
        lane = lane[rows]
        lane = lane * 2 + (grouping.backward[rows] ^ flipped[lane])
        order = ascending(lane, 2 * len(regular))
        rows = rows[order]
        bounds = np.searchsorted(lane[order], np.arange(2 * len(regular) + 1))
        halves = [half for _, connection in regular for half in connection.halves]
        lanes = lanes_of(segments, rows, bounds, halves)
        if len(lanes.jumps):
            odd = set((lanes.jumps // 2).tolist())
            for index in sorted(odd):
                first = int(grouping.first[regular[index][0]])
                self.table.turn = _AGAIN, int(segments.frame[first])
                for _ in self._feed_connection(grouping, regular[index][0], segments, chunk, out):
                    pass
            rest = [item for index, item in enumerate(regular) if index not in odd]
            if rest:
                self._feed_regular(grouping, rest, segments, chunk, out)
            return
        numbers = np.repeat([connection.stream.number for _, connection in regular], 2)
        taken = take_in_order(segments, lanes, chunk)
        for index, extents in enumerate(taken):
            connection = regular[index // 2][1]
            if extents is None:
                own = rows[bounds[index] : bounds[index + 1]]
                self._feed_half(connection, halves[index], segments, own, chunk, out)
            elif extents.start:
                Framing(halves[index], extents, chunk, int(numbers[index]), out.rows).run()
                self._note(connection, halves[index])
        # What one direction carries acknowledges the other.
        others = [half for _, connection in regular for half in reversed(connection.halves)]
        out.acks.append(acknowledged(segments, rows, bounds, others, numbers))
        for index, half in enumerate(others):
            if half.pending:
                own = rows[bounds[index] : bounds[index + 1]]
                self._give_up_acknowledged(regular[index // 2][1], half, segments, own, chunk, out)
        for group, connection in regular:
            if grouping.flags[group] & (FIN | RST):
                own = grouping.rows(group)
                self._close_all(connection, segments, own, grouping.backward[own] ^ connection.flipped, chunk, out)

    def _feed_connection(
        self, grouping: Grouping, group: int, segments: Segments, chunk: Chunk, out: _Output
    ) -> Iterator[int]:
        """Cut a connection's segments where a SYN begins another one on the same ports; yields its frame before.

        To be asked until its end.
        """
        key, rows = grouping.keys[group], grouping.rows(group)
        backward = grouping.backward[rows]
        flags = segments.flags[rows]
        begin = 0
        for at in np.flatnonzero(flags & SYN).tolist():
            row = int(rows[at])
            first_payload = (int(segments.seq[row]) + 1) % _SEQUENCE_SPACE
            connection = self.connections.get(key)
            if connection is None and has_begun(segments, rows[begin:at], backward[begin:at], row, backward[at]):
                connection = self._open_unknown(key, segments, int(rows[begin]))
                if connection is not None:
                    self._feed_split(key, connection, segments, rows[begin:at], backward[begin:at], chunk, out)
                    begin, connection = at, self.connections[key]
            if connection is not None:
                half = connection.halves[int(backward[at]) ^ connection.flipped]
                if half.base is None and has_said(segments, rows[begin:at], backward[begin:at] == backward[at]):
                    self._feed_split(key, connection, segments, rows[begin:at], backward[begin:at], chunk, out)
                    begin, connection = at, self.connections[key]
                    half = connection.halves[half.direction]
                known = half.base == first_payload or (half.base is None and may_begin(connection, segments, row))
                if begin < at and (not known or connection.over or may_end(flags[begin:at])):
                    self._feed_split(key, connection, segments, rows[begin:at], backward[begin:at], chunk, out)
                    begin = at
                    connection = self.connections[key]
                if not known or connection.over:
                    self._end(connection, chunk, out, int(segments.frame[row]), int(segments.time[row]))
                    del self.connections[key]
                    connection = None
                    yield int(segments.frame[row])
            if connection is None:
                connection = self._open(key, segments, row, flags[at] & ACK_FLAG, backward[at], out)
                if connection is None:
                    return
            half = connection.halves[int(backward[at]) ^ connection.flipped]
            if half.base is None:
                half.base = first_payload
                half.search = None
        connection = self.connections.get(key)
        if connection is None:
            connection = self._open_unknown(key, segments, int(rows[begin]))
        if connection is not None:
            self._feed_split(key, connection, segments, rows[begin:], backward[begin:], chunk, out)

    def _feed_split(
        self,
        key: Key,
        connection: Connection,
        segments: Segments,
        rows: Ints,
        backward: NDArray[np.bool_],
        chunk: Chunk,
        out: _Output,
    ) -> None:
        """Take segments without a SYN between them; where the numbers jump, another connection has begun."""
        while len(rows):
            directions = backward ^ connection.flipped
            cut = first_jump(segments, rows, directions, connection.halves, over=connection.over)
            if cut is None:
                self._feed_range(connection, segments, rows, backward, chunk, out)
                return
            if cut:
                self._feed_range(connection, segments, rows[:cut], backward[:cut], chunk, out)
            row = int(rows[cut])
            another = self._open_unknown(key, segments, row)
            if another is None:
                self.connections[key] = connection
                return
            self._end(connection, chunk, out, int(segments.frame[row]), int(segments.time[row]))
            connection, rows, backward = another, rows[cut:], backward[cut:]

    def _open(
        self, key: Key, segments: Segments, row: int, answer: np.uint8, backward: np.bool_, out: _Output
    ) -> Connection | None:
        """Enter a connection that began with the SYN in ``row``, or with the answer to it."""
        flipped = bool(backward) ^ bool(answer)
        connection = self._enter(key, segments, row, flipped=flipped, known=True)
        if connection is not None:
            frame, time = int(segments.frame[row]), int(segments.time[row])
            out.rows.events.append(StreamOpened(frame, time, connection.stream.number, 0))
        return connection

    def _open_unknown(self, key: Key, segments: Segments, row: int) -> Connection | None:
        """Enter a connection whose beginning was not captured: the end off the RDS port has dialled."""
        small, large = ends_of(key)
        flipped = small.port in self.ports and large.port not in self.ports
        return self._enter(key, segments, row, flipped=flipped, known=False)

    def _enter(self, key: Key, segments: Segments, row: int, *, flipped: bool, known: bool) -> Connection | None:
        small, large = ends_of(key)
        a, b = (large, small) if flipped else (small, large)
        frame = int(segments.frame[row])
        stream = self.table.add(Transport.TCP, a, b, initiator_known=known, first_frame=frame, from_start=known)
        if stream is None:
            return None
        connection = Connection(stream, flipped, (Half(0, stream.coverage[0]), Half(1, stream.coverage[1])))
        self.connections[key] = connection
        return connection

    def _feed_range(
        self,
        connection: Connection,
        segments: Segments,
        rows: Ints,
        backward: NDArray[np.bool_],
        chunk: Chunk,
        out: _Output,
    ) -> None:
        """Take segments that belong to one connection, both directions, in capture order."""
        directions = backward ^ connection.flipped
        of_a, of_b = rows[~directions], rows[directions]
        forward, back = connection.halves
        self._feed_half(connection, forward, segments, of_a, chunk, out)
        self._feed_half(connection, back, segments, of_b, chunk, out)
        for half, others in ((forward, of_b), (back, of_a)):
            if half.base is not None:
                number = np.array([connection.stream.number])
                bounds = np.array([0, len(others)])
                out.acks.append(acknowledged(segments, others, bounds, [half], number))
                if half.pending:
                    self._give_up_acknowledged(connection, half, segments, others, chunk, out)
        self._close_all(connection, segments, rows, directions, chunk, out)

    def _feed_half(
        self, connection: Connection, half: Half, segments: Segments, rows: Ints, chunk: Chunk, out: _Output
    ) -> None:
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
        extents = half.take(columns, chunk)
        if not half.pending:
            Framing(half, extents, chunk, connection.stream.number, out.rows).run()
            self._note(connection, half)
        else:
            self._settle(connection, half, extents, chunk, out, acked=half.acked)

    def _settle(
        self,
        connection: Connection,
        half: Half,
        extents: Extents,
        chunk: Chunk,
        out: _Output,
        *,
        acked: int,
        final: bool = False,
    ) -> None:
        """Give up holes that can no longer fill, then read the messages."""
        oldest = self._last_frame - MAX_HOLD_FRAMES
        while half.pending:
            reason = half.hole_to_give_up(acked, oldest) or (GapReason.END if final else None)
            if reason is None:
                break
            position, size, first = half.give_up_hole(extents, chunk)
            gap = Gap(first.frame, first.time, connection.stream.number, half.direction, position, size, reason)
            out.rows.events.append(gap)
        Framing(half, extents, chunk, connection.stream.number, out.rows).run(final=final)
        self._note(connection, half)

    def _note(self, connection: Connection, half: Half) -> None:
        if half.pending or half.search is not None:
            self._unsettled[id(half)] = (connection, half)
        else:
            self._unsettled.pop(id(half), None)

    def _give_up_acknowledged(
        self, connection: Connection, half: Half, segments: Segments, rows: Ints, chunk: Chunk, out: _Output
    ) -> None:
        """Give up holes that the peer has acknowledged: what it has received will not be sent again."""
        sure = rows[
            (segments.flags[rows] & ACK_FLAG != 0) & (segments.frame[rows] <= self._last_frame - REORDER_FRAMES)
        ]
        if not len(sure) or half.base is None:
            return
        offsets = segments.ack[sure].astype(np.int64) - (half.base + half.next) % _SEQUENCE_SPACE
        acked = int(nearest(offsets).max()) + half.next
        if half.hole_to_give_up(acked, 0) is not None:
            self._settle(connection, half, half.take(_no_segments(), chunk), chunk, out, acked=acked)

    def _close_all(
        self,
        connection: Connection,
        segments: Segments,
        rows: Ints,
        directions: NDArray[np.bool_],
        chunk: Chunk,
        out: _Output,
    ) -> None:
        for at in np.flatnonzero(segments.flags[rows] & (FIN | RST)).tolist():
            self._close(connection, connection.halves[int(directions[at])], segments, int(rows[at]), chunk, out)

    def _close(
        self, connection: Connection, half: Half, segments: Segments, row: int, chunk: Chunk, out: _Output
    ) -> None:
        reset = bool(segments.flags[row] & RST)
        if half.ended or connection.reset:
            return
        half.ended = True
        connection.reset = reset
        touched = connection.halves if reset else (half,)
        pending = sum(_unfinished(other) for other in touched)
        frame, time = int(segments.frame[row]), int(segments.time[row])
        how = Closing.RST if reset else Closing.FIN
        number = connection.stream.number
        out.rows.events.append(StreamClosed(frame, time, number, half.direction, how, pending))
        behind = (int(segments.seq[row]) + int(segments.length[row]) - (half.base or 0) - half.next) % _SEQUENCE_SPACE
        for other in touched:
            # What lies before a FIN and was not seen may still come.
            if reset or behind == 0:
                if other.pending:
                    other.closing = other.closing or (frame, time)
                else:
                    Framing(other, Extents(), chunk, number, out.rows).flush(frame, time)

    def _end(self, connection: Connection, chunk: Chunk, out: _Output, frame: int, time: int) -> None:
        """Report what is left of a connection that ``frame`` shows to be over."""
        for half in connection.halves:
            if not half.idle:
                extents = half.take(_no_segments(), chunk)
                self._settle(connection, half, extents, chunk, out, acked=half.acked, final=True)
                ended = half.closing or (frame, time)
                Framing(half, Extents(), chunk, connection.stream.number, out.rows).flush(*ended)
            self._unsettled.pop(id(half), None)
            # FIN takes one number of the sequence space, so an acknowledgement may reach one beyond the data.
            behind = half.acked - half.next - (1 if half.ended else 0)
            if half.base is not None and behind > 0:
                half.coverage.missing += behind
                half.coverage.gaps += 1
                number = connection.stream.number
                gap = Gap(frame, time, number, half.direction, half.next, behind, GapReason.NOT_CAPTURED)
                out.rows.events.append(gap)


def _unfinished(half: Half) -> int:
    """Bytes of a message that has begun and not ended."""
    if half.open is not None:
        return half.next - half.open.position
    return 0 if half.search is not None else half.next - half.boundary


def _no_segments() -> SegmentColumns:
    return SegmentColumns(*(np.empty(0, np.int64) for _ in range(6)))
