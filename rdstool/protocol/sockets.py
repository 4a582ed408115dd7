"""RDS sockets: what an application does with a node (protocol.md §9; kernel ``af_rds.c``, ``bind.c``, ``send.c``).

No call blocks. One that would raises ``WouldBlock``, which says what to wait for; timeouts are the caller's.
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from dissectors.wire.rds import MAX_MESSAGE_BYTES, PROBE_PORT
from rdstool.protocol import events
from rdstool.protocol.addresses import is_host, same_family, scope
from rdstool.protocol.base_connection import BaseConnection
from rdstool.protocol.config import Settings
from rdstool.protocol.congestion import monitor_bit
from rdstool.protocol.control import RdmaControl, RdmaMap, SendControl
from rdstool.protocol.errors import SocketError, Wait, WouldBlock
from rdstool.protocol.host import Host, Random
from rdstool.protocol.ib.memory import Memory, RdmaFlags, SocketMemory
from rdstool.protocol.ib.requests import check, make_message
from rdstool.protocol.inbox import MSG_DONTWAIT
from rdstool.protocol.kinds import Transport
from rdstool.protocol.loopback import LoopbackConnection
from rdstool.protocol.names import PORT_BITS, PORTS, checked_address, checked_host, checked_port
from rdstool.protocol.outgoing import Outbox, Outgoing
from rdstool.protocol.pathhash import jhash_1word
from rdstool.protocol.profile import Profile
from rdstool.protocol.reasons import SendStatus
from rdstool.protocol.received import Poll
from rdstool.protocol.zerocopy import MSG_ZEROCOPY, take_cookie

TRANSPORT_NONE = -1
"""``RDS_TRANS_NONE``: what an unbound socket answers."""
_FIRST_PORT = 2
_NO_OPERATIONS: Sequence[RdmaControl] = ()
_SEND_FLAGS = MSG_DONTWAIT | MSG_ZEROCOPY


class SocketHost(Host, ABC):
    """What a socket needs of its node: a place at an address, and the way to a peer."""

    def __init__(
        self,
        transport: Transport | None,
        random: Random,
        settings: Settings,
        profile: Profile,
        now: float,
        name: Callable[[str], str],
    ) -> None:
        super().__init__(random, settings, profile, now)
        self.name = name
        """Gives a link-local address the name of its interface, where a program gave it a number."""
        self.transport = transport
        """What carries its connections; None for a node that has no addresses, where sockets are until they bind."""
        self.ports: dict[str, dict[int, Socket]] = {}
        self.monitors: dict[Socket, None] = {}
        """A dictionary, for its order is that of events."""

    def host(self, text: str) -> str:
        """The canonical form of an address that a program gives. Raises ``SocketError``: EINVAL where no host can."""
        return checked_host(self.name(text))

    @abstractmethod
    def connection(self, local: str, peer: str, tos: int) -> BaseConnection | LoopbackConnection:
        """The connection of two addresses, made where there is none. Raises ``SocketError`` (ENOMEM)."""

    @abstractmethod
    def mark_port(self, socket: Socket, *, congested: bool) -> None:
        """A socket passed a mark of its receive buffer: all peers of its address learn of it (§3.3)."""


class Socket(Outbox):
    """One AF_RDS socket. Made by ``Node.socket``."""

    __slots__ = (
        "_map_updates",
        "_routes",
        "closed",
        "local_map",
        "monitor",
        "node",
        "peer",
        "tos",
        "transport",
        "zerocopy",
    )

    def __init__(self, node: SocketHost) -> None:
        super().__init__(node.settings, node.counters)
        self.node = node
        self.peer: tuple[str, int] | None = None
        """Default destination."""
        self.tos = 0
        self.transport: Transport | None = None
        self.monitor = False
        """RDS_CONG_MONITOR."""
        self.zerocopy = False
        """SO_ZEROCOPY."""
        self.closed = False
        self._routes: dict[str, BaseConnection | LoopbackConnection] = {}
        self._map_updates = node.map_updates

    def move(self, node: SocketHost) -> None:
        """Belong to another node from now on; for ``Node.adopt``."""
        self.node.monitors.pop(self, None)
        self.node = node
        self.settings, self.counters = node.settings, node.counters
        self._map_updates = node.map_updates
        if self.monitor:
            node.monitors[self] = None

    # ---- Names

    def bind(self, address: str, port: int = 0) -> None:
        """Take an address of the node and a port; port 0 takes a free one.

        Raises ``SocketError``: EINVAL, EADDRINUSE, EADDRNOTAVAIL, or ENOPROTOOPT where the transport that was chosen
        before does not own the address.
        """
        address, port = self.node.host(address), checked_port(port)
        if self.closed or self.address or port == PROBE_PORT:
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
        span = PORTS - _FIRST_PORT
        start = int(self.node.random.random() * span)
        for step in range(span):
            port = _FIRST_PORT + (start + step) % span
            if port not in ports:
                return port
        raise SocketError(errno.EADDRINUSE, "cannot bind: all ports of the address are taken")

    def connect(self, address: str, port: int) -> None:
        """Set the default destination; nothing is sent. Raises ``SocketError``: EDESTADDRREQ, EPROTOTYPE, EINVAL."""
        destination = checked_address(address)
        if destination == "0.0.0.0":  # noqa: S104
            raise SocketError(errno.EDESTADDRREQ, "cannot connect to an unspecified address")
        if ":" in destination and not is_host(destination):
            raise SocketError(errno.EPROTOTYPE, f"{destination} is not the address of one host")
        destination = self.node.host(address)
        self._check_link(destination)
        self.peer = destination, checked_port(port)

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
        """Queue one message; returns its length. ``port`` 0 pings. With ``token``, its end is reported.

        ``control`` has RDMA or an atomic to be done first, or memory to offer (InfiniBand); with MSG_ZEROCOPY a cookie.

        Raises ``SocketError`` as sendmsg(2) in this order (§9.4): EOPNOTSUPP, EINVAL, ENOTCONN, EOPNOTSUPP, EMSGSIZE;
        then ``WouldBlock``: ENOBUFS where the destination is congested, EAGAIN where the send buffer is full.
        """
        if flags & ~_SEND_FLAGS:
            raise SocketError(errno.EOPNOTSUPP, f"sendmsg does not take flags {flags:#x}")
        if address is None:
            if self.peer is None:
                raise SocketError(errno.ENOTCONN, "sendmsg needs a destination, or a connected socket")
            address, port = self.peer
        if type(port) is not int or port >> PORT_BITS:
            port = checked_port(port)
        connection = self._routes.get(address) or self._route(address)
        # The length of other buffers is a number of items.
        node, length = self.node, len(data) if type(data) is bytes else memoryview(data).nbytes
        if length > self.sndbuf or length > MAX_MESSAGE_BYTES:
            what = "the longest of RDS" if self.sndbuf >= MAX_MESSAGE_BYTES else "the socket's send buffer"
            limit = min(self.sndbuf, MAX_MESSAGE_BYTES)
            raise SocketError(errno.EMSGSIZE, f"a message of {length} bytes is longer than {what}, {limit} bytes")
        cookie, operations = None, _NO_OPERATIONS
        if control or flags & MSG_ZEROCOPY:
            cookie, operations = self._checked(control, flags, length, connection.transport)
        if connection.peer_map.bits is not None and connection.congested(port):
            self._congested(connection, port, flags, now)
        if self.full:
            node.counters.send_queue_full += 1
            held = f"{self.send_bytes} bytes in {self.outstanding} messages"
            raise WouldBlock(errno.EAGAIN, f"the send buffer holds {held}", Wait.SEND_ROOM)
        if node.profile.waits_for_paths and not connection.agreed and not flags & MSG_DONTWAIT:
            self._wait_for_paths(connection, now)
        if now != node.now:
            node.check_clock(now)
        payload = data if type(data) is bytes else bytes(data)
        if operations:
            self._offer(operations)
            message = make_message(self, node, port, payload, operations, token)
        else:
            message = Outgoing(self, self.port, port, payload, token, zerocopy=cookie)
        self.send_bytes += length
        self.outstanding += 1
        node.counters.send_queued += 1
        connection.send(message, self.hash, now)
        return length

    def _checked(
        self, control: Sequence[SendControl], flags: int, length: int, transport: str
    ) -> tuple[int | None, Sequence[RdmaControl]]:
        """The cookie of zerocopy, and what is left to do before the message is sent."""
        wanted = bool(flags & MSG_ZEROCOPY)
        cookie, operations = take_cookie(control, length, transport, wanted=wanted, enabled=self.zerocopy)
        if operations:
            check(self, operations, transport)
        return cookie, operations

    def _offer(self, operations: Sequence[RdmaControl]) -> None:
        for item in operations:
            if isinstance(item, RdmaMap):
                item.cookie = self.offer_memory(item.memory, item.flags)

    def _route(self, address: str) -> BaseConnection | LoopbackConnection:
        if self.closed:
            raise SocketError(errno.EBADF, "the socket was closed")
        destination = self.node.host(address)
        if not self.address:
            raise SocketError(errno.ENOTCONN, "sendmsg needs a bound socket")
        if not same_family(self.address, destination):
            raise SocketError(errno.EOPNOTSUPP, f"cannot send from {self.address} to {destination}: another family")
        self._check_link(destination)
        connection = self.node.connection(self.address, destination, self.tos)
        self._routes[destination] = connection
        return connection

    def _check_link(self, destination: str) -> None:
        """A link-local address reaches others on its own link only, and any that is not link-local."""
        if (own := scope(self.address)) and (other := scope(destination)) and own != other:
            raise SocketError(errno.EINVAL, f"{destination} is on another link than {self.address}")

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

    def drained(self) -> bool:
        """Nothing is queued or unacknowledged. If not, ``SocketWritable`` with ``drained`` will tell."""
        self._told_drained = not self.outstanding
        if self.outstanding:
            for connection in self._routes.values():
                connection.hasten(self.node.now)
        return self._told_drained

    def cancel_sent_to(self, address: str, port: int) -> int:
        """RDS_CANCEL_SENT_TO: forget what is queued or unacknowledged to one destination; returns how many messages.

        What TCP has taken already may still arrive. Raises ``SocketError``: ENOTCONN where unbound, EINVAL.
        """
        if not self.address:
            raise SocketError(errno.ENOTCONN, "cancel needs a bound socket")
        destination = checked_address(self.node.name(address))
        connection = self._routes.get(destination)
        return connection.cancel(self, checked_port(port)) if connection is not None else 0

    # ---- Waiting

    def poll(self) -> Poll:
        """What can be done without waiting (§9.6). OUT says nothing of congestion."""
        ready = Poll(0)
        if self.readable:
            ready |= Poll.IN
        if not self.monitor and self._map_updates != self.node.map_updates:
            self._map_updates = self.node.map_updates
            ready |= Poll.IN | Poll.WRBAND
        if not self.full:
            ready |= Poll.OUT
        return ready

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

        Raises ``SocketError``: ENOTTY without transport; EINVAL where it is set, out of range, or after a message.
        """
        if self.transport is None:
            raise SocketError(errno.ENOTTY, "the socket has no transport yet")
        if self.tos or self._routes or not 0 <= tos <= 0xFF:
            raise SocketError(errno.EINVAL, "the type of service is 0 to 255, and set once before the first message")
        self.tos = tos if self.transport is Transport.IB else 0

    # ---- Memory for RDMA

    def offer_memory(self, memory: Memory, flags: RdmaFlags = RdmaFlags.READWRITE) -> int:
        """RDS_GET_MR: let peers read this memory, and with READWRITE write to it; returns the cookie to tell them.

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
        self._routes.clear()
        if self.memory is not None:
            self.memory.close()
        self.received.clear()
        self.receive_bytes = 0
        self.node.monitors.pop(self, None)
        if self.address:
            self.node.ports[self.address].pop(self.port, None)
            self._clear()
        self.let_go(self.node.now)

    def _clear(self) -> None:
        if self.congested:
            self.congested = False
            self.mark_port(congested=False)

    def emit_readable(self) -> None:
        """Emit ``SocketReadable``."""
        self.node.emit(events.SocketReadable(self))

    def emit_writable(self, *, drained: bool) -> None:
        """Emit ``SocketWritable``."""
        self.node.emit(events.SocketWritable(self, drained))

    def emit_finished(self, token: int, status: SendStatus) -> None:
        """Emit ``SendFinished``."""
        self.node.emit(events.SendFinished(self, token, status))

    def mark_port(self, *, congested: bool) -> None:
        """Mark or clear the port in the congestion map of the address."""
        self.node.mark_port(self, congested=congested)

    def __str__(self) -> str:
        return f"{self.address}:{self.port}" if self.address else "unbound"

    def __repr__(self) -> str:
        return f"<Socket {self}>"
