"""The one lane of an InfiniBand connection: messages become frames, operations become work requests.

A message leaves ``unacked`` when a frame of the peer acknowledges it by ``h_ack`` (§7.5). The order is that of the
queues, and each message's fragments follow each other; an RDMA operation goes right before its message (§8.1).
"""

from __future__ import annotations

from collections import deque
from typing import Protocol

from dissectors.wire.congestion import BITMAP_BYTES
from dissectors.wire.rds import FRAGMENT_BYTES, Flags
from rdstool.protocol import events
from rdstool.protocol.framing import NO_EXTENSIONS
from rdstool.protocol.ib.header import pack_frame_header
from rdstool.protocol.ib.link import IbLink, Transmission
from rdstool.protocol.ib.operations import RemoteOutgoing
from rdstool.protocol.ib.work import Send, Work, WorkStatus
from rdstool.protocol.lane import Lane, LaneOwner
from rdstool.protocol.outgoing import Outgoing
from rdstool.protocol.reasons import DropReason, SendStatus
from rdstool.protocol.states import PathInput, PathState
from rdstool.protocol.timers import Timer

GOODBYE_S = 0.2
"""How long the last acknowledgement may take."""
_CONGESTION = int(Flags.CONG_BITMAP)
_ACK_REQUIRED = int(Flags.ACK_REQUIRED)
_SENT_AGAIN = int(Flags.ACK_REQUIRED | Flags.RETRANSMITTED)
_NO_FAILURE = {WorkStatus.SUCCESS, WorkStatus.FLUSHED}
"""What is flushed was posted when the connection ended; that has its own news."""
_SEVERAL = int(Flags.EXTHDR_EXTENSION)


class IbLaneOwner(LaneOwner, Protocol):
    """What the lane needs of its connection besides: to tell that it may be connected again."""

    def went_down(self, now: float) -> None:
        """The lane has no connection any more."""


