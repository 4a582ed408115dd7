"""TCP connections that carry RDS: segments in, messages, acknowledgements and events out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dissectors.wire.rds import TCP_PORT
from rdstool.capture.columns import ACK, Ints, Segments
from rdstool.capture.events import Closing, Gap, GapReason, StreamClosed, StreamOpened
from rdstool.capture.part import Part, PayloadOptions
from rdstool.capture.streams import Endpoint, Stream, StreamTable, address_bytes
from rdstool.capture.tcp_half import MAX_HOLD_FRAMES, Chunk, Extents, Half, SegmentColumns
from rdstool.capture.tcp_messages import Framing, RowBuilder
from rdstool.capture.tcp_search import BoundarySearch
from rdstool.protocol.kinds import Transport

FIN, SYN, RST, ACK_FLAG = 0x01, 0x02, 0x04, 0x10
REORDER_FRAMES = 64
"""An acknowledgement may stand this many frames before the data it covers: captures reorder a little."""
_SEQUENCE_SPACE = 1 << 32

Key = tuple[int, int, int, int, int, int]
"""The two ends, smaller first: (address high and low half) twice, then the ports."""


@dataclass(slots=True)
class Connection:
    """State of one TCP connection. ``halves[0]`` carries what ``stream.a`` sends."""

    stream: Stream
    flipped: bool
    """``stream.a`` is the larger end of the key."""
    halves: tuple[Half, Half]
    reset: bool = False

    @property
    def over(self) -> bool:
        """Nothing more is to come."""
        return self.reset or all(half.ended for half in self.halves)


@dataclass(frozen=True, slots=True)
class Group:
    """The segments of one connection in a chunk."""

    key: Key
    rows: Ints
    """Indices, in capture order."""
    backward: NDArray[np.bool_]
    """Which of them go from the key's larger end to the smaller one."""
    flags: int
    """All TCP flags that occur."""


@dataclass(slots=True)
class _Output:
    rows: RowBuilder
    acks: list[tuple[int, int, Ints, Ints, Ints]] = field(default_factory=list)
    """(stream, direction, positions, frames, times)."""

    def ack_rows(self) -> NDArray[Any]:
        """Return the acknowledgements as one array of dtype ``ACK``."""
        counts = [len(item[2]) for item in self.acks]
        rows = np.empty(sum(counts), ACK)
        if counts:
            rows["stream"] = np.repeat([item[0] for item in self.acks], counts)
            rows["direction"] = np.repeat([item[1] for item in self.acks], counts)
            for index, name in enumerate(("position", "frame", "time"), 2):
                rows[name] = np.concatenate([item[index] for item in self.acks])
        return rows


