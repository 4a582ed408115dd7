"""One path of a connection over TCP (kernel ``struct rds_conn_path``): a lane whose messages are a byte stream.

A message leaves ``unacked`` when TCP has acknowledged the byte that ends it (§4.5).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from dissectors.wire.rds import HEADER_BYTES, Flags
from rdstool.protocol import events
from rdstool.protocol.framing import CONGESTION_HEADER, NO_EXTENSIONS, pack_extended_header, pack_header
from rdstool.protocol.lane import Lane
from rdstool.protocol.link import Link
from rdstool.protocol.outgoing import Outgoing
from rdstool.protocol.reasons import DropReason, SendStatus
from rdstool.protocol.states import PathInput, PathState
from rdstool.protocol.timers import Timer

if TYPE_CHECKING:
    from rdstool.protocol.connection import Connection

_RETRANSMITTED = int(Flags.RETRANSMITTED)
_UP = PathState.UP


class Path(Lane):
    """State and queues of one path. The connection decides when it dials and what it may take."""

    __slots__ = ("connection", "hold", "link")

    def __init__(self, connection: Connection, index: int) -> None:
        super().__init__(connection, index)
        self.connection = connection
        self.link: Link | None = None
        self.hold: Timer | None = None
        """While set, messages of sockets wait for the handshake."""

    # ---- State

    def dial(self, now: float) -> None:
        """Ask the transport for a TCP connection."""
        connection = self.connection
        self.cancel_retry()
        self.attempt += 1
        self.link = connection.new_link()
        self.link.path = self
        self.step(PathInput.DIAL, now)
        npaths = connection.npaths if connection.npaths > 1 else len(connection.paths)
        connection.node.emit(
            events.ConnectWanted(self.link, connection.local, connection.peer, self.index, npaths, self.attempt)
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

    def current_link(self) -> Link | None:
        """The TCP connection that serves the path."""
        return self.link

    def _forget_link(self) -> None:
        link, self.link = self.link, None
        if link is not None and link.path is self:
            link.path = None

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
        super()._stop(now)
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

    def _went_down(self, now: float) -> None:
        self.connection.went_down(self, now)

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

    # ---- Sending

    def release(self) -> None:
        """Stop holding messages of sockets back for the handshake."""
        if self.hold is not None:
            self.hold.cancel()
            self.hold = None

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
        packets, room = self.budget_packets, self.budget_bytes
        while messages and sent < limit:
            message = messages.popleft()
            payload = message.payload
            length = len(payload)
            # The budgets of ACK_REQUIRED run over TCP too; only the flag never reaches the wire (§1, §7.5).
            if not packets or room < length:
                self.reload_budgets()
                packets, room = self.budget_packets, self.budget_bytes
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
        last = unacked[-1].socket if unacked else None
        if last is not None and 2 * last.send_bytes > last.sndbuf:
            link.pressed = True
        link.sent = sent
        self.budget_packets, self.budget_bytes = packets, room

    def bytes_acked(self, total: int) -> None:
        """TCP has acknowledged the first ``total`` bytes of the present TCP connection."""
        unacked, left = self.unacked, self.connection.left
        done = 0
        while unacked and unacked[0].end <= total:
            left(unacked.popleft(), SendStatus.ACKNOWLEDGED)
            done += 1
        self.connection.node.counters.send_drop_acked += done
