"""One connection: an address pair with up to eight paths (kernel ``struct rds_connection``).

Here TCP connections are made, taken and given up; :mod:`rdstool.protocol.tcp_connection` adds what they bring. The
rules by which connection and paths act on each other, each named by the method that holds it:

- ``send`` and ``reach``: a message for a path that is down makes the smaller address connect, and the larger one
  knock on path 0 (§4.2). The kernel knocks once a message; here it is repeated while messages wait.
- ``accept`` and ``unpark``: an incoming connection takes the path that its source port tells, else the lowest that
  is free; where none is free it waits, unread, until the old connection of its path has been emptied (§4.3).
- ``went_up``, ``went_down``: what a path's change means for the others.
- ``notice``: a handshake message from a restarted peer makes all older TCP connections void (§5.5).
- ``agree``: what a handshake message says of paths is taken over, and the smaller address fans out (§5.2).

Where this differs from the kernel it is so that nothing is lost or doubled in cases where kernels do:

- Sequence numbers go on when the peer has restarted; the kernel begins at 1 again, and then messages that were
  sent before it noticed can make the peer drop later ones as old.
- A restart is noticed before the duplicate filter sees the message that tells of it.
- The first connection that a freshly started acceptor gets may be one that its peer means for another path. Data is
  held back until the handshake, in both directions, and then the TCP connection moves to its path; the kernel
  closes it.
- A later congestion map goes to every TCP connection that carried an earlier one, so that the last to be read is
  also the newest.
- After the fan-out the other paths wait for a pong (:mod:`rdstool.protocol.gate`).
- A sender that is refused by an old congestion map has the peer connected to.
- A connection of path 0 on which the peer never answers is made anew while messages wait.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from dissectors.wire.rds import PING_PORT, PROBE_PORT
from rdstool.protocol import events
from rdstool.protocol.addresses import rank
from rdstool.protocol.base_connection import BaseConnection
from rdstool.protocol.framing import Frame
from rdstool.protocol.gate import Gate
from rdstool.protocol.host import Host
from rdstool.protocol.link import BaseLink, Link
from rdstool.protocol.outgoing import Outgoing
from rdstool.protocol.path import Path
from rdstool.protocol.reasons import DropReason, RefuseReason, SendStatus
from rdstool.protocol.source_ports import path_of_source_port
from rdstool.protocol.states import PathInput, PathState
from rdstool.protocol.timers import Timer

_UP, _DOWN = PathState.UP, PathState.DOWN


class Remembered(NamedTuple):
    """What is kept of a peer that was forgotten: a connection made from it goes on as if it had only been down."""

    npaths: int
    agreed: bool
    peer_gen: int
    peer_sport_idx: bool
    unsure: bool
    numbers: tuple[tuple[int, int], ...]
    """``next_tx`` and ``next_rx`` of each path."""


class Connection(BaseConnection):
    """The paths to one peer address over TCP, and the TCP connections that serve them."""

    __slots__ = (
        "answer_timer",
        "ended",
        "ends",
        "gate",
        "gen_link",
        "knock_timer",
        "mask",
        "parked",
        "paths",
        "peer_gen",
        "peer_sport_idx",
        "probe_sent",
        "smaller",
        "unjudged",
        "unjudged_bytes",
        "unsure",
    )

    transport = "tcp"

    def __init__(self, node: Host, local: str, peer: str, tos: int) -> None:
        super().__init__(node, local, peer, tos)
        self.ends = local, peer
        self.smaller = rank(local) < rank(peer)
        """Our address is the smaller one: we open the TCP connections."""
        self.paths = [Path(self, index) for index in range(node.settings.paths)]
        self.mask = 0
        """``npaths - 1``: the bits of a port's hash that choose the path (§5.4)."""
        self.peer_gen = 0
        self.gen_link = 0
        """Number of the newest link on which the peer told its generation."""
        self.peer_sport_idx = False
        self.probe_sent = False
        """A probe is queued or unanswered."""
        self.gate = Gate(node, self.paths, self.ports)
        """Holds the other paths back after the fan-out."""
        self.parked: deque[Link] = deque()
        """Incoming TCP connections that wait for their path, oldest first."""
        self.unjudged: list[tuple[Link, Frame, float]] = []
        """Messages whose path the handshake has yet to tell, each with the time when its header was seen."""
        self.unjudged_bytes = 0
        self.ended = False
        """No more TCP connections are taken or made."""
        self.unsure = False
        """A TCP connection of path 0 was lost before it was known whether the peer took it for another path."""
        self.knock_timer: Timer | None = None
        self.answer_timer: Timer | None = None
        """Stands while path 0's connection has brought nothing."""

    def lanes(self) -> Sequence[Path]:
        """All paths, by number."""
        return self.paths

    def served_by(self, link: Link) -> Path | None:
        """The path that a TCP connection serves."""
        return None if link.path is None else self.paths[link.path]

    def first_link(self) -> Link | None:
        """The TCP connection that serves path 0."""
        return self.paths[0].link

    # ---- Sending

    def send(self, message: Outgoing, port_hash: int, now: float) -> None:
        """Queue a socket's message on its path."""
        path = self.paths[port_hash & self.mask]
        path.queue.append(message)
        if not self.agreed:
            self.gate.spoken = True
        if path.state is _UP:
            link = path.link
            if link is not None and not link.ready:
                link.ready = True
                self.node.ready.append(link)
            return
        if self.paths[0].state is not _UP:
            self.probe()
        self.reach(path, now)

    def prepare(self, now: float) -> None:
        """Find out how many paths there are, before the first message."""
        self.probe()
        self.reach(self.paths[0], now)

    def probe(self) -> None:
        """Queue a handshake ping, where none is on its way (§5.3)."""
        if self.node.profile.announces_npaths and not self.probe_sent:
            self.probe_sent = True
            self.node.counters.send_queued += 1
            # The kernel counts its probes here, and not their answers apart.
            self.node.counters.send_pong += 1
            self.paths[0].control.append(Outgoing(None, PROBE_PORT, PING_PORT, exthdr=self.node.announcement))
            self.paths[0].wake()

    def reach(self, path: Path, now: float) -> None:
        """Have a path connected that is down, and for which no attempt is to come."""
        if self.smaller:
            if path.state is _DOWN and path.retry_timer is None and self._may_dial(path):
                self._dial(path, now)
        elif self.paths[0].state is _DOWN and self.knock_timer is None:
            self._dial(self.paths[0], now)

    def data_to_send(self, link: Link, limit: int) -> list[bytes]:
        """Buffers to write to a TCP connection."""
        return [] if link.path is None else self.paths[link.path].data_to_send(limit)

    def acknowledged(self, link: Link, total: int) -> None:
        """The peer's system has acknowledged so many bytes of what was sent on a TCP connection."""
        if link.path is not None and not link.doubtful:
            self.paths[link.path].bytes_acked(total)

    def left(self, message: Outgoing, status: SendStatus) -> None:
        """A message is acknowledged, or given up."""
        if message.early:
            message.early = False
            self.gate.one_left()
        super().left(message, status)

    # ---- Receiving: what the whole of a connection adds to this (:mod:`rdstool.protocol.tcp_connection`)

    @abstractmethod
    def receive(self, link: Link, data: bytes | int, now: float) -> None:
        """Take bytes of one TCP connection."""

    @abstractmethod
    def take_held(self, link: Link, now: float, *, at_any_rate: bool = False) -> None:
        """Take what a TCP connection has brought and no socket had room for."""

    @abstractmethod
    def judge(self, now: float) -> None:
        """Take the messages that were kept until their path is known."""

    # ---- Congestion

    def map_changed(self) -> None:
        """Our map has changed: it goes to the lowest path that is up, and wherever an earlier one went."""
        self.node.counters.cong_update_queued += 1
        carrier = self._carrier()
        for path in self.paths:
            if path.state is _UP and path.link is not None and (path is carrier or path.link.carries_map):
                path.map_pending = True
                path.wake()

    def _carrier(self) -> Path | None:
        return next((path for path in self.paths if path.state is _UP), None)

    # ---- Connecting

    def _dial(self, path: Path, now: float) -> None:
        """Ask the transport for a TCP connection."""
        link = self.new_link()
        path.dial(link, now)
        npaths = self.npaths if self.npaths > 1 else len(self.paths)
        self.node.emit(events.ConnectWanted(link, self.local, self.peer, path.index, npaths, path.attempt))

    def new_link(self, peer_port: int | None = None) -> Link:
        """A link for one more TCP connection."""
        self.links += 1
        return Link(self, self.links, self.node.settings.limits.message_bytes, peer_port)

    def accept(self, peer_port: int, now: float) -> Link | RefuseReason:
        """An incoming TCP connection (§4.2, §4.3): taken, parked or refused."""
        if self.smaller:
            # The peer has something to send and asks us to connect.
            path = self.paths[0]
            if path.state is _DOWN:
                self._dial(path, now)
            return RefuseReason.LARGER_SIDE
        if len(self.parked) >= self.node.settings.limits.parked:
            return RefuseReason.TOO_MANY_WAITING
        link = self.new_link(peer_port)
        path_or_none = self._free_path(link)
        if path_or_none is None:
            link.reading = False
            self.parked.append(link)
        else:
            path_or_none.take(link, now)
        return link

    def unpark(self, now: float) -> None:
        """Give waiting TCP connections the paths that have become free."""
        for link in list(self.parked):
            path = self._free_path(link)
            if path is not None:
                self.parked.remove(link)
                path.take(link, now)

    def _free_path(self, link: Link) -> Path | None:
        told = self._told_by_port(link)
        for path in self.paths[: self.npaths] if told is None else [self.paths[told]]:
            # CONNECTING is our own knock, which the peer's connection overtakes.
            if path.state in {PathState.DOWN, PathState.CONNECTING}:
                return path
        return None

    def path_of(self, link: Link) -> Path:
        """The path of an incoming TCP connection, dead or alive, by all that is known by now."""
        return self.paths[self._told_by_port(link) or 0]

    def _told_by_port(self, link: Link) -> int | None:
        if not self.peer_sport_idx or link.peer_port is None:
            return None
        return path_of_source_port(link.peer_port, self.npaths)

    def _may_dial(self, path: Path) -> bool:
        """Path 0 comes first: only there does a peer say at once that it has taken the connection up.

        One that is full, and has forgotten us, closes it unread, and its system may have acknowledged messages by then.
        A peer without SPORT_IDX numbers paths in the order in which they come: one after the other, then.
        """
        if path.index == 0:
            return True
        if path.index >= self.npaths or not any(each.link is not None and each.link.heard for each in self.paths):
            return False
        return self.peer_sport_idx or all(lower.state is _UP for lower in self.paths[: path.index])

    def _dial_all(self, now: float) -> None:
        for path in self.paths[: self.npaths] if self.smaller else ():
            self.reach(path, now)

    def _retry(self, path: Path, now: float) -> None:
        path.retry_timer = None
        self.reach(path, now)

    def _knock(self, now: float) -> None:
        self.knock_timer = None
        if self.needed:
            self.reach(self.paths[0], now)

    # ---- What paths tell

    def went_up(self, path: Path, now: float) -> None:
        """A path is connected: the congestion map first, then the rest (§3.3)."""
        node = self.node
        node.away.pop(self.ends, None)
        if path is self._carrier():
            path.map_pending = True
        if path.index == 0 and self.knock_timer is not None:
            self.knock_timer.cancel()
            self.knock_timer = None
        if not self.agreed and node.profile.announces_npaths:
            # First of all: a peer that knew an earlier life of ours learns of this one before it judges numbers.
            self.probe()
            if path.link is not None and path.link.incoming:
                patience = node.settings.handshake_patience_s
                path.hold = node.timers.at(now + patience, lambda when: self._hold_no_longer(path, when))
        if path.link is not None and path.link.doubtful:
            self._expect_answer(path, now)
        self._dial_all(now)

    def _expect_answer(self, path: Path, now: float) -> None:
        patience = self.node.settings.answer_patience_s
        self.answer_timer = self.node.timers.at(now + patience, lambda when: self._judge_silence(path, when))

    def answered(self, now: float) -> None:
        """The peer has taken up path 0's connection."""
        self._expect_no_answer()
        self._dial_all(now)

    def _expect_no_answer(self) -> None:
        if self.answer_timer is not None:
            self.answer_timer.cancel()
            self.answer_timer = None

    def _judge_silence(self, path: Path, now: float) -> None:
        """The peer's system has taken our connection; has the peer? The old one still delivers, should it speak now."""
        self.answer_timer = None
        if any(message.socket is not None for lane in self.paths for queue in lane.queues() for message in queue):
            self.node.counters.dropped_unanswered += 1
            path.drop(DropReason.UNANSWERED, "", now)
        else:
            self._expect_answer(path, now)

    def _hold_no_longer(self, path: Path, now: float) -> None:
        path.hold = None
        path.wake()
        self.judge(now)

    def went_resetting(self, path: Path, _now: float) -> None:
        """Our own attempt was overtaken; numbering and queues are as after a loss."""
        if path.index == 0:
            self._probe_again()

    def went_error(self, path: Path, _now: float) -> None:
        """A path sends no more: what it may have told of congestion, another one tells again."""
        if path.index == 0:
            self._expect_no_answer()
        carrier = self._carrier()
        if carrier is not None and path.link is not None and path.link.carries_map:
            carrier.map_pending = True
            carrier.wake()

    def went_down(self, path: Path, now: float) -> None:
        """A path has been emptied and may be connected again (§4.6)."""
        node = self.node
        if path.index == 0:
            self.unsure = self.unsure or not self.agreed
            self._probe_again()
        if self.ended:
            return
        node.away[self.ends] = None
        self.unpark(now)
        if path.state is not _DOWN:
            return
        if self.smaller:
            if path.index < self.npaths:
                path.retry_timer = node.timers.at(now + path.delay_s(), lambda when: self._retry(path, when))
        elif self.knock_timer is None and self.paths[0].state is _DOWN and self.needed:
            failed = path.reason is DropReason.DIAL_FAILED
            delay = path.delay_s() if failed else node.settings.knock_interval_s
            self.knock_timer = node.timers.at(now + delay, self._knock)

    def _probe_again(self) -> None:
        """Path 0's next TCP connection brings a new probe: one that was sent before may be taken for a duplicate."""
        control = self.paths[0].control
        others = [message for message in control if not message.is_handshake]
        control.clear()
        control.extend(others)
        self.probe_sent = False
        self.probe()

    # ---- The end

    def lost(self, link: BaseLink, detail: str, now: float) -> None:
        """The transport has no more of a TCP connection."""
        assert isinstance(link, Link)
        if link in self.parked:
            self.parked.remove(link)
        if link.held and not link.deaf:
            self.take_held(link, now, at_any_rate=True)
        path = self.served_by(link)
        if path is not None:
            path.lost(detail, now)

    def close(self, now: float) -> None:
        """Give up all TCP connections."""
        self._end(DropReason.CLOSED, now, abort=False)

    def forget(self, now: float) -> None:
        """Give up all TCP connections at once, unread. The node does not know this peer any more."""
        self._end(DropReason.FORGOTTEN, now, abort=True)

    @property
    def idle(self) -> bool:
        """The peer is away, nothing waits for it, and nothing of it is under way."""
        return (
            all(path.state is _DOWN for path in self.paths)
            and not (self.parked or self.unjudged or self.map_missed)
            and (self.agreed or not self.node.profile.waits_for_paths)
            and all(message.is_handshake for path in self.paths for queue in path.queues() for message in queue)
        )

    def remember(self) -> Remembered:
        """What a later connection with this peer has to know."""
        numbers = tuple((path.next_tx, path.next_rx) for path in self.paths)
        return Remembered(self.npaths, self.agreed, self.peer_gen, self.peer_sport_idx, self.unsure, numbers)

    def recall(self, past: Remembered) -> None:
        """Go on where an earlier connection with this peer was forgotten."""
        self.npaths, self.agreed, self.peer_gen, self.peer_sport_idx, self.unsure, numbers = past
        self.mask = self.npaths - 1
        for path, (next_tx, next_rx) in zip(self.paths, numbers, strict=True):
            path.next_tx, path.next_rx = next_tx, next_rx

    def _end(self, reason: DropReason, now: float, *, abort: bool) -> None:
        self.ended = True
        self.gate.stop_waiting()
        if self.knock_timer is not None:
            self.knock_timer.cancel()
        for link in self.parked:
            self.node.emit(events.AbortWanted(link, reason))
        self.parked.clear()
        for path in self.paths:
            path.cancel_retry()
            path.drop(reason, "", now, abort=abort)

    def established(self, link: Link, now: float) -> None:
        """An attempt of ours has succeeded; where ours is the larger address, that was only a knock (§4.2)."""
        path = self.served_by(link)
        if path is None:
            return
        if self.smaller:
            path.step(PathInput.ESTABLISHED, now)
        else:
            path.drop(DropReason.LARGER_SIDE_DIALLED, "", now)
