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
from rdstool.stats.groups import OTHERS, Lanes, count
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


@dataclass(slots=True)
class Sent:
    """Messages on their way, in capture order; the listener gets them when they are done."""

    number: Ints
    frame: Ints
    time: Ints
    lane: Ints
    sender: Ints
    size: Ints
    end: Ints
    complete: NDArray[np.bool_]
    acked_frame: Ints
    """0: none."""
    acked_time: Ints
    outcome: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.number)

    def take(self, at: NDArray[Any] | slice) -> Sent:
        """Some of the messages."""
        return Sent(*(getattr(self, name)[at] for name in self.__dataclass_fields__))

    def followed_by(self, other: Sent) -> Sent:
        """These messages, then others."""
        if not len(self):
            return other
        return Sent(
            *(np.concatenate((getattr(self, name), getattr(other, name))) for name in self.__dataclass_fields__)
        )

    @classmethod
    def of(cls, columns: Columns) -> Sent:
        """The messages of a batch that are acknowledged at all."""
        numbered = (columns.kind != MessageKind.ACK) & (columns.kind != MessageKind.HEARTBEAT) & (columns.end > 0)
        at = slice(None) if numbered.all() else np.flatnonzero(numbered)
        number = columns.number[at]
        return cls(
            number=number,
            frame=columns.frame[at],
            time=columns.time[at],
            lane=columns.lane[at],
            sender=columns.sender[at],
            size=columns.size[at],
            end=columns.end[at],
            complete=columns.complete[at],
            acked_frame=np.zeros(len(number), np.int64),
            acked_time=np.zeros(len(number), np.int64),
            outcome=np.full(len(number), Outcome.NOT_SEEN, np.uint8),
        )


@dataclass(slots=True)
class Flight:
    """Bytes of headers and payload that were sent and not yet acknowledged, by group."""

    peak: NDArray[np.int64]
    byte_ns: NDArray[np.float64]
    """Sum of size times latency over the measured messages."""
    begin: NDArray[np.int64]
    """Time of the first measured message, ns."""
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

    def measure(self, groups: Ints, sent: Sent, old: int) -> None:
        """Take in messages, of which the first ``old`` were in flight before this batch."""
        self.grow(int(groups.max()) + 1)
        order = np.argsort(groups.astype(np.uint16) if len(self.peak) < 1 << 16 else groups, kind="stable")
        group = groups[order]
        starts = np.flatnonzero(np.diff(group, prepend=-1))
        names = group[starts]
        outcome, time, size = sent.outcome[order], sent.time[order], sent.size[order]
        acked_time = sent.acked_time[order]

        outstanding = _outstanding(group, sent.frame[order], sent.acked_frame[order], outcome, size)
        outstanding[order < old] = 0
        self.peak[names] = np.maximum(self.peak[names], np.maximum.reduceat(outstanding, starts))
        measured = outcome == Outcome.MEASURED
        work = np.where(measured, size.astype(np.float64) * (acked_time - time), 0)
        self.byte_ns[names] += np.add.reduceat(work, starts)
        first = np.where(measured, time, np.iinfo(np.int64).max)
        self.begin[names] = np.minimum(self.begin[names], np.minimum.reduceat(first, starts))
        last = np.where(measured, acked_time, 0)
        self.end[names] = np.maximum(self.end[names], np.maximum.reduceat(last, starts))


def _outstanding(group: Ints, frame: Ints, acked_frame: Ints, outcome: NDArray[np.uint8], size: Ints) -> Ints:
    """Bytes in flight in its group right after each message was sent; all in order of groups, then of frames."""
    shift = group << 43
    # What was acknowledged before it was seen is not in flight at any time that the capture shows.
    landed = np.where(acked_frame > 0, acked_frame, frame - 1)
    key = shift + np.where(outcome == Outcome.NOT_SEEN, _LIMIT, landed)
    sent = np.cumsum(size)
    acked = sent
    if len(key) > 1 and (key[1:] < key[:-1]).any():
        order = np.argsort(key, kind="stable")
        key, acked = key[order], np.cumsum(size[order])
    # Both sums run through all groups one after the other, so that what came before a group cancels out.
    before = np.searchsorted(key, shift + frame)
    return np.asarray(np.maximum(sent - np.where(before > 0, acked[before - 1], 0), 0))