class IbLane(Lane):
    """State and queues of a connection. The connection decides when it dials and what it may take."""

    __slots__ = ("closing", "link", "required")

    owner: IbLaneOwner

    def __init__(self, owner: IbLaneOwner) -> None:
        super().__init__(owner, 0)
        self.link: IbLink | None = None
        self.closing: Timer | None = None
        """The node is closed, and the peer is yet to be told what was received."""
        self.required = 0
        """Sequence number of the last message that asked for an acknowledgement."""

    # ---- State

    def current_link(self) -> IbLink | None:
        """The reliable connection that serves the lane."""
        return self.link

    def _forget_link(self) -> None:
        link, self.link = self.link, None
        if link is None:
            return
        self.owner.node.unfinished.forget(self)
        operations = dict.fromkeys(link.operations.values())
        link.operations.clear()
        link.transmission = None
        for operation in operations:
            operation.abandon()
        for message in link.silent:
            self.owner.left(message, SendStatus.DROPPED)
        link.silent.clear()

    def dial(self, link: IbLink, now: float) -> None:
        """Wait for a connection that the transport is asked for."""
        self.cancel_retry()
        self.attempt += 1
        self.link = link
        self.step(PathInput.DIAL, now)

    def take(self, link: IbLink, now: float) -> None:
        """Serve a connection that the peer asks for; only while DOWN."""
        self.cancel_retry()
        self.step(PathInput.ACCEPT, now)
        self.link = link

    def _start(self, now: float) -> None:
        owner, link = self.owner, self.link
        assert link is not None
        self.attempt = 0
        owner.node.emit(events.PathUp(owner.local, owner.peer, 0, link.incoming))
        self.map_pending = True
        self.wake()

    def _close(self, _now: float) -> None:
        node, link = self.owner.node, self.link
        node.counters.conn_reset += 1
        if link is not None:
            # Nothing that the peer still sends has been acknowledged by RDS: it comes again.
            link.deaf = True
            node.emit(events.AbortWanted(link, self.reason))

    def _went_down(self, now: float) -> None:
        self.owner.went_down(now)

    def _requeue_unacked(self) -> int:
        """Put what is not acknowledged in front; what did RDMA is given up, for it may have been done (§7.8)."""
        again: deque[Outgoing] = deque()
        for message in (*self.unacked, *self.retry):
            if isinstance(message, RemoteOutgoing):
                self.owner.left(message, SendStatus.DROPPED)
            else:
                again.append(message)
        self.unacked.clear()
        self.retry = again
        self.reload_budgets()
        return len(again)

    # ---- Sending

    def work_to_post(self) -> list[Work]:
        """Work requests to post in this order, as many as the send ring and the peer's credits allow."""
        link = self.link
        if self.state is not PathState.UP or link is None:
            return []
        out: list[Work] = []
        ring = self.owner.node.settings.ib_max_send_wr
        while link.transmission is not None or self._begin(link, ring, out):
            if not self._transmit(link, ring, out):
                break
            link.transmission = None
        going = link.transmission
        if link.ack_wanted and (going is None or going.at < 0 or link.flow is not None):
            # Not between two fragments, where there is a choice: with credits, both sides could wait for each other.
            self._acknowledge(link, out)
        return out

    def _begin(self, link: IbLink, ring: int, out: list[Work]) -> bool:
        """Post what can go without a ``Transmission``, and begin one; False where there is nothing, or no room."""
        if not self.map_pending and not self.retry and not self.control and link.flow is None:
            self._post_short(link, ring, out)
        if len(link.posted) >= ring:
            self.owner.node.counters.ib_tx_ring_full += 1
            return False
        return self._next(link)

    def _post_short(self, link: IbLink, ring: int, out: list[Work]) -> None:
        """Post the messages at the head of the queue that are one frame each: by far the most."""
        queue, posted, unacked = self.queue, link.posted, self.unacked
        ack = link.ack
        while queue and len(posted) < ring:
            message = queue[0]
            payload = message.payload
            length = len(payload)
            if length > FRAGMENT_BYTES or type(message) is not Outgoing:
                break
            del queue[0]
            flags = self._number(message)
            unacked.append(message)
            header = pack_frame_header(
                message.sequence, ack, length, message.sport, message.dport, flags, 0, message.exthdr
            )
            out.append(self._send(link, header + payload, True, ring))
            link.ack_told = ack
            if link.ack_wanted:
                link.ack_wanted = False
                self.owner.node.counters.ib_ack_send_piggybacked += 1

    def _next(self, link: IbLink) -> bool:
        """Take the next message from the queues."""
        if self.map_pending:
            self.map_pending = False
            payload = self.owner.local_map.payload
            link.transmission = Transmission(None, payload, _CONGESTION, NO_EXTENSIONS)
            return True
        messages = self.retry or self.control or self.queue
        if not messages:
            self.owner.node.counters.send_queue_empty += 1
            return False
        message = messages.popleft()
        if isinstance(message, RemoteOutgoing) and message.is_silent:
            flags = 0
            link.silent[message] = None
        else:
            flags = self._number(message)
            self.unacked.append(message)
        going = link.transmission = Transmission(message, message.payload, flags, message.exthdr)
        if isinstance(message, RemoteOutgoing):
            operation = message.operation
            going.fence = operation.fence
            for work in operation.start(link.new_id):
                going.work.append(work)
                link.operations[work.id] = operation
        return True

    def _number(self, message: Outgoing) -> int:
        """Give a message its number and its flags (§7.5; kernel ``rds_send_xmit``)."""
        length = len(message.payload)
        required = not self.budget_packets or self.budget_bytes < length
        if required:
            self.reload_budgets()
        else:
            self.budget_packets -= 1
            self.budget_bytes -= length
        if message.sequence:
            flags = _SENT_AGAIN
        else:
            flags = _ACK_REQUIRED if required or message.ack_required else 0
            message.sequence = self.next_tx
            self.next_tx += 1
        if flags & _ACK_REQUIRED:
            self.required = message.sequence
            self.owner.node.counters.send_ack_required += 1
        if type(message) is not Outgoing and isinstance(message, RemoteOutgoing):
            several = self.owner.node.profile.several_extensions
            if several and message.operation.direction is not None:
                flags |= _SEVERAL
        return flags

    def _transmit(self, link: IbLink, ring: int, out: list[Work]) -> bool:
        """Post what is left of a message; False where it does not all fit now."""
        going = link.transmission
        assert going is not None
        counters = self.owner.node.counters
        while going.work:
            if len(link.posted) >= ring:
                counters.ib_tx_ring_full += 1
                return False
            work = going.work.popleft()
            link.posted.append(work.id)
            out.append(work)
        message = going.message
        if isinstance(message, RemoteOutgoing):
            if message.operation.unfinished:
                return False
            if message.is_silent:
                return True
        length = len(going.payload)
        at = max(going.at, 0)
        wanted = max(1, -(-(length - at) // FRAGMENT_BYTES))
        fits = min(wanted, ring - len(link.posted))
        if not fits:
            counters.ib_tx_ring_full += 1
            return False
        grant = 0
        if link.flow is not None:
            allowed, grant = link.flow.grab(fits)
            if not allowed:
                counters.ib_tx_throttle += 1
                return False
            stalled = allowed < fits
            fits = allowed
        else:
            stalled = False
        if going.at < 0:
            going.header = self._header(link, going, 0)
            if link.ack_wanted:
                link.ack_wanted = False
                counters.ib_ack_send_piggybacked += 1
        header = self._header(link, going, grant) if grant else going.header
        counters.ib_tx_credit_updates += bool(grant)
        for number in range(fits):
            end = at + FRAGMENT_BYTES
            last = end >= length
            solicited = last or (stalled and number == fits - 1)
            out.append(self._send(link, header + going.payload[at:end], solicited, ring, last and going.fence))
            at, header = end, going.header
        going.at = at
        return fits == wanted

    def _send(self, link: IbLink, frame: bytes, solicited: bool, ring: int, fence: bool = False) -> Send:
        """A frame that takes a place in the ring. One in so many tells of its end, and the last one that fits."""
        posted = link.posted
        link.next_id = number = link.next_id + 1
        posted.append(number)
        signaled = not number % link.signal_every or len(posted) >= ring
        return tuple.__new__(Send, (number, frame, solicited, fence, signaled))

    def _header(self, link: IbLink, going: Transmission, grant: int) -> bytes:
        message = going.message
        if message is None:
            return pack_frame_header(0, link.ack, BITMAP_BYTES, 0, 0, going.flags, grant)
        # Every fragment acknowledges what was received when the first one was made.
        ack = link.ack if going.at < 0 else going.ack
        going.ack = link.ack_told = ack
        return pack_frame_header(
            message.sequence, ack, len(going.payload), message.sport, message.dport, going.flags, grant, going.exthdr
        )

    def _acknowledge(self, link: IbLink, out: list[Work]) -> None:
        """Post an ack-only frame, where none is in flight (§7.5; kernel ``rds_ib_attempt_ack``)."""
        counters = self.owner.node.counters
        if link.ack_in_flight:
            counters.ib_ack_send_delayed += 1
            return
        grant = 0
        if link.flow is not None:
            allowed, grant = link.flow.grab(1)
            if not allowed:
                counters.ib_tx_throttle += 1
                return
        link.ack_wanted = False
        link.ack_told = link.ack
        link.ack_in_flight = True
        link.ack_id = link.new_id()
        counters.ib_ack_sent += 1
        out.append(Send(link.ack_id, pack_frame_header(0, link.ack, 0, 0, 0, 0, grant), True, False, True))

    def completed(self, link: IbLink, work: int, status: int, original: int, now: float) -> None:
        """A work request has ended, and so has what was posted before it."""
        counters = self.owner.node.counters
        counters.ib_tx_cq_event += 1
        posted = link.posted
        while posted and posted[0] <= work:
            posted.popleft()
        if work == link.ack_id:
            link.ack_in_flight = False
            counters.ib_ack_send_failure += bool(status)
            if self.closing is not None and not link.ack_wanted:
                self.close(now)
        else:
            operation = link.operations.pop(work, None)
            if operation is not None:
                operation.done(status, original)
                for more in operation.more(link.new_id):
                    link.operations[more.id] = operation
                    assert link.transmission is not None
                    link.transmission.work.append(more)
                if operation.ended and link.silent:
                    self._silent_done(link)
        if status not in _NO_FAILURE and not link.deaf:
            self.drop(DropReason.WORK_FAILED, WorkStatus.words(status), now)
        elif link.transmission is not None or link.ack_wanted or self.queue or self.control or self.retry:
            self.wake()

    def _silent_done(self, link: IbLink) -> None:
        for message in [each for each in link.silent if isinstance(each, RemoteOutgoing) and each.operation.ended]:
            del link.silent[message]
            self.owner.left(message, SendStatus.ACKNOWLEDGED)

    def say_goodbye(self, now: float) -> None:
        """Tell the peer what was received, so that it sends nothing to who comes after us; then close."""
        link = self.link
        if self.state is not PathState.UP or link is None or link.ack == link.ack_told:
            self.close(now)
        else:
            link.ack_wanted = True
            self.wake()
            self.closing = self.owner.node.timers.at(now + GOODBYE_S, self.close)

    def close(self, now: float) -> None:
        """Give up the connection for good."""
        if self.closing is not None:
            self.closing.cancel()
            self.closing = None
        self.drop(DropReason.CLOSED, "", now)

    def acked(self, sequence: int) -> None:
        """The peer has received all messages up to this one (kernel ``rds_send_drop_acked``)."""
        done = 0
        for messages in (self.unacked, self.retry):
            while messages and messages[0].sequence <= sequence:
                self.owner.left(messages.popleft(), SendStatus.ACKNOWLEDGED)
                done += 1
        self.owner.node.counters.send_drop_acked += done
