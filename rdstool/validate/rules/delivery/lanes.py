"""Which path of its sender each connection serves, over reconnects.

A *lane* is one path object of one end: it numbers messages through all the connections that it uses one after
another. Up to Linux 6.x a connection that is made again can join a path of one end to *another* path of the other
(protocol.md §13), so the two ends of a connection are bound to lanes apart from each other, each by what it sends.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rdstool.capture.streams import Stream
from rdstool.protocol.kinds import Transport
from rdstool.validate.connections import Connections
from rdstool.validate.rules.delivery.journal import Sent

MAX_LANES = 24
"""Lanes of one end that a connection may go on with: eight paths, and more where evidence fails to join them."""
LOWEST_SOCKET_PORT = 2
PORTS_TELL = "SPORT_IDX"
"""Words of ``path_basis`` where the path is known from the TCP source port."""


@dataclass(slots=True, eq=False)
class Lane:
    """One path of one end, as its sendings show it."""

    end: int
    """0: the smaller address sends."""
    streams: list[int] = field(default_factory=list)
    sports: set[int] = field(default_factory=set)
    copies: dict[int, list[Sent]] = field(default_factory=dict)
    """Sequence -> each time that it was sent, in order."""
    begins: dict[int, int] = field(default_factory=dict)
    """Connection -> the first number on it."""
    highest: int = 0
    path: int = -1
    """Known number of the path, -1 where it is not."""

    def has(self, sent: Sent) -> bool:
        """The message was sent on this lane before."""
        return any(copy.same(sent) for copy in self.copies.get(sent.sequence, ()))

    def agreement(self, sent: list[Sent], *, cut: bool) -> tuple[int, int]:
        """How many of the messages were sent on this lane before, and how many of the numbers were other messages.

        ``cut``: the lane's latest connection is over. While it lives only what is flagged can be the same message: a
        socket may have the same numbers on path 0, before the fan-out, and on its own path.
        """
        known = [one for one in sent if one.sequence in self.copies]
        again = sum(self.has(one) for one in known if cut or one.flagged)
        return again, len(known) - again

    def went_on_behind(self, sent: Sent) -> bool:
        """A later connection began with a higher number: what is sent again comes in order, so this will not be."""
        later = self.streams[self.streams.index(sent.flow >> 1) + 1 :]
        return any(self.begins.get(stream, 0) > sent.sequence for stream in later)

    def take(self, sent: Sent) -> None:
        """Take another sending of the message."""
        self.begins.setdefault(sent.flow >> 1, sent.sequence)
        self.copies.setdefault(sent.sequence, []).append(sent)
        self.highest = max(self.highest, sent.sequence)
        if sent.sport >= LOWEST_SOCKET_PORT:
            self.sports.add(sent.sport)


class Binder:
    """Binds the connections of one address pair to the lanes of both ends, oldest first."""

    def __init__(self, connections: Connections, *, sure_only: bool = False) -> None:
        """``sure_only``: go on with a lane only where messages prove it, as other paths may have been in use before."""
        self.lanes: tuple[list[Lane], list[Lane]] = ([], [])
        """All lanes of the smaller and of the larger address."""
        self.current: tuple[list[Lane], list[Lane]] = ([], [])
        """Those that a connection may go on with."""
        self._connections = connections
        self._sure_only = sure_only

    def keeps_paths(self, stream: Stream) -> bool:
        """A connection of this one's kind joins the same path of both ends each time that it is made."""
        single = "single path" in stream.path_basis and not self._sure_only
        return single or PORTS_TELL in stream.path_basis or stream.transport is Transport.IB

    def bind(self, stream: Stream, end: int, sent: list[Sent]) -> tuple[Lane, bool, bool]:
        """The lane of what ``end`` sent on a connection, whether it was known before, and whether that is proved."""
        single = "single path" in stream.path_basis and not self._sure_only
        path = stream.path if PORTS_TELL in stream.path_basis or single else -1
        lane = self._of_path(end, path) if path >= 0 else None
        proved = lane is not None
        if lane is None:
            lane, proved = self._by_evidence(stream, end, sent, path)
        known = lane is not None
        if lane is None:
            lane = Lane(end, path=path)
            self.lanes[end].append(lane)
            self.current[end].append(lane)
            del self.current[end][:-MAX_LANES]
        if lane.path < 0:
            lane.path = path
        lane.streams.append(stream.number)
        return lane, known, proved

    def _of_path(self, end: int, path: int) -> Lane | None:
        return next((lane for lane in self.current[end] if lane.path == path), None)

    def _by_evidence(self, stream: Stream, end: int, sent: list[Sent], path: int) -> tuple[Lane | None, bool]:
        """The lane that fits best, None for a new one; and whether messages that were sent before prove it."""
        first = sent[0]
        goes_on = first.flagged or first.sequence > 1
        free = [lane for lane in self.current[end] if self._is_free(lane, stream, first, goes_on)]
        if path >= 0:
            free = [lane for lane in free if lane.path < 0]
        if not free:
            return None, not goes_on
        # InfiniBand has one connection at a time: a new one is the old one's end, seen or not.
        single, over = stream.transport is Transport.IB, self._connections.is_over
        scores = [lane.agreement(sent, cut=single or over(lane.streams[-1], first.frame)) for lane in free]
        if self._sure_only:
            scores = [(again if not against else 0, against) for again, against in scores]
        fitting = [(lane, again) for lane, (again, against) in zip(free, scores, strict=True) if again >= against]
        best = _leader([again if goes_on or not scores[free.index(lane)][1] else 0 for lane, again in fitting])
        if best is not None:
            return fitting[best][0], True
        if not goes_on or self._sure_only:
            return None, not goes_on  # The first use of a path, or a restarted kernel.
        free = [lane for lane, _ in fitting]
        ports = {one.sport for one in sent if one.sport >= LOWEST_SOCKET_PORT}
        best = _leader([len(ports & lane.sports) for lane in free])
        if best is not None:
            return free[best], False
        following = [lane for lane in free if lane.highest + 1 == first.sequence]
        if len(following) == 1:
            return following[0], False
        return (free[0] if len(free) == 1 else None), False

    def _is_free(self, lane: Lane, stream: Stream, first: Sent, goes_on: bool) -> bool:
        """The lane's last connection was over when this one began to speak, or may have been: it was silent."""
        spoke = self._connections.last_frame.one(2 * lane.streams[-1] + (first.flow & 1))
        over = self._connections.is_over(lane.streams[-1], first.frame)
        return over or (goes_on and spoke < stream.first_frame)


def _leader(votes: list[int]) -> int | None:
    """Index of the most votes; None where there are none, or two have as many."""
    most = max(votes, default=0)
    return votes.index(most) if most and votes.count(most) == 1 else None