class TcpStreams:
    """All RDS connections of a capture. Feed it the segments of one chunk after the other."""

    def __init__(
        self, table: StreamTable, options: PayloadOptions, ports: frozenset[int] = frozenset({TCP_PORT})
    ) -> None:
        self.table = table
        self.options = options
        self.ports = ports
        self.connections: dict[Key, Connection] = {}
        self._unsettled: dict[int, tuple[Connection, Half]] = {}
        """Halves with a hole or in search, by identity."""
        self._last_frame = 0

    def feed(self, segments: Segments) -> Part:
        """Take the segments of one chunk, in capture order."""
        if not len(segments):
            return Part.empty()
        chunk = Chunk(segments.data)
        out = _Output(RowBuilder(self.options))
        self._last_frame = int(segments.frame[-1])
        for group in by_connection(segments):
            self._feed_connection(group, segments, chunk, out)
        return self._part(out, chunk)

    def finish(self) -> Part:
        """Give up all holes, report what is incomplete, and forget all state."""
        chunk = Chunk(np.empty(0, np.uint8))
        out = _Output(RowBuilder(self.options))
        for connection in self.connections.values():
            self._end(connection, chunk, out)
        self.connections.clear()
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
        return Part(rows.rows(chunk), rows.payloads, rows.digests, out.ack_rows(), rows.events)

    def _feed_connection(self, group: Group, segments: Segments, chunk: Chunk, out: _Output) -> None:
        """Cut a connection's segments where a SYN begins another one on the same ports."""
        key, rows, backward = group.key, group.rows, group.backward
        flags = segments.flags[rows]
        begin = 0
        for at in np.flatnonzero(flags & SYN).tolist() if group.flags & SYN else ():
            row = int(rows[at])
            first_payload = (int(segments.seq[row]) + 1) % _SEQUENCE_SPACE
            connection = self.connections.get(key)
            if connection is not None:
                half = connection.halves[int(backward[at]) ^ connection.flipped]
                known = half.base is None or half.base == first_payload
                if begin < at and (not known or connection.over):
                    self._feed_range(connection, segments, rows[begin:at], backward[begin:at], chunk, out)
                    begin = at
                if not known or connection.over:
                    self._end(connection, chunk, out)
                    del self.connections[key]
                    connection = None
            if connection is None:
                answer = bool(flags[at] & ACK_FLAG)
                connection = self._open(key, segments, row, initiator=bool(backward[at]) ^ answer, out=out)
                if connection is None:
                    return
            half = connection.halves[int(backward[at]) ^ connection.flipped]
            if half.base is None:
                half.base = first_payload
                half.search = None
        connection = self.connections.get(key)
        if connection is None:
            connection = self._open(key, segments, int(rows[begin]), initiator=None, out=out)
        if connection is not None:
            self._feed_range(connection, segments, rows[begin:], backward[begin:], chunk, out)

    def _open(
        self, key: Key, segments: Segments, row: int, *, initiator: bool | None, out: _Output
    ) -> Connection | None:
        """Enter a connection. ``initiator``: True for the key's larger end, None where no SYN tells."""
        small = Endpoint(address_bytes(key[0], key[1]), key[4])
        large = Endpoint(address_bytes(key[2], key[3]), key[5])
        # Without a SYN, the end that is not on the RDS port has dialled.
        flipped = initiator if initiator is not None else key[4] in self.ports and key[5] not in self.ports
        a, b = (large, small) if flipped else (small, large)
        frame, time = int(segments.frame[row]), int(segments.time[row])
        known = initiator is not None
        stream = self.table.add(Transport.TCP, a, b, initiator_known=known, first_frame=frame, from_start=known)
        if stream is None:
            return None
        halves = Half(0, stream.coverage[0]), Half(1, stream.coverage[1])
        if known:
            out.rows.events.append(StreamOpened(frame, time, stream.number, 0))
        connection = Connection(stream, flipped, halves)
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
        self._acknowledge(connection, forward, segments, of_b, chunk, out)
        self._acknowledge(connection, back, segments, of_a, chunk, out)
        ends = segments.flags[rows] & (FIN | RST)
        if ends.any():
            for at in np.flatnonzero(ends).tolist():
                self._close(connection, connection.halves[int(directions[at])], segments, int(rows[at]), out)

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

    def _acknowledge(
        self, connection: Connection, half: Half, segments: Segments, rows: Ints, chunk: Chunk, out: _Output
    ) -> None:
        """Take what the other end's acknowledgements say of this half."""
        if half.base is None or not len(rows):
            return
        rows = rows[(segments.flags[rows] & ACK_FLAG) != 0]
        if not len(rows):
            return
        reference = (half.base + half.next) % _SEQUENCE_SPACE
        offsets = segments.ack[rows].astype(np.int64) - reference
        offsets = ((offsets + (1 << 31)) & 0xFFFFFFFF) - (1 << 31) + half.next
        highest = np.maximum.accumulate(np.concatenate(([half.acked], offsets)))
        news = np.flatnonzero(highest[1:] > highest[:-1])
        if len(news):
            fresh = rows[news]
            times = segments.frame[fresh], segments.time[fresh]
            out.acks.append((connection.stream.number, half.direction, highest[1:][news], *times))
            half.acked = int(highest[-1])
        if half.pending:
            sure = np.flatnonzero(segments.frame[rows] <= self._last_frame - REORDER_FRAMES)
            acked = int(highest[sure[-1] + 1]) if len(sure) else int(highest[0])
            if half.hole_to_give_up(acked, 0) is not None:
                columns = _no_segments()
                self._settle(connection, half, half.take(columns, chunk), chunk, out, acked=acked)

    def _close(self, connection: Connection, half: Half, segments: Segments, row: int, out: _Output) -> None:
        reset = bool(segments.flags[row] & RST)
        if half.ended or connection.reset:
            return
        half.ended = True
        connection.reset = reset
        touched = connection.halves if reset else (half,)
        pending = sum(_unfinished(other) for other in touched)
        frame, time = int(segments.frame[row]), int(segments.time[row])
        how = Closing.RST if reset else Closing.FIN
        out.rows.events.append(StreamClosed(frame, time, connection.stream.number, half.direction, how, pending))

    def _end(self, connection: Connection, chunk: Chunk, out: _Output) -> None:
        """Report what is left of a connection that nothing more will come of."""
        for half in connection.halves:
            self._settle(connection, half, half.take(_no_segments(), chunk), chunk, out, acked=half.acked, final=True)
            self._unsettled.pop(id(half), None)
            # FIN takes one number of the sequence space, so an acknowledgement may reach one beyond the data.
            behind = half.acked - half.next - (1 if half.ended else 0)
            if half.base is not None and behind > 0:
                half.coverage.missing += behind
                half.coverage.gaps += 1
                number = connection.stream.number
                gap = Gap(self._last_frame, 0, number, half.direction, half.next, behind, GapReason.END)
                out.rows.events.append(gap)


