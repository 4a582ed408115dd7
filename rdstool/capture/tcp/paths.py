"""Which path of its connection each TCP connection is (protocol.md §4.2 to 4.4, 5, 13).

Certain knowledge comes first: probes travel on path 0, and where the dialling side announced SPORT_IDX its TCP
source port tells the path. Without them a path is an inference (:mod:`rdstool.capture.tcp.path_evidence`).
"""

from __future__ import annotations

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

AddressPairKey = tuple[bytes, bytes]


class PathMap:
    """Finds and refines the path of every TCP connection as batches come by; InfiniBand has no paths."""

    def __init__(self, streams: StreamTable) -> None:
        self._streams = streams
        self._pairs: dict[AddressPairKey, AddressPair] = {}
        self._connections: dict[int, Connection] = {}
        self._known = 0
        self._ahead: list[tuple[int, int]] = []
        """First frame and number of streams that are in the table and not yet reached: a heap."""
        self._wanted = np.zeros(64, dtype=np.bool_)
        self._last = np.zeros(64, dtype=np.int64)

    def observe(self, rows: NDArray[Any], events: list[Event]) -> None:
        """Take in one batch; writes ``path``, ``path_confidence`` and ``path_basis`` of the streams concerned."""
        frame = max(int(rows["frame"][-1]) if len(rows) else 0, events[-1].frame if events else 0)
        touched = self._enter_streams(frame)
        for event in events:
            connection = self._connections.get(event.stream)
            if isinstance(event, StreamClosed) and connection is not None and connection.closed is None:
                connection.closed = event.frame
                touched.add(connection.stream.address_pair)
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
        for key in touched:
            self._weigh(self._pairs[key])

    def path_of(self, stream: int) -> int:
        """The path of a stream as far as it is known now; -1 where it is not."""
        return self._streams[stream].path

    def _enter_streams(self, frame: int) -> set[AddressPairKey]:
        """Take in the streams that begin up to ``frame``: the table may be ahead of the messages."""
        count = len(self._streams)
        while count > len(self._wanted):
            self._wanted = np.concatenate((self._wanted, np.zeros_like(self._wanted)))
            self._last = np.concatenate((self._last, np.zeros_like(self._last)))
        for stream in self._streams.streams[self._known :]:
            if stream.transport is Transport.TCP:
                heappush(self._ahead, (stream.first_frame, stream.number))
        self._known = count
        touched = set()
        while self._ahead and self._ahead[0][0] <= frame:
            number = heappop(self._ahead)[1]
            stream = self._streams[number]
            key = stream.address_pair
            dialler = int(stream.a.port == TCP_PORT and stream.b.port != TCP_PORT)
            end, _ = stream.ends(dialler)
            connection = Connection(stream, end.port, dialler, stream.initiator_known and end.address != key[0])
            self._connections[number] = connection
            pair = self._pairs.get(key)
            if pair is None:
                self._pairs[key] = AddressPair([connection])
            else:
                pair.open.append(connection)
            self._wanted[number] = True
            touched.add(key)
        return touched

    def _hear_probes(self, rows: NDArray[Any], at: NDArray[np.intp], touched: set[AddressPairKey]) -> None:
        # The last word of each direction counts, and a hostile file cannot make this long.
        latest = {(int(rows["stream"][i]), int(rows["direction"][i])): int(i) for i in at[-SAMPLE:]}
        for (number, direction), i in latest.items():
            connection = self._connections.get(number)
            if connection is None:
                continue
            connection.probed = connection.stale = True
            self._wanted[number] = False
            key = connection.stream.address_pair
            sender, _ = connection.stream.ends(direction)
            pair, said = self._pairs[key], Announcement.of(rows["header"]["exthdr"][i].tobytes())
            small, large = pair.announced
            pair.announced = (small, said) if sender.address != key[0] else (said, large)
            touched.add(key)

    def _collect_ports(self, rows: NDArray[Any], at: NDArray[np.intp], touched: set[AddressPairKey]) -> None:
        if len(at) > SAMPLE:
            at = at[:: -(-len(at) // SAMPLE)]
        word = rows["stream"][at].astype(np.int64) << 17
        word |= rows["direction"][at].astype(np.int64) << 16
        word |= rows["header"]["sport"][at].astype(np.int64)
        for packed in distinct(word).tolist():
            connection = self._connections[packed >> 17]
            direction = packed >> 16 & 1
            if len(connection.ports[direction]) < VOTES and connection.add_port(direction, packed & 0xFFFF):
                connection.stale = True
                touched.add(connection.stream.address_pair)
        for number in distinct(rows["stream"][at]).tolist():
            connection = self._connections[number]
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
        pair.released += tuple(c.stream.path for c in ended if holders.get(c.stream.path) is c)
        pair.released = pair.released[-MAX_PATHS:]
        for connection in ended:
            self._wanted[connection.stream.number] = False

    def _overlap(self, connections: list[Connection]) -> bool:
        """Some connection carried a message after the next one had carried its first."""
        used = [c.stream for c in connections if self._last[c.stream.number] and not c.by_larger]
        return any(self._last[a.number] > b.first_frame for a, b in pairwise(used))


def _write(connection: Connection, verdict: Verdict) -> None:
    path, confidence, basis = verdict
    stream = connection.stream
    stream.path, stream.path_confidence, stream.path_basis = path, round(confidence, 3), basis
