"""Which streams connect the same two addresses, when each opened, spoke and ended."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rdstool.capture.columns import Ints
from rdstool.capture.events import Event, StreamClosed, StreamOpened
from rdstool.capture.streams import Stream, StreamTable
from rdstool.validate.flows import Grouped
from rdstool.validate.moments import Moments
from rdstool.validate.view import PerFlow, View

RECENT = 64
"""Streams of an address pair that are looked at for an older one of the same path."""


class Spoken(NamedTuple):
    """Frames between which a stream carried messages."""

    first: int
    last: int


class Connections:
    """Follows all streams, in columns: there can be a hundred thousand. A *pair* is a ``Stream.pair``."""

    def __init__(self) -> None:
        self.shared: dict[int, list[int]] = {}
        """The streams of each pair that has several, in the order of their first frames."""
        self._first = array("i")
        """The first stream of each pair."""
        self.opened = Moments()
        """When a stream began, where that was captured."""
        self.closed = Moments()
        """The first end seen of a stream."""
        self.ended = Moments()
        """When, and how, the sender of a flow ended it."""
        self.first_frame = PerFlow(np.int64, 0)
        self.first_end = PerFlow(np.int64, 0)
        """Frame that completed the first message of a flow; 0 without one."""
        self.last_frame = PerFlow(np.int64, 0)
        self.last_time = PerFlow(np.int64, 0)
        self.now = 0
        """Time of the latest message, ns."""
        self._known = 0
        """Streams that were entered."""
        self._first_end = PerFlow(np.int64, 0)
        """Of each pair: frame in which one of its streams first ended; 0: none did."""
        self._last_beginning = PerFlow(np.int64, 0)
        """Of each pair: frame in which the last of its streams began, of those whose beginning was captured."""

    def observe(self, view: View, grouped: Grouped, streams: StreamTable) -> None:
        """Take the next batch."""
        self._enter(streams)
        begun = [event for event in view.decoded.events if isinstance(event, StreamOpened)]
        self.opened.note([event.stream for event in begun], begun)
        # Of several values that are assigned to one place the last one stays.
        pairs, frames = _by_pair(begun, streams)
        self._last_beginning[pairs] = frames
        ends = [event for event in view.decoded.events if isinstance(event, StreamClosed)]
        self.closed.note([event.stream for event in ends], ends)
        self.ended.note([2 * event.stream + event.direction for event in ends], ends)
        pairs, frames = _by_pair(ends[::-1], streams)
        known = self._first_end[pairs]
        self._first_end[pairs] = np.where(known, known, frames)
        at = np.flatnonzero(grouped.begins)
        if not len(at):
            return
        keys, last = grouped.flow[at], np.append(at[1:], len(grouped.index)) - 1
        # By the frame that a message began in: one that was cut off is given up long after its connection ended.
        frames = view.first_frame[grouped.index]
        first_frames, last_frames = frames[at], np.maximum.reduceat(frames, at)
        known = self.first_frame[keys]
        self.first_frame[keys] = np.where(known, known, first_frames)
        self.first_end[keys] = np.where(known, self.first_end[keys], view.frame[grouped.index[at]])
        self.last_frame[keys] = np.maximum(self.last_frame[keys], last_frames)
        whole = view.rows["complete"][grouped.index[last]]
        self.last_time[keys[whole]] = view.time[grouped.index[last[whole]]]
        self.now = max(self.now, int(view.time[-1]))

    def _enter(self, streams: StreamTable) -> None:
        """Take in the streams that are new in the table."""
        for stream in streams.streams[self._known :]:
            if stream.pair == len(self._first):
                self._first.append(stream.number)
            else:
                self.shared.setdefault(stream.pair, [self._first[stream.pair]]).append(stream.number)
        self._known = len(streams)

    def spoke(self, stream: int) -> Spoken | None:
        """The first and the last message of a stream, up to its end; None without messages."""
        firsts = [frame for frame in self.first_frame.both(stream) if frame]
        if not firsts:
            return None
        last = max(self.last_frame.both(stream))
        # What was on its way when one side ended the connection still comes.
        closed = self.closed.frame(stream)
        return Spoken(min(firsts), min(last, closed) if closed else last)

    def older(self, stream: Stream) -> list[int]:
        """The streams of its address pair that came before it, no more than the latest ``RECENT``."""
        members = self.of_pair(stream.pair)
        place = bisect_left(members, stream.number)
        return members[max(0, place - RECENT) : place]

    def is_first(self, stream: Stream) -> bool:
        """No other stream of its address pair came before it."""
        return self._first[stream.pair] == stream.number

    def of_pair(self, pair: int) -> list[int]:
        """The streams of a pair in the order of their first frames."""
        return self.shared.get(pair) or [self._first[pair]]

    def made_again(self, pair: int) -> bool:
        """Some stream of the pair began after another had ended."""
        return 0 < self._first_end.one(pair) < self._last_beginning.one(pair)

    def is_over(self, number: int, frame: int) -> bool:
        """A stream was seen to end by that frame."""
        return 0 < self.closed.frame(number) <= frame

    def replaced(self, stream: Stream) -> bool:
        """An older stream of its address pair ended before this one began."""
        return 0 < self._first_end.one(stream.pair) <= stream.first_frame


def _by_pair(events: Sequence[Event], streams: StreamTable) -> tuple[Ints, Ints]:
    """The pair and the frame of each event."""
    pairs = np.array([streams[event.stream].pair for event in events], np.int64)
    return pairs, np.array([event.frame for event in events], np.int64)
