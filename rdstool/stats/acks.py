"""When each message was acknowledged, and how many bytes were in flight.

A message is acknowledged by the first acknowledgement that reaches its ``end``: over TCP the peer's TCP
acknowledgement of its last byte, over InfiniBand ``h_ack`` of a message or ack-only frame (protocol.md §4.5, 7.5).
The latency is the time between the two frames at the point of capture: close to the sender it is the round trip,
close to the receiver the receiver's delay. Nothing is measured where the capture cannot tell: see :class:`Outcome`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdstool.capture.columns import Ints
from rdstool.capture.events import Event, Gap
from rdstool.protocol.kinds import MessageKind
from rdstool.stats.batch import Columns
from rdstool.stats.groups import OTHERS, Lanes
from rdstool.stats.histogram import Histograms

WAITING_MESSAGES = 1 << 16
"""Messages that may wait for their acknowledgement; beyond it the oldest are taken as never acknowledged."""
LONGEST_LATENCY_NS = 3600 * 10**9
"""A longer latency (1 h) says that the clocks of the two directions differ: no sender waits that long."""
CLOCK_DOUBT = 100
"""One impossible interval in this many makes all intervals of the stream doubtful."""
GAPS_KEPT = 1 << 16
"""Holes that are remembered while messages wait across them."""
_LIMIT = (1 << 43) - 1
"""Largest position and frame that can be compared; both stand behind a group's number in 64 bits."""


class Outcome(IntEnum):
    """What is known of a message's acknowledgement. Only ``MEASURED`` enters latencies."""

    MEASURED = 0
    ACROSS_GAP = 1
    INCOMPLETE = 2
    ACK_FIRST = 3
    CLOCK = 4
    NOT_SEEN = 5

    @property
    def words(self) -> str:
        """The outcome for people."""
        return _WORDS[self]


_WORDS = {
    Outcome.MEASURED: "measured",
    Outcome.ACROSS_GAP: "across a hole in the capture",
    Outcome.INCOMPLETE: "message not seen whole",
    Outcome.ACK_FIRST: "acknowledgement captured before the message",
    Outcome.CLOCK: "clocks of the two directions not comparable",
    Outcome.NOT_SEEN: "acknowledgement not seen",
}
OUTCOMES = len(Outcome)

WAITING = np.dtype(
    [
        ("number", "i8"),
        ("frame", "i8"),
        ("time", "i8"),
        ("lane", "i8"),
        ("sender", "i8"),
        ("size", "i8"),
        ("end", "i8"),
        ("complete", "?"),
        ("acked_frame", "i8"),  # 0: none
        ("acked_time", "i8"),
        ("outcome", "u1"),
    ]
)
"""A message on its way; :class:`Acknowledgements` gives these rows to its listener when they are done."""


@dataclass(slots=True)
class Flight:
    """Bytes of headers and payload that were sent and not yet acknowledged, by group."""

    peak: NDArray[np.int64]
    byte_ns: NDArray[np.float64]
    """Sum of size times latency over the measured messages."""
    begin: NDArray[np.int64]
    """Time of the first message, ns."""
    end: NDArray[np.int64]
    """Time of the latest acknowledgement, ns."""

    @classmethod
    def empty(cls) -> Flight:
        """No groups."""
        return cls(np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64))

    def grow(self, count: int) -> None:
        """Make room for groups below ``count``."""
        missing = count - len(self.peak)
        if missing > 0:
            self.peak = np.concatenate((self.peak, np.zeros(missing, np.int64)))
            self.byte_ns = np.concatenate((self.byte_ns, np.zeros(missing)))
            self.begin = np.concatenate((self.begin, np.full(missing, np.iinfo(np.int64).max)))
            self.end = np.concatenate((self.end, np.zeros(missing, np.int64)))

    def measure(self, groups: NDArray[Any], rows: NDArray[Any], fresh: int, measured: NDArray[Any]) -> None:
        """Take in messages in capture order, the last ``fresh`` of them new, and what is measured of all."""
        if not len(groups):
            return
        self.grow(int(groups.max()) + 1)
        begin = len(rows) - fresh
        if fresh:
            outstanding = _outstanding(groups, rows, begin)
            np.maximum.at(self.peak, groups[begin:], outstanding)
        if len(measured):
            done = rows[measured]
            group = groups[measured]
            latency = done["acked_time"] - done["time"]
            np.add.at(self.byte_ns, group, done["size"].astype(np.float64) * latency)
            np.minimum.at(self.begin, group, done["time"])
            np.maximum.at(self.end, group, done["acked_time"])


