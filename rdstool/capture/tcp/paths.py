"""Which path of its connection each TCP connection is (protocol.md §4.2 to 4.4, 5, 13).

Certain knowledge comes first: probes travel on path 0, and where the dialling side announced SPORT_IDX its TCP
source port tells the path. Without them a path is an inference (:mod:`rdstool.capture.tcp.path_evidence`).
"""

from __future__ import annotations

from functools import lru_cache
from heapq import heappop, heappush
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dissectors.wire.rds import MAX_PATHS, TCP_PORT, Flags
from rdstool.capture.events import Event, StreamClosed
from rdstool.capture.gather import distinct
from rdstool.capture.streams import StreamTable
from rdstool.capture.tcp.path_evidence import (
    AddressPair,
    Announcement,
    Connection,
    Verdict,
    guess_of,
    judge,
    leave_to_stronger,
    weigh_in_common,
)
from rdstool.protocol.kinds import MessageKind, Transport

VOTES = 32
"""RDS source ports that are kept as evidence, for each direction of a stream."""
SAMPLE = 4096
"""Messages of one batch that are looked at for evidence."""
LOOKS = 16
"""Batches in which a stream's messages are looked at for evidence."""
OPEN_LIMIT = 2 * MAX_PATHS
"""Connections of one address pair that are weighed again when more is known; older ones keep their path."""


