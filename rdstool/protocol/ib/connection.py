"""A connection over InfiniBand: an address pair and type of service, one lane (kernel ``ib_cm.c``, protocol.md §7).

- Either side connects when it has something to send. Crossing requests refuse each other, and both try again after a
  random time (§7.3); a request that comes while a connection is up ends that one, and the peer asks again.
- Private data tells version, type of service, last sequence received and credits (§7.1, §7.2).
- Numbers and queues outlive connections, acknowledgements and credits do not (§7.8).

Where this differs from the kernel:

- A connection that is lost is made anew by who waits for something; the kernel's both sides try.
- Atomics that may have been done are not done again, as RDMA; the kernel sends their messages once more.
"""

from __future__ import annotations

from collections.abc import Sequence

from dissectors.wire.congestion import BITMAP_BYTES
from dissectors.wire.extensions import Rdma, RdmaBytes, RdmaDest, parse_extensions
from dissectors.wire.rds import HEADER_BYTES, PING_PORT, PROBE_PORT, Flags
from rdstool.protocol import events
from rdstool.protocol.base_connection import BaseConnection
from rdstool.protocol.counters import Counters
from rdstool.protocol.errors import RemoteProtocolError
from rdstool.protocol.framing import NO_EXTENSIONS
from rdstool.protocol.host import Host
from rdstool.protocol.ib.flow import FlowControl
from rdstool.protocol.ib.header import FrameHeader, checksum_fits, read_frame_header
from rdstool.protocol.ib.lane import IbLane
from rdstool.protocol.ib.link import IbLink
from rdstool.protocol.ib.memory import make_cookie
from rdstool.protocol.ib.operations import RemoteOutgoing
from rdstool.protocol.ib.private import COMPATIBLE, Greeting, Version, agree_on_version
from rdstool.protocol.ib.work import Work
from rdstool.protocol.inbox import Inbox
from rdstool.protocol.link import BaseLink
from rdstool.protocol.outgoing import Outgoing
from rdstool.protocol.pings import answer_ping
from rdstool.protocol.reasons import DropReason, RefuseReason, SendStatus
from rdstool.protocol.receive_rule import is_duplicate
from rdstool.protocol.states import PathInput, PathState
from rdstool.protocol.timers import Timer

_CONGESTION = int(Flags.CONG_BITMAP)
_ACK_REQUIRED = int(Flags.ACK_REQUIRED)
_RETRANSMITTED = int(Flags.RETRANSMITTED)
HIGHEST_PORT = 65_535
ASK_AGAIN_S = 1.0
"""How often a peer is asked whether it is still there, while somebody waits for it."""


