"""RDS sockets: what an application does with a node (protocol.md §9; kernel ``af_rds.c``, ``bind.c``, ``send.c``).

No call blocks. One that would raises ``WouldBlock``, which says what to wait for; timeouts are the caller's.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Sequence
from enum import IntFlag
from typing import TYPE_CHECKING, NamedTuple

from dissectors.wire.rds import MAX_MESSAGE_BYTES, PROBE_PORT
from rdstool.protocol import events
from rdstool.protocol.addresses import canonical, is_host, same_family
from rdstool.protocol.congestion import crossing, monitor_bit
from rdstool.protocol.control import RdmaDest, SendControl
from rdstool.protocol.errors import SocketError, Wait, WouldBlock
from rdstool.protocol.ib.memory import Memory, RdmaFlags, SocketMemory
from rdstool.protocol.ib.requests import check, make_message
from rdstool.protocol.kinds import Transport
from rdstool.protocol.outgoing import Outgoing
from rdstool.protocol.pathhash import jhash_1word
from rdstool.protocol.reasons import SendStatus

if TYPE_CHECKING:
    from rdstool.protocol.base_connection import BaseConnection
    from rdstool.protocol.link import Link
    from rdstool.protocol.loopback import LoopbackConnection
    from rdstool.protocol.node import Node

# Linux's numbers, plain integers because sendmsg tests them for every message.
MSG_OOB, MSG_PEEK, MSG_TRUNC, MSG_DONTWAIT = 0x1, 0x2, 0x20, 0x40

TRANSPORT_NONE = -1
"""``RDS_TRANS_NONE``: what an unbound socket answers."""
LATENCY_POINTS = 3
"""Points of the receive path that can be traced (``RDS_MSG_RX_DGRAM_TRACE_MAX``)."""
_PORTS = 65_536
_FIRST_PORT = 2
_NS = 1_000_000_000


class Poll(IntFlag):
    """What ``poll`` answers, with Linux's numbers."""

    IN = 0x1
    OUT = 0x4
    WRBAND = 0x200


class CongestionUpdate(NamedTuple):
    """RDS_CMSG_CONG_UPDATE: destinations to which a send failed may be free again."""

    mask: int
    """Bit ``port % 64`` for each."""


class Notification(NamedTuple):
    """RDS_CMSG_RDMA_STATUS: how a message that was sent with a token ended."""

    token: int
    status: SendStatus


class Latency(NamedTuple):
    """RDS_CMSG_RXPATH_LATENCY: nanoseconds on the way from the wire to the reader."""

    points: tuple[int, ...]
    """0: header to reassembly, 1: reassembly to socket, 2: socket to reader."""
    nanoseconds: tuple[int, ...]


class ReceivedMessage(NamedTuple):
    """What ``recvmsg`` gives. ``address`` is empty where only control messages are delivered."""

    data: bytes
    address: str
    """The sender's address."""
    port: int
    """The sender's port; 0 for a pong."""
    length: int
    """What recvmsg(2) would return: with MSG_TRUNC the full length of the message, else that of ``data``."""
    flags: int = 0
    """MSG_TRUNC where part of the message was discarded."""
    control: tuple[CongestionUpdate | Notification | Latency | RdmaDest, ...] = ()