def _unfinished(half: Half) -> int:
    """Bytes of a message that has begun and not ended."""
    if half.open is not None:
        return half.next - half.open.position
    return 0 if half.search is not None else half.next - half.boundary


def _no_segments() -> SegmentColumns:
    return SegmentColumns(*(np.empty(0, np.int64) for _ in range(6)))


def by_connection(segments: Segments) -> list[Group]:
    """Group segments by connection, in the order of each one's first segment."""
    backward = (segments.src_hi > segments.dst_hi) | (
        (segments.src_hi == segments.dst_hi)
        & (
            (segments.src_lo > segments.dst_lo)
            | ((segments.src_lo == segments.dst_lo) & (segments.sport > segments.dport))
        )
    )
    ends = np.empty((len(segments), 5), np.uint64)
    ends[:, 0] = np.where(backward, segments.dst_hi, segments.src_hi)
    ends[:, 1] = np.where(backward, segments.dst_lo, segments.src_lo)
    ends[:, 2] = np.where(backward, segments.src_hi, segments.dst_hi)
    ends[:, 3] = np.where(backward, segments.src_lo, segments.dst_lo)
    low_port = np.where(backward, segments.dport, segments.sport).astype(np.uint64)
    high_port = np.where(backward, segments.sport, segments.dport).astype(np.uint64)
    ends[:, 4] = low_port << np.uint64(16) | high_port
    first, inverse = _unique_rows(ends)
    order = np.argsort(inverse, kind="stable")
    bounds = np.searchsorted(inverse[order], np.arange(len(first) + 1))
    flags = np.bitwise_or.reduceat(segments.flags[order], bounds[:-1]).tolist()
    groups = []
    for index in np.argsort(first, kind="stable").tolist():
        rows = order[bounds[index] : bounds[index + 1]]
        a_hi, a_lo, b_hi, b_lo, ports = ends[first[index]].tolist()
        key = a_hi, a_lo, b_hi, b_lo, ports >> 16, ports & 0xFFFF
        groups.append(Group(key, rows, backward[rows], flags[index]))
    return groups


def _unique_rows(table: NDArray[np.uint64]) -> tuple[Ints, Ints]:
    """First row and group number of each distinct row. Hashes first, and makes sure that no two rows share a hash."""
    factors = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0xD6E8FEB86659FD93, 1], np.uint64)
    mixed = table * factors
    mixed ^= mixed >> np.uint64(29)
    hashes = (mixed * np.uint64(0xBF58476D1CE4E5B9)).sum(axis=1, dtype=np.uint64)
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    if not (table[first[inverse]] == table).all():
        _, first, inverse = np.unique(table, axis=0, return_index=True, return_inverse=True)
    return first, inverse