class IbConnection(BaseConnection):
    """What this node shares with one peer address, for one type of service, over InfiniBand."""

    __slots__ = ("ask_again", "lane", "nudge_port", "version", "watch")

    transport = "ib"

    def __init__(self, node: Host, local: str, peer: str, tos: int) -> None:
        super().__init__(node, local, peer, tos)
        self.agreed = True
        self.lane = IbLane(self)
        self.version: Version = COMPATIBLE
        self.ask_again = 0.0
        """When the peer may be asked again whether it is still there."""
        self.watch: Timer | None = None
        """Stands while somebody waits for acknowledgements."""
        self.nudge_port = 0
        """Source of the last ping that asked for an acknowledgement."""

    def lanes(self) -> tuple[IbLane]:
        """The connection's one lane."""
        return (self.lane,)

    # ---- Sending

    def send(self, message: Outgoing, _port_hash: int, now: float) -> None:
        """Queue a socket's message."""
        socket, lane = message.socket, self.lane
        if socket is not None and 2 * socket.send_bytes >= socket.sndbuf:
            message.ack_required = True
        lane.queue.append(message)
        link = lane.link
        if link is not None and link.ready:  # nearly always, when there is much to send
            return
        if lane.state is PathState.UP:
            lane.wake()
        else:
            self.prepare(now)

    def prepare(self, now: float) -> None:
        """Connect, where no attempt is under way or to come."""
        lane = self.lane
        if lane.state is PathState.DOWN and lane.retry_timer is None:
            self._dial(now)

    def hasten(self, now: float) -> None:
        """Somebody waits until all that was sent is acknowledged.

        A peer may keep the acknowledgement of the last few messages for ever (§7.5). A ping that asks for one, behind
        them, ends that; its pong is of no interest.
        """
        lane = self.lane
        last = lane.queue[-1] if lane.queue else lane.unacked[-1] if lane.unacked else None
        if last is not None and self.watch is None:
            if not (last.ack_required or 0 < last.sequence <= lane.required):
                self._nudge(now)
            self.watch = self.node.timers.at(now + ASK_AGAIN_S, self._watched)

    def _watched(self, now: float) -> None:
        """Ask again: a peer that was restarted never answers, and nothing else shows that on an idle connection."""
        self.watch = None
        if self.lane.unacked and self.lane.state is PathState.UP:
            self._nudge(now)
        if self.lane.waiting:
            self.watch = self.node.timers.at(now + ASK_AGAIN_S, self._watched)

    def miss_map(self, now: float) -> None:
        """A sender is refused by the peer's map. A peer that was restarted would not send another one.

        Nothing else would show that: an idle connection is not watched. (A kernel's sender waits for ever then.)
        """
        super().miss_map(now)
        if self.lane.state is PathState.UP and now >= self.ask_again:
            self.map_missed = True
            self.ask_again = now + ASK_AGAIN_S
            self._nudge(now)

    def _nudge(self, now: float) -> None:
        """Send a ping that asks for an acknowledgement."""
        self.nudge_port = next(port for port in range(HIGHEST_PORT, PROBE_PORT, -1) if port not in self.ports)
        nudge = Outgoing(None, self.nudge_port, PING_PORT)
        nudge.ack_required = True
        self.node.counters.send_queued += 1
        self.send(nudge, 0, now)

    def map_changed(self) -> None:
        """Our map has changed: the peer is to learn of it."""
        self.node.counters.cong_update_queued += 1
        if self.lane.state is PathState.UP:
            self.lane.map_pending = True
            self.lane.wake()

    def left(self, message: Outgoing, status: SendStatus) -> None:
        """A message is acknowledged, or given up. With an operation, it is that one's end that is told."""
        socket = message.socket
        if isinstance(message, RemoteOutgoing):
            if status:
                message.operation.finish(status)
            if socket is not None:
                socket.free_room(len(message.payload))
        elif socket is not None:
            socket.message_left(message, status)

    # ---- Work

    def receives_posted(self, link: IbLink, receives: int) -> None:
        """``receives`` more were posted for frames: the peer is to know of them, where it counts them."""
        if link.flow is None:
            link.reposted += receives
            return
        link.ack_wanted |= link.flow.posted(receives)
        if link.ack_wanted or link.transmission is not None:
            # A frame that grants credits may use the last one.
            self.lane.wake()

    def work_to_post(self, link: IbLink) -> list[Work]:
        """Work requests to post, in this order."""
        lane = self.lane
        return lane.work_to_post() if lane.link is link else []

    def work_completed(self, link: IbLink, work: int, status: int, original: int, now: float) -> None:
        """A work request has ended."""
        lane = self.lane
        if lane.link is link:
            lane.completed(link, work, status, original, now)

    # ---- Receiving (kernel ``rds_ib_process_recv``, ``ib_recv.c``)

    def frames_received(self, link: IbLink, frames: Sequence[bytes], now: float) -> None:
        """Take what SENDs brought. What is wrong with one ends the connection, and nothing else."""
        lane, counters = self.lane, self.node.counters
        counters.ib_rx_cq_event += 1
        counters.ib_rx_total_frags += len(frames)
        link.receives_due += len(frames)
        unacked, assembler = lane.unacked, link.assembler
        try:
            for frame in frames:
                if link.deaf or lane.link is not link:
                    return
                header = _checked(frame, counters)
                _, ack, _, sport, dport, _, credit, _, _ = header
                if credit and link.flow is not None:
                    link.flow.granted(credit)
                    counters.ib_rx_credit_updates += 1
                    lane.wake()
                if (unacked and unacked[0].sequence <= ack) or lane.retry:
                    lane.acked(ack)
                if not sport and not dport and len(frame) == HEADER_BYTES:
                    counters.ib_ack_received += 1
                    continue
                message = assembler.add(header, frame, now)
                if message is not None:
                    self._take(link, *message, now)
            unfinished = self.node.unfinished
            if assembler.held or lane in unfinished:
                unfinished.note(lane, assembler.held, now)
        except RemoteProtocolError as error:
            lane.drop(error.reason, str(error), now, abort=True)
        if link.receives_due >= self.node.settings.ib_max_recv_wr:
            counters.ib_rx_ring_empty += 1

    def _take(self, link: IbLink, header: FrameHeader, payload: bytes, now: float) -> None:
        """A message is complete."""
        lane, node = self.lane, self.node
        counters = node.counters
        # The peer does speak RDS: the next loss is answered at once.
        lane.ceiling_ms = 0
        counters.ib_rx_total_incs += 1
        sequence, _, _, sport, dport, flags, _, _, exthdr = header
        if flags == _CONGESTION:
            self._take_map(payload)
            return
        link.ack = sequence
        if flags & _ACK_REQUIRED:
            counters.recv_ack_required += 1
            link.ack_wanted = True
            if not link.ready:
                lane.wake()
        if sequence < lane.next_rx and is_duplicate(sequence, bool(flags & _RETRANSMITTED), lane.next_rx):
            counters.recv_drop_old_seq += 1
            return
        lane.next_rx = sequence + 1
        if dport == PING_PORT and node.settings.ping_enable:
            if sport:
                answer_ping(self, lane, sport, NO_EXTENSIONS, now)
            return
        inbox = self.ports.get(dport)
        if inbox is None:
            if not sport and dport == self.nudge_port:
                return
            counters.recv_drop_no_sock += 1
            return
        cookie = _take_extensions(inbox, exthdr) if exthdr != NO_EXTENSIONS else None
        if not inbox.deliver(payload, self.peer, sport, link.assembler.began, now, cookie):
            counters.dropped_overrun += 1
            lane.drop(DropReason.RECEIVE_OVERRUN, f"socket {self.local}:{dport}", now, abort=True)

    def _take_map(self, payload: bytes) -> None:
        """A congestion map; who waits is told of ports that are free again (kernel ``rds_ib_cong_recv``)."""
        if len(payload) != BITMAP_BYTES:
            return
        node = self.node
        node.counters.cong_update_received += 1
        self.map_missed = False
        freed = self.peer_map.freed_by(payload)
        self.peer_map.update(payload)
        node.congestion_changed(self.local, self.peer, freed)

    # ---- Connecting

    def _dial(self, now: float) -> None:
        """Ask the transport for a connection."""
        lane, link = self.lane, self.new_link(incoming=False)
        lane.dial(link, now)
        self.node.emit(
            events.IbConnectWanted(link, self.local, self.peer, self.tos, lane.attempt, self.greeting(COMPATIBLE))
        )

    def new_link(self, *, incoming: bool) -> IbLink:
        """A link for one more attempt or request."""
        self.links += 1
        return IbLink(self, self.links, self.node.settings, incoming=incoming)

    def reply(self) -> bytes:
        """Private data of our REP."""
        return self.greeting(self.version)

    def greeting(self, version: Version) -> bytes:
        """Private data of our REQ or REP."""
        settings = self.node.settings
        told = self.lane.next_rx - 1 if settings.ib_tell_ack_seq and self.lane.next_rx else 0
        credit = settings.ib_max_recv_wr if settings.ib_flow_control else 0
        return Greeting(self.local, self.peer, version, tos=self.tos, ack_seq=told, credit=credit).pack()

    def requested(self, said: Greeting, now: float) -> IbLink | RefuseReason:
        """The peer asks for a connection (§7.2, §7.3; kernel ``rds_ib_cm_handle_connect``)."""
        lane, counters = self.lane, self.node.counters
        if lane.state is PathState.CONNECTING:
            counters.ib_connect_raced += 1
            return RefuseReason.CROSSED
        if lane.state is PathState.UP:
            counters.ib_listen_closed_stale += 1
            lane.drop(DropReason.ASKED_ANEW, "", now)
            return RefuseReason.STILL_UP
        if lane.state is not PathState.DOWN:
            return RefuseReason.STILL_UP
        version = agree_on_version(said)
        assert version is not None, "the port has refused it"
        self.version = version
        link = self.new_link(incoming=True)
        link.greeting = said
        lane.take(link, now)
        return link

    def established(self, link: IbLink, said: Greeting | None, now: float) -> None:
        """A connection is there; ``said`` is what the REP told, where we have asked."""
        lane = self.lane
        if lane.link is not link or lane.state is not PathState.CONNECTING:
            return
        if not link.incoming:
            link.greeting = said
            if said is None or (said.version < COMPATIBLE and said.version[0]):
                lane.drop(DropReason.VERSION, "" if said is None else f"{said.version[0]}.{said.version[1]}", now)
                return
            self.version = said.version
        greeting = link.greeting
        if greeting is not None:
            if greeting.credit and self.node.settings.ib_flow_control:
                link.flow = FlowControl(greeting.credit, self.node.settings.ib_max_recv_wr)
                link.flow.posted(link.reposted)
            if 0 < greeting.ack_seq < lane.next_tx:
                lane.acked(greeting.ack_seq)
        lane.step(PathInput.ESTABLISHED, now)

    def went_down(self, now: float) -> None:
        """The lane may be connected again; who waits for something does so."""
        lane = self.lane
        if self.node.closed or not self.needed:
            return
        lane.retry_timer = self.node.timers.at(now + lane.delay_s(), self._retry)

    def _retry(self, now: float) -> None:
        self.lane.retry_timer = None
        if self.needed:
            self.prepare(now)

    def lost(self, link: BaseLink, detail: str, now: float) -> None:
        """The transport has no more of a link."""
        if self.lane.link is link:
            self.lane.lost(detail, now)

    def close(self, now: float) -> None:
        """Give up the connection."""
        if self.watch is not None:
            self.watch.cancel()
        self.lane.cancel_retry()
        self.lane.say_goodbye(now)


def _checked(frame: bytes, counters: Counters) -> FrameHeader:
    if len(frame) < HEADER_BYTES:
        raise RemoteProtocolError(f"a frame of {len(frame)} bytes", DropReason.BAD_FRAGMENT)
    header = read_frame_header(frame)
    if not checksum_fits(header, frame):
        counters.recv_drop_bad_checksum += 1
        raise RemoteProtocolError(f"checksum {header.checksum:#06x}", DropReason.BAD_CHECKSUM)
    return header


def _take_extensions(inbox: Inbox, exthdr: bytes) -> int | None:
    """Read what a message says of RDMA; returns the cookie of the memory that it offers."""
    cookie = None
    for item in parse_extensions(exthdr).items:
        if isinstance(item, Rdma) and inbox.memory is not None:
            inbox.memory.used(item.rkey)
        elif isinstance(item, RdmaBytes):
            inbox.counters.recv_rdma_bytes += item.length
        elif isinstance(item, RdmaDest):
            cookie = make_cookie(item.rkey, item.offset)
    return cookie