class Socket:
    """One AF_RDS socket. Made by ``Node.socket``."""

    __slots__ = (
        "_latency",
        "_map_updates",
        "_notifications",
        "_readable_told",
        "_routes",
        "_told_drained",
        "address",
        "armed",
        "closed",
        "congested",
        "hash",
        "held_up",
        "local_map",
        "memory",
        "monitor",
        "node",
        "outstanding",
        "peer",
        "port",
        "rcvbuf",
        "receive_bytes",
        "received",
        "recverr",
        "send_bytes",
        "sndbuf",
        "tos",
        "transport",
        "updates",
    )

    def __init__(self, node: Node) -> None:
        self.node = node
        self.address = ""
        """Bound address; empty while unbound."""
        self.port = 0
        self.hash = 0
        """Hash of the port, which chooses the path (§5.4)."""
        self.peer: tuple[str, int] | None = None
        """Default destination."""
        self.sndbuf = node.settings.sndbuf
        """Payload bytes that may be queued or unacknowledged before sends wait."""
        self.rcvbuf = node.settings.rcvbuf
        """Payload bytes that may wait to be read before the port is congested."""
        self.send_bytes = 0
        self.outstanding = 0
        """Messages queued or unacknowledged."""
        self.received: deque[tuple[bytes, str, int, float, float, int | None]] = deque()
        """Messages to read: payload, sender's address and port, when its header and when all of it was there; the
        cookie of the memory that it offers."""
        self.receive_bytes = 0
        self.held_up: list[Link] = []
        """TCP connections that are not read on until this socket has room."""
        self.congested = False
        """This port is marked in our congestion map."""
        self.tos = 0
        self.transport: Transport | None = None
        self.monitor = False
        """RDS_CONG_MONITOR."""
        self.armed = 0
        """Bits of destinations to which a non-blocking send failed."""
        self.updates = 0
        """Bits that changed and are to be reported."""
        self.recverr = False
        """RDS_RECVERR: messages that are given up are reported even where nobody asked."""
        self.memory: SocketMemory | None = None
        """What it offers for RDMA; None where it never did."""
        self.closed = False
        self._latency: tuple[int, ...] = ()
        self._notifications: deque[Notification] = deque()
        self._routes: dict[str, BaseConnection | LoopbackConnection] = {}
        self._map_updates = node.map_updates
        self._readable_told = False
        self._told_drained = True

    def move(self, node: Node) -> None:
        """Belong to another node from now on; for ``Node.adopt``."""
        self.node.monitors.pop(self, None)
        self.node = node
        self._map_updates = node.map_updates
        if self.monitor:
            node.monitors[self] = None

    # ---- Names

    def bind(self, address: str, port: int = 0) -> None:
        """Take an address of the node and a port; port 0 takes a free one.

        Raises ``SocketError``: EINVAL, EADDRINUSE, EADDRNOTAVAIL, or ENOPROTOOPT where the transport that was chosen
        before does not own the address.
        """
        address = _host(address)
        if self.closed or self.address or not 0 <= port < _PORTS or port == PROBE_PORT:
            why = "port 1 belongs to the handshake" if port == PROBE_PORT else "the socket is bound or closed already"
            raise SocketError(errno.EINVAL, f"cannot bind to {address}:{port}: {why}")
        ports = self.node.ports.get(address)
        if ports is None:
            number = errno.EADDRNOTAVAIL if self.transport is None else errno.ENOPROTOOPT
            raise SocketError(number, f"cannot bind to {address}: it is not an address of this node")
        if port in ports:
            raise SocketError(errno.EADDRINUSE, f"cannot bind to {address}:{port}: another socket is")
        self.port = port or self._free_port(ports)
        ports[self.port] = self
        self.address = address
        self.transport = self.node.transport
        self.local_map = self.node.maps[address]
        swapped = (self.port & 0xFF) << 8 | self.port >> 8
        self.hash = jhash_1word(swapped if self.node.profile.swaps_port else self.port)

    def _free_port(self, ports: dict[int, Socket]) -> int:
        span = _PORTS - _FIRST_PORT
        start = int(self.node.random.random() * span)
        for step in range(span):
            port = _FIRST_PORT + (start + step) % span
            if port not in ports:
                return port
        raise SocketError(errno.EADDRINUSE, "cannot bind: all ports of the address are taken")

    def connect(self, address: str, port: int) -> None:
        """Set the default destination; nothing is sent. Raises ``SocketError``: EDESTADDRREQ, EINVAL."""
        destination = _address(address)
        if destination in {"0.0.0.0", "::"}:  # noqa: S104
            raise SocketError(errno.EDESTADDRREQ, "cannot connect to an unspecified address")
        self.peer = _host(destination), _port(port)

    # ---- Sending

    def sendmsg(
        self,
        data: bytes | bytearray | memoryview,
        address: str | None = None,
        port: int = 0,
        *,
        now: float,
        flags: int = 0,
        token: int | None = None,
        control: Sequence[SendControl] = (),
    ) -> int:
        """Queue one message; gives its length. ``port`` 0 pings. With ``token``, its end is reported.

        ``control`` has RDMA or an atomic to be done first, or memory to offer (InfiniBand).

        Raises ``SocketError`` as sendmsg(2) in this order (§9.4): EOPNOTSUPP, EINVAL, ENOTCONN, EOPNOTSUPP, EMSGSIZE;
        then ``WouldBlock``: ENOBUFS where the destination is congested, EAGAIN where the send buffer is full.
        """
        if flags & ~MSG_DONTWAIT:
            raise SocketError(errno.EOPNOTSUPP, f"sendmsg does not take flags {flags:#x}")
        if address is None:
            if self.peer is None:
                raise SocketError(errno.ENOTCONN, "sendmsg needs a destination, or a connected socket")
            address, port = self.peer
        connection = self._routes.get(address) or self._route(address, port)
        node, length = self.node, len(data)
        if length > self.sndbuf or length > MAX_MESSAGE_BYTES:
            limit = min(self.sndbuf, MAX_MESSAGE_BYTES)
            raise SocketError(errno.EMSGSIZE, f"a message of {length} bytes is longer than {limit}")
        if control:
            check(self, control, connection.transport)
        if connection.peer_map.bits is not None and connection.congested(port):
            self._congested(connection, port, flags, now)
        if self.send_bytes >= self.sndbuf:
            node.counters.send_queue_full += 1
            raise WouldBlock(errno.EAGAIN, f"the send buffer holds {self.send_bytes} bytes", Wait.SEND_ROOM)
        if node.profile.waits_for_paths and not connection.agreed and not flags & MSG_DONTWAIT:
            self._wait_for_paths(connection, now)
        if now != node.now:
            node.check_clock(now)
        payload = data if type(data) is bytes else bytes(data)
        if control:
            message = make_message(self, port, payload, control, token)
        else:
            message = Outgoing(self, self.port, port, payload, token)
        self.send_bytes += length
        self.outstanding += 1
        node.counters.send_queued += 1
        connection.send(message, self.hash, now)
        return length

    def _route(self, address: str, port: int) -> BaseConnection | LoopbackConnection:
        destination = _host(address)
        _port(port)
        if not self.address:
            raise SocketError(errno.ENOTCONN, "sendmsg needs a bound socket")
        if not same_family(self.address, destination):
            raise SocketError(errno.EOPNOTSUPP, f"cannot send from {self.address} to {destination}: another family")
        connection = self.node.connection(self.address, destination, self.tos)
        self._routes[destination] = connection
        return connection

    def forget_route(self, address: str) -> None:
        """The node knows this peer no more: the next message to it finds the way anew."""
        self._routes.pop(address, None)

    def _congested(self, connection: BaseConnection | LoopbackConnection, port: int, flags: int, now: float) -> None:
        counters = self.node.counters
        connection.miss_map(now)
        if flags & MSG_DONTWAIT:
            counters.cong_send_error += 1
            if self.monitor:
                self.armed |= monitor_bit(port)
        else:
            counters.cong_send_blocked += 1
        raise WouldBlock(errno.ENOBUFS, f"port {port} of the destination is congested", Wait.CONGESTION)

    def _wait_for_paths(self, connection: BaseConnection | LoopbackConnection, now: float) -> None:
        if self.hash & (self.node.settings.paths - 1):
            connection.prepare(now)
            raise WouldBlock(errno.EAGAIN, "the peer has not told its number of paths", Wait.HANDSHAKE)

    def message_left(self, message: Outgoing, status: SendStatus) -> None:
        """One of our messages is acknowledged or given up: its room is free."""
        token = message.token
        if token is not None or (self.recverr and status):
            self.notify(token or 0, status)
        self.free_room(message)

    def notify(self, token: int, status: SendStatus) -> None:
        """Report how something that was sent ended (RDS_CMSG_RDMA_STATUS)."""
        self._notifications.append(Notification(token, status))
        self.node.emit(events.SendFinished(self, token, status))
        self._tell_readable()

    def free_room(self, message: Outgoing) -> None:
        """A message takes no more room in the send buffer."""
        before = self.send_bytes
        self.send_bytes = after = before - len(message.payload)
        self.outstanding -= 1
        drained = not self.outstanding and not self._told_drained
        if drained or before >= self.sndbuf > after:
            self._told_drained = self._told_drained or drained
            self.node.emit(events.SocketWritable(self, not self.outstanding))

    def drained(self) -> bool:
        """Nothing is queued or unacknowledged. If not, ``SocketWritable`` with ``drained`` will tell."""
        self._told_drained = not self.outstanding
        if self.outstanding:
            for connection in self._routes.values():
                connection.hasten(self.node.now)
        return self._told_drained

    def cancel_sent_to(self, address: str, port: int) -> int:
        """RDS_CANCEL_SENT_TO: forget what is queued or unacknowledged to one destination; gives how many messages.

        What TCP has taken already may still arrive. Raises ``SocketError``: EINVAL, ENOTCONN where unbound.
        """
        destination = _host(address)
        if not self.address:
            raise SocketError(errno.ENOTCONN, "cancel needs a bound socket")
        connection = self._routes.get(destination)
        return connection.cancel(self, _port(port)) if connection is not None else 0

    # ---- Receiving

    def deliver(
        self,
        payload: bytes,
        address: str,
        port: int,
        began: float,
        now: float,
        cookie: int | None = None,
        *,
        at_any_rate: bool = False,
    ) -> bool:
        """Queue a message that has come, with the memory that it offers.

        False where the sender went on too far beyond the receive buffer, unless it is to be taken ``at_any_rate``.
        """
        counters = self.node.counters
        length = len(payload)
        queued = self.receive_bytes + length
        if queued > self.rcvbuf + self.node.settings.limits.overrun_bytes and self.receive_bytes and not at_any_rate:
            return False
        self.received.append((payload, address, port, began, now, cookie))
        counters.recv_queued += 1
        if length:
            counters.recv_bytes_added_to_sock += length
            self.receive_bytes = queued
            if queued > self.rcvbuf and not self.congested:
                self._mark()
        if not self._readable_told:
            self._readable_told = True
            self.node.emit(events.SocketReadable(self))
        return True

    def recvmsg(self, size: int | None = None, *, now: float, flags: int = 0) -> ReceivedMessage:
        """The next notification or message, cut to ``size`` bytes (None: whole).

        Raises ``WouldBlock`` (EAGAIN) where there is none.
        """
        if flags & MSG_OOB:
            return ReceivedMessage(b"", "", 0, 0)
        if self._notifications or self.updates:
            return self._control(peek=bool(flags & MSG_PEEK))
        if not self.received:
            self._readable_told = False
            raise WouldBlock(errno.EAGAIN, "there is no message", Wait.MESSAGE)
        payload, address, port, began, queued, cookie = self.received[0]
        counters = self.node.counters
        length = len(payload)
        if not flags & MSG_PEEK:
            self.received.popleft()
            counters.recv_delivered += 1
            if length:
                counters.recv_bytes_freed_fromsock += length
                self.receive_bytes -= length
                if self.congested:
                    self._mark()
                if self.held_up and self.receive_bytes <= self.rcvbuf:
                    self._let_go(now)
            if not self.received:
                self._readable_told = False
        data = payload if size is None or length <= size else payload[:size]
        control: tuple[CongestionUpdate | Notification | Latency | RdmaDest, ...] = ()
        if self._latency:
            control = (self._trace(began, queued, now),)
        if cookie is not None:
            control += (RdmaDest(cookie),)
        answered = length if flags & MSG_TRUNC else len(data)
        return ReceivedMessage(data, address, port, answered, MSG_TRUNC if len(data) < length else 0, control)

    def _let_go(self, now: float) -> None:
        """Have those TCP connections read on that waited for this socket."""
        waiting, self.held_up = self.held_up, []
        for link in waiting:
            link.connection.go_on(link, now)

    def _control(self, *, peek: bool) -> ReceivedMessage:
        if self._notifications:
            control: tuple[CongestionUpdate | Notification | Latency | RdmaDest, ...] = tuple(self._notifications)
            if not peek:
                self._notifications.clear()
        else:
            control = (CongestionUpdate(self.updates),)
            if not peek:
                self.updates = 0
        if not (self.received or self._notifications or self.updates):
            self._readable_told = False
        return ReceivedMessage(b"", "", 0, 0, 0, control)

    def _trace(self, began: float, queued: float, now: float) -> Latency:
        took = (0, round((queued - began) * _NS), round((now - queued) * _NS))
        return Latency(self._latency, tuple(took[point] for point in self._latency))

    def _mark(self) -> None:
        """Tell all peers where the receive queue has passed one of its marks."""
        change = crossing(self.receive_bytes, self.rcvbuf, congested=self.congested)
        if change is not None:
            self.congested = change
            self.node.mark_port(self, congested=change)

    def _tell_readable(self) -> None:
        if not self._readable_told:
            self._readable_told = True
            self.node.emit(events.SocketReadable(self))

    # ---- Waiting

    def poll(self) -> Poll:
        """What can be done without waiting (§9.6). OUT says nothing of congestion."""
        ready = Poll(0)
        if self.received or self._notifications or self.updates:
            ready |= Poll.IN
        if not self.monitor and self._map_updates != self.node.map_updates:
            self._map_updates = self.node.map_updates
            ready |= Poll.IN | Poll.WRBAND
        if self.send_bytes < self.sndbuf:
            ready |= Poll.OUT
        return ready

    def map_updated(self, mask: int) -> None:
        """A peer's congestion map has come; ``mask`` has the bits that may have changed."""
        overlap = self.armed & mask
        if overlap:
            self.armed &= ~overlap
            self.updates |= overlap
            self._tell_readable()

    # ---- Options

    def set_congestion_monitor(self, on: bool) -> None:
        """RDS_CONG_MONITOR; switched off it clears this port's own bit, as the kernel does (§3.2)."""
        self.monitor = on
        if on:
            self.node.monitors[self] = None
            return
        self.node.monitors.pop(self, None)
        self.armed = self.updates = 0
        self._clear()

    def set_transport(self, number: int) -> None:
        """SO_RDS_TRANSPORT, once and before bind. Raises ``SocketError``: EOPNOTSUPP, EINVAL, ENOPROTOOPT."""
        if self.transport is not None:
            raise SocketError(errno.EOPNOTSUPP, f"the socket has transport {self.transport.label} already")
        if not 0 <= number <= max(Transport):
            raise SocketError(errno.EINVAL, f"{number} is not a transport: IB is 0, TCP is 2")
        known = {self.node.transport} if self.node.transport is not None else set(Transport)
        if number not in known:
            raise SocketError(errno.ENOPROTOOPT, f"this node has no transport {number}")
        self.transport = Transport(number)

    def get_transport(self) -> int:
        """SO_RDS_TRANSPORT: 0 for InfiniBand, 2 for TCP, -1 while there is none."""
        return TRANSPORT_NONE if self.transport is None else int(self.transport)

    def set_tos(self, tos: int) -> None:
        """SIOCRDSSETTOS. TCP has one class of service, so all values become 0.

        Raises ``SocketError``: ENOTTY without transport, EINVAL after the first message or out of range.
        """
        if self.transport is None:
            raise SocketError(errno.ENOTTY, "the socket has no transport yet")
        if self._routes or not 0 <= tos <= 0xFF:
            raise SocketError(errno.EINVAL, "the type of service is 0 to 255, and set before the first message")
        self.tos = tos if self.transport is Transport.IB else 0

    def trace_latency(self, *points: int) -> None:
        """SO_RDS_MSG_RXPATH_LATENCY: report these points with each message. Raises ``SocketError``: EINVAL."""
        if len(points) > LATENCY_POINTS or any(not 0 <= point < LATENCY_POINTS for point in points):
            raise SocketError(errno.EINVAL, f"there are {LATENCY_POINTS} points of the receive path, from 0")
        self._latency = points

    # ---- Memory for RDMA

    def offer_memory(self, memory: Memory, flags: RdmaFlags = RdmaFlags.READWRITE) -> int:
        """RDS_GET_MR: let peers read this memory, and with READWRITE write to it; gives the cookie to tell them.

        Raises ``SocketError``: ENOTCONN where unbound, EOPNOTSUPP over TCP, EMSGSIZE above 1 MiB, EINVAL if empty.
        """
        if not self.address:
            raise SocketError(errno.ENOTCONN, "memory can be offered by a bound socket only")
        if self.memory is None:
            self.memory = SocketMemory(self.node.memory(self.address), self.node.counters)
        return self.memory.offer(memory, flags)

    def free_memory(self, cookie: int) -> None:
        """RDS_FREE_MR. Raises ``SocketError`` (EINVAL) where the socket has no such memory."""
        if self.memory is None:
            raise SocketError(errno.EINVAL, "the socket offers no memory")
        self.memory.free(cookie)

    # ---- The end

    def close(self) -> None:
        """Forget what is not acknowledged, free the port, and clear its congestion bit."""
        if self.closed:
            return
        self.closed = True
        for connection in self._routes.values():
            connection.cancel(self, None)
        if self.memory is not None:
            self.memory.close()
        self.received.clear()
        self.receive_bytes = 0
        self.node.monitors.pop(self, None)
        if self.address:
            self.node.ports[self.address].pop(self.port, None)
            self._clear()
        self._let_go(self.node.now)

    def _clear(self) -> None:
        if self.congested:
            self.congested = False
            self.node.mark_port(self, congested=False)

    def __repr__(self) -> str:
        return f"<Socket {self.address}:{self.port}>" if self.address else "<Socket unbound>"


def _address(text: str) -> str:
    try:
        return canonical(text)
    except ValueError:
        raise SocketError(errno.EINVAL, f"{text!r} is not an IP address") from None


def _host(text: str) -> str:
    address = _address(text)
    if not is_host(address):
        raise SocketError(errno.EINVAL, f"{address} is not the address of one host")
    return address


def _port(port: int) -> int:
    if not 0 <= port < _PORTS:
        raise SocketError(errno.EINVAL, f"{port} is not a port: they are 0 to {_PORTS - 1}")
    return port
