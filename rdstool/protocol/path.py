"""One path of a connection: its state, its queues, its numbering (kernel ``struct rds_conn_path``).

Queues, in the order in which they are sent:

    retry     handed to an earlier TCP connection and not acknowledged: sent again as they were, with RETRANSMITTED
    control   probes and pongs
    queue     messages of sockets
    unacked   handed to the present TCP connection, not acknowledged

A message leaves ``unacked`` when TCP has acknowledged the byte that ends it (§4.5). The congestion map goes before
all of them, has no number and is never sent again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from dissectors.wire.rds import HEADER_BYTES, Flags
from rdstool.protocol import events
from rdstool.protocol.framing import CONGESTION_HEADER, NO_EXTENSIONS, pack_extended_header, pack_header
from rdstool.protocol.link import Link
from rdstool.protocol.outgoing import Outgoing
from rdstool.protocol.reasons import DropReason, SendStatus
from rdstool.protocol.states import Action, PathInput, PathState, step
from rdstool.protocol.timers import Timer
from rdstool.protocol.trace import Record

if TYPE_CHECKING:
    from rdstool.protocol.connection import Connection

_RETRANSMITTED = int(Flags.RETRANSMITTED)
_UP = PathState.UP


class Path:
    """State and queues of one path. The connection decides when it dials and what it may take."""

    __slots__ = (
        "_budget_bytes",
        "_budget_packets",
        "attempt",
        "ceiling_ms",
        "connection",
        "control",
        "detail",
        "hold",
        "index",
        "link",
        "map_pending",
        "next_rx",
        "next_tx",
        "queue",
        "reason",
        "retry",
        "retry_timer",
        "state",
        "unacked",
    )

    def __init__(self, connection: Connection, index: int) -> None:
        self.connection = connection
        self.index = index
        self.state = PathState.DOWN
        self.link: Link | None = None
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
        self.hold: Timer | None = None
        """While set, messages of sockets wait for the handshake."""
        self.attempt = 0
        """Attempts to connect since the last success."""
        self.ceiling_ms = 0
        """Upper bound of the random delay before the next attempt; 0 for at once."""
        self.retry_timer: Timer | None = None
        """Stands while an attempt is to come."""
        self.reason = DropReason.LOST
        self.detail = ""
        self._budget_packets = 0
        self._budget_bytes = connection.node.settings.max_unacked_bytes

    # ---- State

    def step(self, given: PathInput, now: float) -> None:
        """Change state, remember it, and do what belongs to the change. The only place that sets ``state``."""
        action, new = step(self.state, given)
        connection = self.connection
        connection.node.trace.add(Record(now, connection.local, connection.peer, self.index, self.state, given, new))
        self.state = new
        _DO[action](self, now)

    def dial(self, now: float) -> None:
        """Ask the transport for a TCP connection."""
        connection = self.connection
        self.cancel_retry()
        self.attempt += 1
        self.link = connection.new_link()
        self.link.path = self
        self.step(PathInput.DIAL, now)
        connection.node.emit(
            events.ConnectWanted(self.link, connection.local, connection.peer, self.index, self.attempt)
        )

    def take(self, link: Link, now: float) -> None:
        """Serve an incoming TCP connection. Only a path that is DOWN or CONNECTING can."""
        self.cancel_retry()
        self.step(PathInput.ACCEPT, now)
        self.link = link
        link.path = self
        if not link.reading:
            link.reading = True
            self.connection.node.emit(events.ReadWanted(link))
        self.step(PathInput.ESTABLISHED, now)

    def drop(self, reason: DropReason, detail: str, now: float, *, abort: bool = False) -> None:
        """Give up the present TCP connection: from here on it only delivers, or with ``abort`` not even that."""
        link = self.link
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
        """The TCP connection is gone, and has brought all that it will bring."""
        link, self.link = self.link, None
        if link is not None:
            if link.path is self:
                link.path = None
            if link.grace is not None:
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

    def _nothing(self, _now: float) -> None:
        pass

    def _replace(self, now: float) -> None:
        """Our own attempt is overtaken by the peer's connection (§4.3)."""
        own, self.link = self.link, None
        self.connection.node.counters.tcp_connect_raced += 1
        if own is not None:
            own.path = None
            self.connection.node.emit(events.AbortWanted(own, DropReason.REPLACED))
        self._requeue_unacked()
        self.connection.went_resetting(self, now)

    def _start(self, now: float) -> None:
        connection, link = self.connection, self.link
        assert link is not None
        self.attempt = 0
        connection.node.emit(events.PathUp(connection.local, connection.peer, self.index, link.incoming))
        connection.went_up(self, now)
        self.wake()

    def _stop(self, now: float) -> None:
        self.map_pending = False
        self.release()
        self.connection.went_error(self, now)

    def _close(self, now: float) -> None:
        node, link = self.connection.node, self.link
        node.counters.conn_reset += 1
        if link is None:
            return
        if link.deaf:
            node.emit(events.AbortWanted(link, self.reason))
            return
        node.emit(events.CloseWanted(link))
        link.grace = node.timers.at(now + node.settings.close_grace_s, lambda _now: self._end_grace(link))

    def _end_grace(self, link: Link) -> None:
        if self.link is link:
            self.connection.node.emit(events.AbortWanted(link, self.reason))

    def _requeue(self, now: float) -> None:
        connection = self.connection
        requeued = self._requeue_unacked()
        args = connection.local, connection.peer, self.index
        if self.reason is DropReason.DIAL_FAILED:
            connection.node.emit(events.ConnectFailed(*args, self.attempt, self.detail))
        else:
            connection.node.emit(events.PathDown(*args, self.reason, self.detail, requeued))
        connection.went_down(self, now)

    def _requeue_unacked(self) -> int:
        """Put what is not acknowledged in front, in order; gives how many are sent again (§4.6).

        Of handshake messages only the first probe stays: it comes before all that a peer must not judge by the
        numbers of an earlier life of ours.
        """
        again: deque[Outgoing] = deque()
        probes = 0
        for message in (*self.unacked, *self.retry):
            probes += message.is_probe
            if message.is_handshake and not (message.is_probe and probes == 1):
                self.connection.left(message, SendStatus.DROPPED)
            else:
                again.append(message)
        sent_again = len(again)
        self.unacked.clear()
        self.retry = again
        return sent_again

    # ---- Delay between attempts

    def delay_s(self) -> float:
        """Seconds until the next attempt; the ceiling doubles (§10)."""
        settings = self.connection.node.settings
        ceiling = self.ceiling_ms
        if not ceiling:
            self.ceiling_ms = settings.reconnect_min_delay_ms
            return 0.0
        self.ceiling_ms = min(2 * ceiling, settings.reconnect_max_delay_ms)
        return self.connection.node.random.random() * ceiling / 1000

    def cancel_retry(self) -> None:
        """No attempt is to come by itself."""
        if self.retry_timer is not None:
            self.retry_timer.cancel()
            self.retry_timer = None

    # ---- Sending

    def wake(self) -> None:
        """Have the transport ask for bytes, where the path can send."""
        link = self.link
        if self.state is _UP and link is not None and not link.ready:
            link.ready = True
            self.connection.node.ready.append(link)

    def release(self) -> None:
        """Stop holding messages of sockets back for the handshake."""
        if self.hold is not None:
            self.hold.cancel()
            self.hold = None

    @property
    def waiting(self) -> bool:
        """Messages of sockets wait to be sent or acknowledged."""
        return bool(self.queue or self.retry or self.unacked)

    def data_to_send(self, limit: int) -> list[bytes]:
        """Buffers to write in this order: whole messages, until there are ``limit`` bytes or no more messages."""
        link = self.link
        if self.state is not _UP or link is None:
            return []
        connection = self.connection
        out: list[bytes] = []
        start = link.sent
        if self.map_pending:
            self.map_pending = False
            link.carries_map = True
            out += (CONGESTION_HEADER, connection.local_map.payload)
            link.sent += HEADER_BYTES + len(out[-1])
        limit += start
        if self.retry:
            self._send(self.retry, link, limit, out)
        if self.control:
            self._send(self.control, link, limit, out)
        if self.queue and self.hold is None:
            # The kernel holds back all that other paths have (§5.6); answers to pings need no order.
            if self.index and connection.gate.closed:
                connection.node.counters.mprds_catchup_tx0_retries += 1
            else:
                self._send(self.queue, link, limit, out)
        return out

    def _send(self, messages: deque[Outgoing], link: Link, limit: int, out: list[bytes]) -> None:
        sent, unacked, counters = link.sent, self.unacked, self.connection.node.counters
        packets, room = self._budget_packets, self._budget_bytes
        while messages and sent < limit:
            message = messages.popleft()
            payload = message.payload
            length = len(payload)
            # The budgets of ACK_REQUIRED run over TCP too; only the flag never reaches the wire (§1, §7.5).
            if not packets or room < length:
                packets, room = self._reload()
                counters.send_ack_required += 1
            else:
                packets -= 1
                room -= length
            if message.sequence:
                flags = _RETRANSMITTED
            else:
                flags = 0
                message.sequence = self.next_tx
                self.next_tx += 1
            if message.exthdr is NO_EXTENSIONS:
                out.append(pack_header(message.sequence, length, message.sport, message.dport, flags))
            else:
                out.append(
                    pack_extended_header(message.sequence, length, message.sport, message.dport, flags, message.exthdr)
                )
            if length:
                out.append(payload)
            sent += HEADER_BYTES + length
            message.end = sent
            unacked.append(message)
        link.sent = sent
        self._budget_packets, self._budget_bytes = packets, room

    def _reload(self) -> tuple[int, int]:
        settings = self.connection.node.settings
        return settings.max_unacked_packets, settings.max_unacked_bytes

    def bytes_acked(self, total: int) -> None:
        """TCP has acknowledged the first ``total`` bytes of the present TCP connection."""
        unacked, left = self.unacked, self.connection.left
        done = 0
        while unacked and unacked[0].end <= total:
            left(unacked.popleft(), SendStatus.ACKNOWLEDGED)
            done += 1
        self.connection.node.counters.send_drop_acked += done

    # ---- Giving up messages

    def remove(self, chosen: Callable[[Outgoing], bool], status: SendStatus, *, sent_only: bool = False) -> int:
        """Forget the messages that ``chosen`` picks; gives how many. Those handed to TCP may still arrive."""
        count = 0
        for messages in (self.unacked, self.retry) if sent_only else self.queues():
            gone = [message for message in messages if chosen(message)]
            if gone:
                kept = [message for message in messages if not chosen(message)]
                messages.clear()
                messages.extend(kept)
            for message in gone:
                self.connection.left(message, status)
            count += len(gone)
        return count

    def queues(self) -> Iterator[deque[Outgoing]]:
        """All four queues, what was sent first before what is to be sent."""
        return iter((self.unacked, self.retry, self.control, self.queue))


_DO: dict[Action, Callable[[Path, float], None]] = {
    Action.NOTHING: Path._nothing,
    Action.REPLACE: Path._replace,
    Action.START: Path._start,
    Action.STOP: Path._stop,
    Action.CLOSE: Path._close,
    Action.REQUEUE: Path._requeue,
}