def _outstanding(groups: NDArray[Any], rows: NDArray[Any], begin: int) -> Ints:
    """Bytes in flight in its group right after each message from ``begin`` on was sent."""
    shift = groups.astype(np.int64) << 43
    sent_order = np.argsort(shift, kind="stable")
    size = rows["size"]
    sent = np.empty(len(rows), np.int64)
    sent[sent_order] = np.cumsum(size[sent_order])
    # Both running sums go through all groups one after the other, so that what came before a group cancels out.
    # What was acknowledged before it was seen is not in flight at any time that the capture shows.
    acked_frame = np.where(rows["acked_frame"] > 0, rows["acked_frame"], rows["frame"])
    acked_key = shift + np.where(rows["outcome"] == Outcome.NOT_SEEN, _LIMIT, acked_frame)
    acked_order = np.argsort(acked_key, kind="stable")
    acked = np.concatenate((np.zeros(1, np.int64), np.cumsum(size[acked_order])))
    before = np.searchsorted(acked_key[acked_order], shift[begin:] + rows["frame"][begin:])
    return np.asarray(np.maximum(sent[begin:] - acked[before], 0), np.int64)


class Acknowledgements:
    """Joins messages and acknowledgements over batches."""

    def __init__(self, lanes: Lanes, listener: Callable[[NDArray[Any]], None] | None = None) -> None:
        self._lanes = lanes
        self._listener = listener
        self._waiting: NDArray[Any] = np.zeros(0, WAITING)
        self._reached: NDArray[np.int64] = np.zeros(0, np.int64)
        self._gaps: Ints = np.zeros(0, np.int64)
        self.latency = Histograms()
        """ns, by the lanes' histogram rows."""
        self.socket_latency = Histograms()
        """ns, by sending socket."""
        self.lane_flight = Flight.empty()
        self.socket_flight = Flight.empty()
        self.lane_outcomes: NDArray[np.int64] = np.zeros((0, OUTCOMES), np.int64)
        self.socket_outcomes: NDArray[np.int64] = np.zeros((0, OUTCOMES), np.int64)
        self.doubtful: NDArray[np.bool_] = np.zeros(0, np.bool_)
        """By stream: the clocks of its two directions cannot be compared."""

    def add(self, columns: Columns, acks: NDArray[Any], events: list[Event]) -> None:
        """Take in one batch."""
        self._grow()
        self._note_gaps(events)
        fresh = _waiting_rows(columns)
        rows = np.concatenate((self._waiting, fresh))
        if not len(rows):
            return
        rows = self._without_overflow(rows)
        fresh_count = min(len(fresh), len(rows))
        self._join(rows, acks, len(rows) - fresh_count)
        done = np.flatnonzero(rows["outcome"] != Outcome.NOT_SEEN)
        self._judge(rows, done)
        measured = done[rows["outcome"][done] == Outcome.MEASURED]
        self.lane_flight.measure(rows["lane"], rows, fresh_count, measured)
        self.socket_flight.measure(rows["sender"], rows, fresh_count, measured)
        self._count(rows[done])
        self._waiting = rows[rows["outcome"] == Outcome.NOT_SEEN]

    def finish(self) -> None:
        """Whatever still waits was never seen acknowledged."""
        self._count(self._waiting)
        self._waiting = self._waiting[:0]

    def _grow(self) -> None:
        missing = len(self._lanes) - len(self._reached)
        if missing > 0:
            self._reached = np.concatenate((self._reached, np.zeros(missing, np.int64)))
            self.doubtful = np.concatenate((self.doubtful, np.zeros(missing // 2, np.bool_)))
            self.lane_outcomes = np.concatenate((self.lane_outcomes, np.zeros((missing, OUTCOMES), np.int64)))

    def _note_gaps(self, events: list[Event]) -> None:
        fresh = [event.stream << 43 | event.frame for event in events if isinstance(event, Gap) and event.stream >= 0]
        if fresh:
            self._gaps = np.sort(np.concatenate((self._gaps, np.array(fresh, np.int64)))[-GAPS_KEPT:])

    def _without_overflow(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Keep at most ``WAITING_MESSAGES`` of those that wait from before; a batch itself is bounded."""
        excess = len(self._waiting) - WAITING_MESSAGES
        if excess > 0:
            self._count(rows[:excess])
            return rows[excess:]
        return rows

    def _join(self, rows: NDArray[Any], acks: NDArray[Any], begin: int) -> None:
        """Fill in which acknowledgement reached each message."""
        late = np.flatnonzero(rows["end"][begin:] <= self._reached[rows["lane"][begin:]]) + begin
        rows["outcome"][late] = Outcome.ACK_FIRST
        if not len(acks):
            return
        lane = acks["stream"].astype(np.int64) * 2 + acks["direction"]
        order = np.argsort(lane, kind="stable")
        lane = lane[order]
        key = np.maximum.accumulate(lane << 43 | np.clip(acks["position"][order], 0, _LIMIT))
        wanted = rows["lane"] << 43 | np.clip(rows["end"], 0, _LIMIT)
        at = np.searchsorted(key, wanted)
        inside = at < len(key)
        at[~inside] = 0
        hit = inside & (lane[at] == rows["lane"]) & (rows["outcome"] == Outcome.NOT_SEEN)
        by = order[at[hit]]
        rows["acked_frame"][hit] = acks["frame"][by]
        rows["acked_time"][hit] = acks["time"][by]
        rows["outcome"][hit] = Outcome.MEASURED
        np.maximum.at(self._reached, lane, acks["position"][order])

    def _judge(self, rows: NDArray[Any], done: NDArray[np.intp]) -> None:
        """Take out what the capture cannot tell."""
        part = rows[done]
        outcome = part["outcome"]
        stream = part["lane"] >> 1
        measured = outcome == Outcome.MEASURED
        outcome[measured & (part["acked_frame"] < part["frame"])] = Outcome.ACK_FIRST
        outcome[~part["complete"]] = Outcome.INCOMPLETE
        if len(self._gaps):
            first = np.searchsorted(self._gaps, stream << 43 | part["frame"])
            last = np.searchsorted(self._gaps, stream << 43 | part["acked_frame"], side="right")
            outcome[(outcome == Outcome.MEASURED) & (last > first)] = Outcome.ACROSS_GAP
        measured = outcome == Outcome.MEASURED
        latency = part["acked_time"] - part["time"]
        impossible = measured & ((latency < 0) | (latency > LONGEST_LATENCY_NS))
        if impossible.any():
            streams = len(self.doubtful)
            bad = np.bincount(stream[impossible], minlength=streams)
            self.doubtful |= bad * CLOCK_DOUBT > np.bincount(stream[measured], minlength=streams)
        outcome[impossible | (measured & self.doubtful[stream])] = Outcome.CLOCK
        rows["outcome"][done] = outcome

    def _count(self, rows: NDArray[Any]) -> None:
        lane, sender, outcome = rows["lane"], rows["sender"], rows["outcome"].astype(np.intp)
        np.add.at(self.lane_outcomes.reshape(-1), lane * OUTCOMES + outcome, 1)
        missing = int(sender.max(initial=0)) + 1 - len(self.socket_outcomes)
        if missing > 0:
            self.socket_outcomes = np.concatenate((self.socket_outcomes, np.zeros((missing, OUTCOMES), np.int64)))
        np.add.at(self.socket_outcomes.reshape(-1), sender * OUTCOMES + outcome, 1)
        measured = np.flatnonzero(outcome == Outcome.MEASURED)
        latency = rows["acked_time"][measured] - rows["time"][measured]
        self.latency.add(self._lanes.histogram[lane[measured]], latency)
        of_socket = np.flatnonzero(sender[measured] != OTHERS)
        self.socket_latency.add(sender[measured][of_socket], latency[of_socket])
        if self._listener is not None and len(rows):
            self._listener(rows)


def _waiting_rows(columns: Columns) -> NDArray[Any]:
    """The messages that are acknowledged at all, in capture order."""
    numbered = (columns.kind != MessageKind.ACK) & (columns.kind != MessageKind.HEARTBEAT) & (columns.end > 0)
    at = slice(None) if numbered.all() else np.flatnonzero(numbered)
    frame = columns.frame[at]
    rows = np.zeros(len(frame), WAITING)
    rows["frame"] = frame
    for name in ("number", "time", "lane", "sender", "size", "end", "complete"):
        rows[name] = getattr(columns, name)[at]
    rows["outcome"] = Outcome.NOT_SEEN
    return rows