class PathMap:
    """Finds and refines the path of every TCP connection as batches come by; InfiniBand has no paths."""

    def __init__(self, streams: StreamTable) -> None:
        self._streams = streams
        self._pairs: list[AddressPair | None] = []
        """By ``Stream.pair``; None for those of InfiniBand, and those that were not reached yet."""
        self._connections: list[Connection | None] = []
        """By the number of the stream; None also where its path will not change any more, as it has ended."""
        self._ahead: list[tuple[int, int]] = []
        """First frame and number of streams that are in the table and not yet reached: a heap."""
        self._wanted = np.zeros(64, dtype=np.bool_)
        self._last = np.zeros(64, dtype=np.int64)

    def observe(self, rows: NDArray[Any], events: list[Event]) -> None:
        """Take in one batch; writes ``path``, ``path_confidence`` and ``path_basis`` of the streams concerned."""
        frame = max(int(rows["frame"][-1]) if len(rows) else 0, events[-1].frame if events else 0)
        touched = self._enter_streams(frame)
        for event in events:
            if isinstance(event, StreamClosed):
                connection = self._connections[event.stream]
                if connection is not None and connection.closed is None:
                    connection.closed = event.frame
                    touched.add(connection.stream.pair)
        if len(rows):
            stream = rows["stream"]
            kind = rows["kind"]
            self._last[stream] = rows["frame"]
            self._hear_probes(
                rows, np.flatnonzero((kind == MessageKind.PROBE) | (kind == MessageKind.PROBE_REPLY)), touched
            )
            # What is sent again may have been queued on path 0, before the handshake.
            first_time = rows["header"]["flags"] & Flags.RETRANSMITTED == 0
            telling = ((kind == MessageKind.DATA) | (kind == MessageKind.PING)) & first_time
            self._collect_ports(rows, np.flatnonzero(self._wanted[stream] & telling), touched)
        for number in touched:
            pair = self._pairs[number]
            if pair is not None:
                self._weigh(pair)

    def path_of(self, stream: int) -> int:
        """The path of a stream as far as it is known now; -1 where it is not."""
        return self._streams[stream].path

    def _enter_streams(self, frame: int) -> set[int]:
        """Take in the streams that begin up to ``frame``; the table may be ahead of the messages. Gives their pairs."""
        count = len(self._streams)
        while count > len(self._wanted):
            self._wanted = np.concatenate((self._wanted, np.zeros_like(self._wanted)))
            self._last = np.concatenate((self._last, np.zeros_like(self._last)))
        for stream in self._streams.streams[len(self._connections) :]:
            self._connections.append(None)
            if stream.pair == len(self._pairs):
                self._pairs.append(None)
            if stream.transport is Transport.TCP:
                heappush(self._ahead, (stream.first_frame, stream.number))
        touched = set()
        while self._ahead and self._ahead[0][0] <= frame:
            number = heappop(self._ahead)[1]
            stream = self._streams[number]
            dialler = int(stream.a.port == TCP_PORT and stream.b.port != TCP_PORT)
            end, _ = stream.ends(dialler)
            by_larger = stream.initiator_known and end.address != stream.address_pair[0]
            connection = self._connections[number] = Connection(stream, end.port, dialler, by_larger)
            pair = self._pairs[stream.pair]
            if pair is None:
                self._pairs[stream.pair] = AddressPair([connection])
            else:
                pair.open.append(connection)
            self._wanted[number] = True
            touched.add(stream.pair)
        return touched

    def _hear_probes(self, rows: NDArray[Any], at: NDArray[np.intp], touched: set[int]) -> None:
        # The last word of each direction counts, and a hostile file cannot make this long.
        latest = {(int(rows["stream"][i]), int(rows["direction"][i])): int(i) for i in at[-SAMPLE:]}
        for (number, direction), i in latest.items():
            stream, connection = self._streams[number], self._connections[number]
            pair = self._pairs[stream.pair]
            if pair is None:
                continue
            if connection is not None:
                connection.probed = connection.stale = True
            self._wanted[number] = False
            sender, _ = stream.ends(direction)
            said = Announcement.of(rows["header"]["exthdr"][i].tobytes())
            small, large = pair.announced
            pair.announced = (small, said) if sender.address != stream.address_pair[0] else (said, large)
            touched.add(stream.pair)

    def _collect_ports(self, rows: NDArray[Any], at: NDArray[np.intp], touched: set[int]) -> None:
        if len(at) > SAMPLE:
            at = at[:: -(-len(at) // SAMPLE)]
        word = rows["stream"][at].astype(np.int64) << 17
        word |= rows["direction"][at].astype(np.int64) << 16
        word |= rows["header"]["sport"][at].astype(np.int64)
        for packed in distinct(word).tolist():
            connection = self._connections[packed >> 17]
            direction, port = packed >> 16 & 1, packed & 0xFFFF
            if connection and len(connection.ports[direction]) < VOTES and connection.add_port(direction, port):
                connection.stale = True
                touched.add(connection.stream.pair)
        for number in distinct(rows["stream"][at]).tolist():
            connection = self._connections[number]
            if connection is not None:
                connection.looks += 1
                self._wanted[number] = connection.looks < LOOKS and any(len(side) < VOTES for side in connection.ports)

    def _weigh(self, pair: AddressPair) -> None:
        """Give every connection that is not settled its path."""
        pair.several = pair.several or self._overlap(pair.open)
        common = weigh_in_common(pair)
        changed, pair.common = common != pair.common, common
        npaths = pair.npaths or MAX_PATHS
        holders: dict[int, Connection] = {}
        for connection in pair.open:
            for path, holder in list(holders.items()):
                if holder.closed is not None and holder.closed <= connection.stream.first_frame:
                    del holders[path]
                    pair.released += (path,)
            if not connection.weighed:
                connection.guess = guess_of(connection, pair, holders, npaths)
                connection.weighed = True
            if changed or connection.stale:
                _write(connection, judge(connection, pair))
                connection.stale = False
                self._wanted[connection.stream.number] &= connection.stream.path_confidence < 1
            path = connection.stream.path
            if path >= 0:
                holders[path] = connection
                pair.released = tuple(free for free in pair.released if free != path)
        if len(pair.open) <= OPEN_LIMIT:
            for connection in pair.open:
                if leave_to_stronger(connection, pair.open, npaths):
                    _write(connection, judge(connection, pair))
        ended = [connection for connection in pair.open if connection.closed is not None]
        pair.open = [connection for connection in pair.open if connection.closed is None][-OPEN_LIMIT:]
        free = (*pair.released, *(c.stream.path for c in ended if holders.get(c.stream.path) is c))
        pair.released = _same(free[-MAX_PATHS:])
        for connection in ended:
            self._wanted[connection.stream.number] = False
            self._connections[connection.stream.number] = None

    def _overlap(self, connections: list[Connection]) -> bool:
        """Some connection carried a message after the next one had carried its first."""
        used = [c.stream for c in connections if self._last[c.stream.number] and not c.by_larger]
        return any(self._last[a.number] > b.first_frame for a, b in pairwise(used))


# A hundred thousand pairs may have released the same few paths.
_same = lru_cache(4096)(tuple[int, ...])


def _write(connection: Connection, verdict: Verdict) -> None:
    stream = connection.stream
    stream.path, stream.path_confidence, stream.path_basis = verdict