class Acknowledgements:
    """Joins messages and acknowledgements over batches."""

    def __init__(self, lanes: Lanes, listener: Callable[[Sent], None] | None = None) -> None:
        self._lanes = lanes
        self._listener = listener
        self._waiting: Sent | None = None
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
        """Streams whose two directions have clocks that cannot be compared."""

    def add(self, columns: Columns, acks: NDArray[Any], events: list[Event]) -> None:
        """Take in one batch."""
        self._grow()
        self._note_gaps(events)
        sent = Sent.of(columns)
        if self._waiting is not None:
            waiting = self._without_overflow(self._waiting)
            old = len(waiting)
            sent = waiting.followed_by(sent)
        else:
            old = 0
        self._join(sent, acks, old)
        if not len(sent):
            return
        self._judge(sent)
        self.lane_flight.measure(sent.lane, sent, old)
        self.socket_flight.measure(sent.sender, sent, old)
        done = sent.outcome != Outcome.NOT_SEEN
        self._count(sent if done.all() else sent.take(np.flatnonzero(done)))
        self._waiting = sent.take(np.flatnonzero(~done))

    def finish(self) -> None:
        """Whatever still waits was never seen acknowledged."""
        if self._waiting is not None:
            self._count(self._waiting)
        self._waiting = None

    def _grow(self) -> None:
        lanes = len(self._lanes)
        if lanes > len(self._reached):
            # In place, as a copy of the counts of very many lanes is large. Nothing else refers to them.
            self._reached.resize(lanes, refcheck=False)
            self.doubtful.resize(lanes // 2, refcheck=False)
            self.lane_outcomes.resize((lanes, OUTCOMES), refcheck=False)

    def _note_gaps(self, events: list[Event]) -> None:
        fresh = [event.stream << 43 | event.frame for event in events if isinstance(event, Gap) and event.stream >= 0]
        if fresh:
            self._gaps = np.sort(np.concatenate((self._gaps, np.array(fresh, np.int64)))[-GAPS_KEPT:])

    def _without_overflow(self, waiting: Sent) -> Sent:
        """Keep at most ``WAITING_MESSAGES`` of those that wait from before; a batch itself is bounded."""
        excess = len(waiting) - WAITING_MESSAGES
        if excess > 0:
            self._count(waiting.take(slice(0, excess)))
            return waiting.take(slice(excess, None))
        return waiting

    def _join(self, sent: Sent, acks: NDArray[Any], old: int) -> None:
        """Fill in which acknowledgement reached each message."""
        late = np.flatnonzero(sent.end[old:] <= self._reached[sent.lane[old:]]) + old
        sent.outcome[late] = Outcome.ACK_FIRST
        if not len(acks):
            return
        lane = acks["stream"].astype(np.int64) * 2 + acks["direction"]
        position = np.ascontiguousarray(acks["position"])
        order = np.argsort(lane.astype(np.uint16) if len(self._reached) <= 1 << 16 else lane, kind="stable")
        lane = lane[order]
        key = np.maximum.accumulate(lane << 43 | np.clip(position[order], 0, _LIMIT))
        at = np.searchsorted(key, sent.lane << 43 | np.clip(sent.end, 0, _LIMIT))
        inside = at < len(key)
        at[~inside] = 0
        hit = np.flatnonzero(inside & (lane[at] == sent.lane) & (sent.outcome == Outcome.NOT_SEEN))
        by = order[at[hit]]
        sent.acked_frame[hit] = acks["frame"][by]
        sent.acked_time[hit] = acks["time"][by]
        sent.outcome[hit] = Outcome.MEASURED
        np.maximum.at(self._reached, lane, position[order])

    def _judge(self, sent: Sent) -> None:
        """Take out what the capture cannot tell."""
        outcome, stream = sent.outcome, sent.lane >> 1
        outcome[(outcome == Outcome.MEASURED) & (sent.acked_frame < sent.frame)] = Outcome.ACK_FIRST
        outcome[~sent.complete & (outcome != Outcome.NOT_SEEN)] = Outcome.INCOMPLETE
        if len(self._gaps):
            first = np.searchsorted(self._gaps, stream << 43 | sent.frame)
            last = np.searchsorted(self._gaps, stream << 43 | sent.acked_frame, side="right")
            outcome[(outcome == Outcome.MEASURED) & (last > first)] = Outcome.ACROSS_GAP
        measured = outcome == Outcome.MEASURED
        latency = sent.acked_time - sent.time
        impossible = measured & ((latency < 0) | (latency > LONGEST_LATENCY_NS))
        if impossible.any():
            streams = len(self.doubtful)
            bad = np.bincount(stream[impossible], minlength=streams)
            self.doubtful |= bad * CLOCK_DOUBT > np.bincount(stream[measured], minlength=streams)
            outcome[impossible] = Outcome.CLOCK
        if self.doubtful.any():
            outcome[measured & self.doubtful[stream]] = Outcome.CLOCK

    def _count(self, sent: Sent) -> None:
        lane, sender = sent.lane, sent.sender
        count(self.lane_outcomes, lane, sent.outcome)
        missing = int(sender.max(initial=0)) + 1 - len(self.socket_outcomes)
        if missing > 0:
            self.socket_outcomes = np.concatenate((self.socket_outcomes, np.zeros((missing, OUTCOMES), np.int64)))
        count(self.socket_outcomes, sender, sent.outcome)
        measured = sent.outcome == Outcome.MEASURED
        latency = sent.acked_time - sent.time
        if not measured.all():
            lane, sender, latency = lane[measured], sender[measured], latency[measured]
        self.latency.add(self._lanes.histogram[lane], latency)
        of_socket = np.flatnonzero(sender != OTHERS)
        self.socket_latency.add(sender[of_socket], latency[of_socket])
        if self._listener is not None and len(sent):
            self._listener(sent)
