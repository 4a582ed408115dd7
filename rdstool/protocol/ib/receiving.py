"""What happens to frames that come in (kernel ``rds_ib_process_recv``, ``ib_recv.c``)."""

from __future__ import annotations

from collections.abc import Sequence

from dissectors.wire.congestion import BITMAP_BYTES
from dissectors.wire.extensions import Rdma, RdmaBytes, RdmaDest, parse_extensions
from dissectors.wire.rds import HEADER_BYTES, PING_PORT, Flags
from rdstool.protocol.errors import RemoteProtocolError
from rdstool.protocol.framing import NO_EXTENSIONS
from rdstool.protocol.ib.connection import IbConnection
from rdstool.protocol.ib.header import FrameHeader, checksum_fits, read_frame_header
from rdstool.protocol.ib.link import IbLink
from rdstool.protocol.ib.memory import make_cookie
from rdstool.protocol.inbox import Inbox
from rdstool.protocol.pings import answer_ping
from rdstool.protocol.reasons import DropReason
from rdstool.protocol.receive_rule import is_duplicate

_CONGESTION = int(Flags.CONG_BITMAP)
_ACK_REQUIRED = int(Flags.ACK_REQUIRED)
_RETRANSMITTED = int(Flags.RETRANSMITTED)


def receive_frames(link: IbLink, frames: Sequence[bytes], now: float) -> None:
    """Take what SENDs brought. What is wrong with one ends the connection, and nothing else."""
    connection = link.connection
    lane, counters = connection.lane, connection.node.counters
    counters.ib_rx_cq_event += 1
    counters.ib_rx_total_frags += len(frames)
    link.receives_due += len(frames)
    unacked, assembler = lane.unacked, link.assembler
    try:
        for frame in frames:
            if link.deaf or lane.link is not link:
                return
            header = _checked(connection, frame)
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
                _take(link, *message, now)
    except RemoteProtocolError as error:
        lane.drop(error.reason, str(error), now, abort=True)
    if link.receives_due >= connection.node.settings.ib_max_recv_wr:
        counters.ib_rx_ring_empty += 1


def _checked(connection: IbConnection, frame: bytes) -> FrameHeader:
    if len(frame) < HEADER_BYTES:
        raise RemoteProtocolError(f"a frame of {len(frame)} bytes", DropReason.BAD_FRAGMENT)
    header = read_frame_header(frame)
    if not checksum_fits(header, frame):
        connection.node.counters.recv_drop_bad_checksum += 1
        raise RemoteProtocolError(f"checksum {header.checksum:#06x}", DropReason.BAD_CHECKSUM)
    return header


def _take(link: IbLink, header: FrameHeader, payload: bytes, now: float) -> None:
    """A message is complete."""
    connection = link.connection
    lane, node = connection.lane, connection.node
    counters = node.counters
    # The peer does speak RDS: the next loss is answered at once.
    lane.ceiling_ms = 0
    counters.ib_rx_total_incs += 1
    sequence, _, _, sport, dport, flags, _, _, exthdr = header
    if flags == _CONGESTION:
        _take_map(connection, payload)
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
            answer_ping(connection, lane, sport, NO_EXTENSIONS, now)
        return
    socket = connection.ports.get(dport)
    if socket is None:
        if not sport and dport == connection.nudge_port:
            return
        counters.recv_drop_no_sock += 1
        return
    cookie = _take_extensions(socket, exthdr) if exthdr != NO_EXTENSIONS else None
    if not socket.deliver(payload, connection.peer, sport, link.assembler.began, now, cookie):
        counters.dropped_overrun += 1
        lane.drop(DropReason.RECEIVE_OVERRUN, f"socket {connection.local}:{dport}", now, abort=True)


def _take_extensions(inbox: Inbox, exthdr: bytes) -> int | None:
    """What a message says of RDMA; gives the cookie of the memory that it offers."""
    cookie = None
    for item in parse_extensions(exthdr).items:
        if isinstance(item, Rdma) and inbox.memory is not None:
            inbox.memory.used(item.rkey)
        elif isinstance(item, RdmaBytes):
            inbox.counters.recv_rdma_bytes += item.length
        elif isinstance(item, RdmaDest):
            cookie = make_cookie(item.rkey, item.offset)
    return cookie


def _take_map(connection: IbConnection, payload: bytes) -> None:
    """A congestion map; who waits is told of ports that are free again (kernel ``rds_ib_cong_recv``)."""
    if len(payload) != BITMAP_BYTES:
        return
    node = connection.node
    node.counters.cong_update_received += 1
    connection.map_missed = False
    freed = connection.peer_map.freed_by(payload)
    connection.peer_map.update(payload)
    node.congestion_changed(connection.local, connection.peer, freed)
