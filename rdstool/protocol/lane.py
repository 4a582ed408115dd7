"""What carries a connection's messages in order, whatever is below: its state, its queues, its numbering.

Over TCP that is one path of a connection (:mod:`rdstool.protocol.path`), over InfiniBand all of it
(:mod:`rdstool.protocol.ib.lane`). Queues, in the order in which they are sent:

    retry     handed to an earlier connection and not acknowledged: sent again as they were, with RETRANSMITTED
    control   probes and pongs
    queue     messages of sockets
    unacked   handed to the present connection, not acknowledged

The congestion map goes before all of them, has no number and is never sent again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

from rdstool.protocol import events
from rdstool.protocol.congestion import LocalMap
from rdstool.protocol.host import Host
from rdstool.protocol.link import BaseLink
from rdstool.protocol.outgoing import Outgoing
from rdstool.protocol.reasons import DropReason, SendStatus
from rdstool.protocol.states import Action, PathInput, PathState, step
from rdstool.protocol.timers import Timer
from rdstool.protocol.trace import Record


class LaneOwner(Protocol):
    """What a lane needs of its connection."""

    node: Host
    local: str
    peer: str
    local_map: LocalMap

    def left(self, message: Outgoing, status: SendStatus) -> None:
        """A message is acknowledged, or given up."""


class Lane(ABC):
    """State and queues. The connection decides when it dials and what it may take."""

    __slots__ = (
        "attempt",
        "budget_bytes",
        "budget_packets",
        "ceiling_ms",
        "control",
        "detail",
        "index",
        "map_pending",
        "next_rx",
        "next_tx",
        "owner",
        "queue",
        "reason",
        "retry",
        "retry_timer",
        "state",
        "unacked",
    )

    def __init__(self, owner: LaneOwner, index: int) -> None:
        self.owner = owner
        """The connection."""
        self.index = index
        """Number of the path; 0 over InfiniBand."""
        self.state = PathState.DOWN
        self.retry: deque[Outgoing] = deque()
        self.control: deque[Outgoing] = deque()
        self.queue: deque[Outgoing] = deque()
        self.unacked: deque[Outgoing] = deque()
        self.next_tx = 1
        """Sequence number of the next new message."""
        self.next_rx = 0
        """One above the sequence number received last; survives reconnects."""
        self.map_pending = False
        """The congestion map is to be sent."""
        self.attempt = 0
        """Attempts to connect since the last success."""
        self.ceiling_ms = 0
        """Upper bound of the random delay before the next attempt; 0 for at once."""
        self.retry_timer: Timer | None = None
        """Stands while an attempt is to come."""
        self.reason = DropReason.LOST
        self.detail = ""
        self.budget_packets = 0
        """Messages that may still pass without ACK_REQUIRED: none at first, so that the first one carries it (§7.5)."""
        self.budget_bytes = owner.node.settings.max_unacked_bytes

    # ---- State

    def step(self, given: PathInput, now: float) -> None:
        """Change state, remember it, and do what belongs to the change. The only place that sets ``state``."""
        action, new = step(self.state, given)
        owner = self.owner
        owner.node.trace.add(Record(now, owner.local, owner.peer, self.index, self.state, given, new))
        self.state = new
        match action:
            case Action.NOTHING:
                pass
            case Action.REPLACE:
                self._replace(now)
            case Action.START:
                self._start(now)
            case Action.STOP:
                self._stop(now)
            case Action.CLOSE:
                self._close(now)
            case Action.REQUEUE:
                self._requeue(now)

    @abstractmethod
    def current_link(self) -> BaseLink | None:
        """What serves the lane now."""

    @abstractmethod
    def _forget_link(self) -> None:
        """Nothing serves the lane any more."""

    def drop(self, reason: DropReason, detail: str, now: float, *, abort: bool = False) -> None:
        """Give up the present connection: from here on it only delivers, or with ``abort`` not even that."""
        link = self.current_link()
        if link is None or (self.state is PathState.DISCONNECTING and not abort):
            return
        if self.state is not PathState.DISCONNECTING:
            self.reason, self.detail = reason, detail
        if abort:
            link.deaf = True
            if link.grace is not None:
                link.grace.cancel()
        self.step(PathInput.DROP, now)
        self.step(PathInput.SHUT_DOWN, now)

    def lost(self, detail: str, now: float, reason: DropReason = DropReason.LOST) -> None:
        """The connection is gone, and has brought all that it will bring."""
        link = self.current_link()
        self._forget_link()
        if link is not None and link.grace is not None:
            link.grace.cancel()
        if self.state is PathState.CONNECTING:
            self.reason, self.detail = DropReason.DIAL_FAILED, detail
            self.step(PathInput.DIAL_FAILED, now)
            return
        if self.state is not PathState.DISCONNECTING:
            self.reason, self.detail = reason, detail
            self.step(PathInput.DROP, now)
            self.step(PathInput.SHUT_DOWN, now)
        self.step(PathInput.CLOSED, now)

    def _replace(self, now: float) -> None:
        """Give up our own attempt for the peer's connection, which over TCP alone can overtake it (§4.3)."""
        raise NotImplementedError

    @abstractmethod
    def _start(self, now: float) -> None:
        """The connection is up."""

    def _stop(self, _now: float) -> None:
        self.map_pending = False

    @abstractmethod
    def _close(self, now: float) -> None:
        """End what serves the lane."""

    def _requeue(self, now: float) -> None:
        owner = self.owner
        requeued = self._requeue_unacked()
        args = owner.local, owner.peer, self.index
        if self.reason is DropReason.DIAL_FAILED:
            owner.node.emit(events.ConnectFailed(*args, self.attempt, self.detail))
        else:
            owner.node.emit(events.PathDown(*args, self.reason, self.detail, requeued))
        self._went_down(now)

    @abstractmethod
    def _went_down(self, now: float) -> None:
        """The connection decides what follows."""

    @abstractmethod
    def _requeue_unacked(self) -> int:
        """Put what is not acknowledged in front, in order; returns how many will be sent again (§4.6)."""

    # ---- Delay between attempts

    def delay_s(self) -> float:
        """Seconds until the next attempt; the ceiling doubles (§10)."""
        settings = self.owner.node.settings
        ceiling = self.ceiling_ms
        if not ceiling:
            self.ceiling_ms = settings.reconnect_min_delay_ms
            return 0.0
        self.ceiling_ms = min(2 * ceiling, settings.reconnect_max_delay_ms)
        return self.owner.node.random.random() * ceiling / 1000

    def cancel_retry(self) -> None:
        """No attempt is to come by itself."""
        if self.retry_timer is not None:
            self.retry_timer.cancel()
            self.retry_timer = None

    # ---- Sending

    def wake(self) -> None:
        """Have the transport ask for what there is to send, where the lane can send."""
        link = self.current_link()
        if self.state is PathState.UP and link is not None and not link.ready:
            link.ready = True
            self.owner.node.ready.append(link)

    @property
    def waiting(self) -> bool:
        """Messages of sockets wait to be sent or acknowledged."""
        return bool(self.queue or self.retry or self.unacked)

    def reload_budgets(self) -> None:
        """A message carries ACK_REQUIRED: the next ones need not (§7.5)."""
        settings = self.owner.node.settings
        self.budget_packets, self.budget_bytes = settings.max_unacked_packets, settings.max_unacked_bytes

    # ---- Giving up messages

    def remove(self, chosen: Callable[[Outgoing], bool], status: SendStatus, *, sent_only: bool = False) -> int:
        """Forget the messages that ``chosen`` picks; returns how many. Those handed over may still arrive."""
        count = 0
        for messages in (self.unacked, self.retry) if sent_only else self.queues():
            gone = [message for message in messages if chosen(message)]
            if gone:
                kept = [message for message in messages if not chosen(message)]
                messages.clear()
                messages.extend(kept)
            for message in gone:
                self.owner.left(message, status)
            count += len(gone)
        return count

    def queues(self) -> Iterator[deque[Outgoing]]:
        """All four queues, what was sent first before what is to be sent."""
        return iter((self.unacked, self.retry, self.control, self.queue))
