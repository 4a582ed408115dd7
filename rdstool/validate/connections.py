"""Which streams connect the same two addresses, when each opened, spoke and ended."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from rdstool.capture.events import StreamClosed, StreamOpened
from rdstool.capture.streams import Stream, StreamTable
from rdstool.protocol.kinds import Transport
from rdstool.validate.flows import Grouped
from rdstool.validate.moments import Moments
from rdstool.validate.view import PerFlow, View

RECENT = 64
"""Streams of an address pair that are looked at for an older one of the same path."""


class Pair(NamedTuple):
    """What identifies an RDS connection in a capture: two addresses, and what carries it."""

    smaller: bytes
    larger: bytes
    transport: int


class Spoken(NamedTuple):
    """Frames between which a stream carried messages."""

    first: int
    last: int


def pair_of(stream: Stream) -> Pair:
    """The RDS connection that a stream serves."""
    smaller, larger = stream.address_pair
    return Pair(smaller, larger, int(stream.transport))


class Connections:
    """Follows all streams; a record for each, of which the stream table bounds the number."""

    def __init__(self) -> None:
        self.pairs: dict[Pair, list[int]] = {}
        """Streams of an address pair in the order of their first frames."""
        self.shared: set[Pair] = set()
        """Pairs with more than one stream."""
        self.pair: list[Pair] = []
        """Of each stream: what ``pair_of`` gives, which takes its time."""
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
        self._first_end: dict[Pair, int] = {}
        """Pair -> frame in which one of its streams first ended."""
        self._last_beginning: dict[Pair, int] = {}
        """Pair -> frame in which the last of its streams began, of those whose beginning was captured."""

    def observe(self, view: View, grouped: Grouped, streams: StreamTable) -> None:
        """Take the next batch."""
        for number in range(len(self.pair), len(streams)):
            pair = pair_of(streams[number])
            self.pair.append(pair)
            members = self.pairs.setdefault(pair, [])
            members.append(number)
            if len(members) == 2:
                self.shared.add(pair)
        begun = [event for event in view.decoded.events if isinstance(event, StreamOpened)]
        self.opened.note([event.stream for event in begun], begun)
        for beginning in begun:
            pair = self.pair[beginning.stream]
            self._last_beginning[pair] = max(beginning.frame, self._last_beginning.get(pair, 0))
        ends = [event for event in view.decoded.events if isinstance(event, StreamClosed)]
        self.closed.note([event.stream for event in ends], ends)
        self.ended.note([2 * event.stream + event.direction for event in ends], ends)
        for event in ends:
            self._first_end.setdefault(self.pair[event.stream], event.frame)
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
        members = self.pairs[self.pair[stream.number]]
        place = bisect_left(members, stream.number)
        return members[max(0, place - RECENT) : place]

    def is_first(self, stream: Stream) -> bool:
        """No other stream of its address pair came before it."""
        return self.pairs[self.pair[stream.number]][0] == stream.number

    def made_again(self, pair: Pair) -> bool:
        """Some stream of the pair began after another had ended."""
        youngest = self._last_beginning.get(pair, 0)
        return youngest > self._first_end.get(pair, youngest)

    def is_over(self, number: int, frame: int) -> bool:
        """A stream was seen to end by that frame."""
        return 0 < self.closed.frame(number) <= frame

    def replaced(self, stream: Stream) -> bool:
        """An older stream of its address pair ended before this one began."""
        return self._first_end.get(self.pair[stream.number], stream.first_frame + 1) <= stream.first_frame

    def tcp_pairs(self) -> Iterator[tuple[Pair, list[int]]]:
        """The address pairs that speak RDS over TCP."""
        for pair, numbers in self.pairs.items():
            if pair.transport == Transport.TCP:
                yield pair, numbers
