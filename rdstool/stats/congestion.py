"""Congestion of ports over time, from the bitmaps (protocol.md §3).

A bitmap tells which ports of its sender are congested, and replaces the one before. A port is congested for a peer
from the frame of the bitmap that sets its bit to the frame of the one that clears it, as the capture saw them: at
the congested end that is early, at the other end it is when the peer learns of it.

What is held back stays in the senders' programs (they get ENOBUFS or sleep) and cannot be seen in a capture. What
can be seen is counted: messages that still went to the port while it was congested, and messages that went to it
within ``RELEASE_WINDOW_NS`` after the bit was cleared and before it was set again. The latter may have waited.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dissectors.wire.congestion import BITMAP_BYTES, PORTS
from rdstool.capture.columns import Ints, MessageBatch
from rdstool.capture.events import Event, Gap
from rdstool.capture.streams import StreamTable
from rdstool.protocol.kinds import MessageKind
from rdstool.stats.batch import Columns

RELEASE_WINDOW_NS = 100_000_000
"""Messages this long (0.1 s) after a bit was cleared may have waited for it."""
INTERVALS = 10_000
"""Intervals that are kept; later ones are only counted."""
PORTS_PER_CHANGE = 1024
"""A bitmap that changes more ports at once than this is not believed."""
CONNECTIONS = 4096
"""Directions between two addresses whose bitmaps are followed."""
_EMPTY = bytes(BITMAP_BYTES)

Connection = tuple[bytes, bytes]
"""Owner of the congestion map and its peer."""


@dataclass(slots=True)
class Interval:
    """A port of ``owner`` was congested for ``peer``. Times in ns since 1970."""

    owner: bytes
    peer: bytes
    port: int
    begin_frame: int
    begin: int
    end_frame: int | None = None
    end: int | None = None
    """None: until the end of the capture."""
    sent_during: int = 0
    """Messages from the peer to the port between the two frames."""
    sent_after: int = 0
    """Messages from the peer to the port within ``RELEASE_WINDOW_NS`` after the end, before the bit was set again."""
    next_frame: int | None = None
    """The bitmap that set the bit again."""
    across_gap: bool = False
    """The capture lacks something of what the owner sent meanwhile: a bitmap may be missing."""


class Congestion:
    """Follows the congestion maps of all connections."""

    def __init__(self, streams: StreamTable) -> None:
        self._streams = streams
        self._maps: dict[Connection, bytes] = {}
        self._open: dict[tuple[Connection, int], Interval] = {}
        self._latest: dict[tuple[Connection, int], Interval] = {}
        self._watched: list[Interval] = []
        """Open, or ended so recently that messages after it still count."""
        self.intervals: list[Interval] = []
        self.not_kept = 0
        """Intervals beyond the limit."""
        self.bitmaps = 0
        self.unusable = 0
        """Bitmaps that were not seen whole, or not believed."""

    def add(self, columns: Columns, messages: MessageBatch, events: list[Event]) -> None:
        """Take in one batch."""
        begun = len(self._open)
        for row in np.flatnonzero(columns.kind == MessageKind.CONGESTION).tolist():
            self._take(row, columns, messages.payloads.get(row))
        if begun or self._watched:
            self._mark_gaps(events)
        if self._watched and len(columns):
            self._count(columns)

    def _take(self, row: int, columns: Columns, bitmap: bytes | None) -> None:
        self.bitmaps += 1
        if bitmap is None or len(bitmap) != BITMAP_BYTES or not columns.complete[row]:
            self.unusable += 1
            return
        lane = int(columns.lane[row])
        owner, peer = self._streams[lane >> 1].ends(lane & 1)
        connection = owner.address, peer.address
        before = self._maps.get(connection, _EMPTY)
        if bitmap == before:
            return
        ports = _changed(before, bitmap)
        if len(ports) > PORTS_PER_CHANGE or (connection not in self._maps and len(self._maps) >= CONNECTIONS):
            self.unusable += 1
            return
        self._maps[connection] = bitmap
        frame, time = int(columns.frame[row]), int(columns.time[row])
        for port in ports:
            interval = self._open.pop((connection, port), None)
            if interval is not None:
                interval.end_frame, interval.end = frame, time
            elif bitmap[port >> 3] >> (port & 7) & 1:
                self._begin(connection, port, frame, time)

    def _begin(self, connection: Connection, port: int, frame: int, time: int) -> None:
        if len(self.intervals) >= INTERVALS:
            self.not_kept += 1
            return
        interval = Interval(*connection, port, frame, time)
        earlier = self._latest.get((connection, port))
        if earlier is not None:
            earlier.next_frame = frame
        self._latest[connection, port] = interval
        self._open[connection, port] = interval
        self.intervals.append(interval)
        self._watched.append(interval)

    def _mark_gaps(self, events: list[Event]) -> None:
        gaps: dict[Connection, list[int]] = {}
        for event in events:
            if isinstance(event, Gap) and event.stream >= 0:
                owner, peer = self._streams[event.stream].ends(event.direction)
                gaps.setdefault((owner.address, peer.address), []).append(event.frame)
        if not gaps:
            return
        for interval in self._watched:
            frames = gaps.get((interval.owner, interval.peer), ())
            end = interval.end_frame
            if any(interval.begin_frame <= frame and (end is None or frame <= end) for frame in frames):
                interval.across_gap = True

    def _count(self, columns: Columns) -> None:
        """Count the data messages of this batch that went to watched ports during and after the intervals."""
        ports = np.zeros(PORTS, np.bool_)
        ports[[interval.port for interval in self._watched]] = True
        at = np.flatnonzero((columns.kind == MessageKind.DATA) & ports[columns.dport])
        traffic = dict(self._grouped(columns, at))
        last_time = int(columns.time[-1])
        watched = []
        for interval in self._watched:
            frames, times = traffic.get((interval.owner, interval.peer, interval.port), (None, None))
            if frames is not None and times is not None:
                begin = int(np.searchsorted(frames, interval.begin_frame, side="right"))
                end = len(frames) if interval.end_frame is None else int(np.searchsorted(frames, interval.end_frame))
                interval.sent_during += max(0, end - begin)
                if interval.end is not None:
                    again = len(frames) if interval.next_frame is None else np.searchsorted(frames, interval.next_frame)
                    free = times[end:again]
                    interval.sent_after += int(np.searchsorted(free, interval.end + RELEASE_WINDOW_NS, "right"))
            if interval.end is None or last_time <= interval.end + RELEASE_WINDOW_NS:
                watched.append(interval)
        self._watched = watched

    def _grouped(self, columns: Columns, at: Ints) -> Iterator[tuple[tuple[bytes, bytes, int], tuple[Ints, Ints]]]:
        """Frames and times of messages by (receiver, sender, port)."""
        if not len(at):
            return
        key = columns.lane[at] << 16 | columns.dport[at]
        order = np.argsort(key, kind="stable")
        bounds = np.flatnonzero(np.diff(key[order], prepend=-1))
        parts: dict[tuple[bytes, bytes, int], list[Ints]] = {}
        for part in np.split(at[order], bounds[1:]):
            lane = int(columns.lane[part[0]])
            sender, receiver = self._streams[lane >> 1].ends(lane & 1)
            parts.setdefault((receiver.address, sender.address, int(columns.dport[part[0]])), []).append(part)
        for name, rows in parts.items():
            row = np.sort(np.concatenate(rows))
            # Clocks that run backwards by a little must not upset the search.
            yield name, (columns.frame[row], np.maximum.accumulate(columns.time[row]))


def _changed(before: bytes, after: bytes) -> list[int]:
    """Ports whose bits differ."""
    difference = np.frombuffer(before, np.uint64) ^ np.frombuffer(after, np.uint64)
    # Hardly any word differs: unpack only those.
    words = np.flatnonzero(difference)
    bits = np.unpackbits(difference[words].view(np.uint8), bitorder="little")
    at = np.flatnonzero(bits)
    ports: list[int] = (words[at >> 6] << 6 | at & 63).tolist()
    return ports
