"""One path of a connection over TCP (kernel ``struct rds_conn_path``): a lane whose messages are a byte stream.

A message leaves ``unacked`` when TCP has acknowledged the byte that ends it (§4.5).
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from dissectors.wire.rds import HEADER_BYTES, Flags
from rdstool.protocol import events
from rdstool.protocol.framing import CONGESTION_HEADER, NO_EXTENSIONS, pack_extended_header, pack_header
from rdstool.protocol.gate import Gate
from rdstool.protocol.lane import Lane, LaneOwner
from rdstool.protocol.link import Link
from rdstool.protocol.outgoing import Outbox, Outgoing
from rdstool.protocol.reasons import DropReason, SendStatus
from rdstool.protocol.states import PathInput, PathState
from rdstool.protocol.timers import Timer

_RETRANSMITTED = int(Flags.RETRANSMITTED)
_UP = PathState.UP


class PathOwner(LaneOwner, Protocol):
    """What a path needs of its connection: to know when path 0 goes first, and to tell how its state changes."""

    gate: Gate

    def went_up(self, path: Path, now: float) -> None:
        """The path is connected."""

    def went_resetting(self, path: Path, now: float) -> None:
        """Our own attempt was overtaken by the peer's."""

    def went_error(self, path: Path, now: float) -> None:
        """The path sends no more."""

    def went_down(self, path: Path, now: float) -> None:
        """The path has been emptied and may be connected again."""


class Path(Lane):
    """State and queues of one path. The connection decides when it dials and what it may take."""

    __slots__ = ("hold", "link")

    owner: PathOwner

    def __init__(self, owner: PathOwner, index: int) -> None:
        super().__init__(owner, index)
        self.link: Link | None = None
        self.hold: Timer | None = None
        """While set, messages of sockets wait for the handshake."""

    # ---- State

    def dial(self, link: Link, now: float) -> None:
        """Wait for a TCP connection that the transport is asked for."""
        self.cancel_retry()
        self.attempt += 1
        self._serve(link)
        self.step(PathInput.DIAL, now)

    def take(self, link: Link, now: float) -> None:
        """Serve an incoming TCP connection. Only a path that is DOWN or CONNECTING can."""
        self.cancel_retry()
        self.step(PathInput.ACCEPT, now)
        self._serve(link)
        if not link.reading:
            link.reading = True
            self.owner.node.emit(events.ReadWanted(link))
        self.step(PathInput.ESTABLISHED, now)

    def _serve(self, link: Link) -> None:
        self.link = link
        link.path = self.index

    def current_link(self) -> Link | None:
        """The TCP connection that serves the path."""
        return self.link

    def _forget_link(self) -> None:
        link, self.link = self.link, None
        if link is not None and link.path == self.index:
            link.path = None

    def _replace(self, now: float) -> None:
        """Our own attempt is overtaken by the peer's connection (§4.3)."""
        own, self.link = self.link, None
        self.owner.node.counters.tcp_connect_raced += 1
        if own is not None:
            own.path = None
            self.owner.node.emit(events.AbortWanted(own, DropReason.REPLACED))
        self._requeue_unacked()
        self.owner.went_resetting(self, now)

    def _start(self, now: float) -> None:
        owner, link = self.owner, self.link
        assert link is not None
        self.attempt = 0
        owner.node.emit(events.PathUp(owner.local, owner.peer, self.index, link.incoming))
        owner.went_up(self, now)
        self.wake()

    def _stop(self, now: float) -> None:
        super()._stop(now)
        self.release()
        self.owner.went_error(self, now)

    def _close(self, now: float) -> None:
        node, link = self.owner.node, self.link
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
            self.owner.node.emit(events.AbortWanted(link, self.reason))

    def _went_down(self, now: float) -> None:
        self.owner.went_down(self, now)

    def _requeue_unacked(self) -> int:
        """Put what is not acknowledged in front, in order; returns how many will be sent again (§4.6).

        Of handshake messages only the first probe stays: it comes before all that a peer must not judge by the
        numbers of an earlier life of ours.
        """
        again: deque[Outgoing] = deque()
        probes = 0
        for message in (*self.unacked, *self.retry):
            probes += message.is_probe
            if message.is_handshake and not (message.is_probe and probes == 1):
                self.owner.left(message, SendStatus.DROPPED)
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
        owner = self.owner
        out: list[bytes] = []
        start = link.sent
        if self.map_pending:
            self.map_pending = False
            link.carries_map = True
            out += (CONGESTION_HEADER, owner.local_map.payload)
            link.sent += HEADER_BYTES + len(out[-1])
        limit += start
        if self.retry:
            self._send(self.retry, link, limit, out)
        if self.control:
            self._send(self.control, link, limit, out)
        if self.queue and self.hold is None:
            # The kernel holds back all that other paths have (§5.6); answers to pings need no order.
            if self.index and owner.gate.closed:
                owner.node.counters.mprds_catchup_tx0_retries += 1
            else:
                self._send(self.queue, link, limit, out)
        return out

    def _send(self, messages: deque[Outgoing], link: Link, limit: int, out: list[bytes]) -> None:
        sent, unacked, counters = link.sent, self.unacked, self.owner.node.counters
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
        unacked, owner = self.unacked, self.owner
        done = count = length = 0
        sender: Outbox | None = None
        while unacked and unacked[0].end <= total:
            message = unacked.popleft()
            done += 1
            if message.unnoticed and message.socket is sender:  # nearly always
                count += 1
                length += len(message.payload)
                continue
            if sender is not None:
                sender.free_room(length, count)
            sender, count, length = None, 0, 0
            if message.unnoticed:
                sender, count, length = message.socket, 1, len(message.payload)
            else:
                owner.left(message, SendStatus.ACKNOWLEDGED)
        if sender is not None:
            sender.free_room(length, count)
        owner.node.counters.send_drop_acked += done
