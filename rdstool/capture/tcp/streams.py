"""TCP connections that carry RDS: which segments belong to which, where one begins and another ends."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from dissectors.wire.rds import TCP_PORT
from rdstool.capture.columns import Ints, Segments
from rdstool.capture.gather import ascending
from rdstool.capture.part import Part, PayloadOptions
from rdstool.capture.streams import StreamTable
from rdstool.capture.tcp.bulk import lanes_of
from rdstool.capture.tcp.connection import (
    ACK_FLAG,
    FIN,
    RST,
    SEQUENCE_SPACE,
    SYN,
    Connection,
    has_begun,
    has_said,
    may_begin,
    may_end,
)
from rdstool.capture.tcp.group import Grouping, Key, by_connection, ends_of
from rdstool.capture.tcp.half import Half
from rdstool.capture.tcp.intake import Intake, Unsettled
from rdstool.capture.tcp.resting import Connections
from rdstool.capture.tcp.reuse import first_jump
from rdstool.protocol.kinds import Transport

_IN_ORDER, _AGAIN = 0, 1
"""Steps of this stage, as turns of the stream table."""
_Waiting = tuple[int, int, Iterator[int] | None]
"""A connection's next frame, its number in the grouping, and what takes its segments, if that has begun."""


class TcpStreams:
    """All RDS connections of a capture. Feed it the segments of one chunk after the other."""

    def __init__(
        self, table: StreamTable, options: PayloadOptions, ports: frozenset[int] = frozenset({TCP_PORT})
    ) -> None:
        self.table = table
        self.options = options
        self.ports = ports
        self.connections = Connections(table)
        self._unsettled = Unsettled()
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
        intake = self._intake(segments)
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
                connection = self._prepare(grouping, group, segments, intake)
                if connection is not None:
                    regular.append((group, connection))
                    continue
                taking = self._feed_connection(grouping, group, segments, intake)
            for later in taking:
                heappush(waiting, (later, group, taking))
                break
        if regular:
            self._feed_regular(grouping, regular, segments, intake)
        intake.end_resets(self._last_time)
        self.connections.rest(grouping.keys)
        return intake.part()

    def finish(self) -> Part:
        """Give up all holes, report what is incomplete, and forget all state."""
        intake = self._intake(Segments.none())
        for connection in self.connections.leave():
            intake.end(connection, self._last_frame, self._last_time)
        return intake.part()

    def settled_frame(self) -> int | None:
        """Return the frame before which no more messages can be completed, None where nothing is open.

        A message behind a hole, or found by a search, is reported when the hole is given up or the search ends, one
        that a reset may have ended when nothing more can be on its way; what other streams bring meanwhile is to be
        ordered behind it.
        """
        return self._unsettled.first_frame(self._last_frame)

    def _intake(self, segments: Segments) -> Intake:
        return Intake(segments, self.options, self._unsettled, self._last_frame)

    def _prepare(self, grouping: Grouping, group: int, segments: Segments, intake: Intake) -> Connection | None:
        """Return a connection all of whose segments can be taken at once; None where they need a closer look."""
        key = grouping.keys[group]
        connection = self.connections.get(key)
        if grouping.flags[group] & SYN:
            rows = grouping.rows(group)
            flags, backward = segments.flags[rows], grouping.backward[rows]
            for at in np.flatnonzero(flags & SYN).tolist():
                row = int(rows[at])
                if connection is None and at == 0:
                    connection = self._open(key, segments, row, flags[at] & ACK_FLAG, backward[at], intake)
                if connection is None or connection.over or segments.length[row] or may_end(flags[:at]):
                    return None
                half = connection.half(backward[at])
                first_payload = _first_payload(segments, row)
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
        self, grouping: Grouping, regular: list[tuple[int, Connection]], segments: Segments, intake: Intake
    ) -> None:
        """Take all segments of connections that were regular so far, both directions of all of them at once."""
        connections = [connection for _, connection in regular]
        place = np.full(len(grouping.keys), -1, np.int64)
        place[[group for group, _ in regular]] = np.arange(len(regular))
        flipped = np.array([connection.flipped for connection in connections])
        lane = place[grouping.group]
        rows = np.flatnonzero(lane >= 0)
        lane = lane[rows]
        lane = lane * 2 + (grouping.backward[rows] ^ flipped[lane])
        order = ascending(lane, 2 * len(regular))
        rows = rows[order]
        bounds = np.searchsorted(lane[order], np.arange(2 * len(regular) + 1))
        halves = [half for connection in connections for half in connection.halves]
        lanes = lanes_of(segments, rows, bounds, halves)
        if len(lanes.jumps):
            odd = set((lanes.jumps // 2).tolist())
            for index in sorted(odd):
                first = int(grouping.first[regular[index][0]])
                self.table.turn = _AGAIN, int(segments.frame[first])
                for _ in self._feed_connection(grouping, regular[index][0], segments, intake):
                    pass
            rest = [item for index, item in enumerate(regular) if index not in odd]
            if rest:
                self._feed_regular(grouping, rest, segments, intake)
            return
        intake.take_many(connections, lanes, rows, bounds)
        for group, connection in regular:
            if grouping.flags[group] & (FIN | RST):
                own = grouping.rows(group)
                intake.close(connection, own, grouping.backward[own] ^ connection.flipped)

    def _feed_connection(self, grouping: Grouping, group: int, segments: Segments, intake: Intake) -> Iterator[int]:
        """Cut a connection's segments where a SYN begins another one on the same ports; yields its frame before.

        To be asked until its end.
        """
        key, rows = grouping.keys[group], grouping.rows(group)
        backward = grouping.backward[rows]
        flags = segments.flags[rows]
        begin = 0
        for at in np.flatnonzero(flags & SYN).tolist():
            row = int(rows[at])
            first_payload = _first_payload(segments, row)
            connection = self.connections.get(key)
            unknown = connection is None and has_begun(segments, rows[begin:at], backward[begin:at], row, backward[at])
            if unknown:
                connection = self._open_unknown(key, segments, int(rows[begin]))
            if connection is not None:
                half = connection.half(backward[at])
                own = backward[begin:at] == backward[at]
                if unknown or (half.base is None and has_said(segments, rows[begin:at], own)):
                    # What came before tells the numbers by which this SYN is judged.
                    connection = self._feed_split(key, connection, segments, rows[begin:at], backward[begin:at], intake)
                    begin, half = at, connection.half(backward[at])
                known = half.base == first_payload or (half.base is None and may_begin(connection, segments, row))
                if begin < at and (not known or connection.over or may_end(flags[begin:at])):
                    connection = self._feed_split(key, connection, segments, rows[begin:at], backward[begin:at], intake)
                    begin = at
                if not known or connection.over:
                    intake.end_before(connection, row)
                    del self.connections[key]
                    connection = None
                    yield int(segments.frame[row])
            if connection is None:
                connection = self._open(key, segments, row, flags[at] & ACK_FLAG, backward[at], intake)
                if connection is None:
                    return
            half = connection.half(backward[at])
            if half.base is None:
                half.base = first_payload
                half.search = None
        connection = self.connections.get(key)
        if connection is None:
            connection = self._open_unknown(key, segments, int(rows[begin]))
        if connection is not None:
            self._feed_split(key, connection, segments, rows[begin:], backward[begin:], intake)

    def _feed_split(
        self,
        key: Key,
        connection: Connection,
        segments: Segments,
        rows: Ints,
        backward: NDArray[np.bool_],
        intake: Intake,
    ) -> Connection:
        """Take segments without a SYN between them; where the numbers jump, another connection has begun.

        Returns the last one.
        """
        while len(rows):
            directions = backward ^ connection.flipped
            cut = first_jump(segments, rows, directions, connection.halves, over=connection.over)
            if cut is None:
                intake.take(connection, rows, directions)
                break
            if cut:
                intake.take(connection, rows[:cut], directions[:cut])
            row = int(rows[cut])
            another = self._open_unknown(key, segments, row)
            if another is None:
                break
            intake.end_before(connection, row)
            connection, rows, backward = another, rows[cut:], backward[cut:]
        return connection

    def _open(
        self, key: Key, segments: Segments, row: int, answer: np.uint8, backward: np.bool_, intake: Intake
    ) -> Connection | None:
        """Enter a connection that began with the SYN in ``row``, or with the answer to it."""
        flipped = bool(backward) ^ bool(answer)
        connection = self._enter(key, segments, row, flipped=flipped, known=True)
        if connection is not None:
            intake.opened(connection, row)
        return connection

    def _open_unknown(self, key: Key, segments: Segments, row: int) -> Connection | None:
        """Enter a connection whose beginning was not captured: the end off the RDS port has dialled."""
        small, large = ends_of(key)
        flipped = small.port in self.ports and large.port not in self.ports
        return self._enter(key, segments, row, flipped=flipped, known=False)

    def _enter(self, key: Key, segments: Segments, row: int, *, flipped: bool, known: bool) -> Connection | None:
        """Make a connection, in place of an earlier one of these ends; None where there are too many."""
        small, large = ends_of(key)
        a, b = (large, small) if flipped else (small, large)
        frame = int(segments.frame[row])
        stream = self.table.add(Transport.TCP, a, b, initiator_known=known, first_frame=frame, from_start=known)
        if stream is None:
            return None
        connection = Connection(stream, flipped, (Half(0, stream.coverage[0]), Half(1, stream.coverage[1])))
        self.connections[key] = connection
        return connection


def _first_payload(segments: Segments, row: int) -> int:
    """Number of the first byte of payload behind the SYN in ``row``."""
    return (int(segments.seq[row]) + 1) % SEQUENCE_SPACE
