"""A host that speaks RDS: its addresses, sockets and connections, driven by a transport.

The transport tells what happens to TCP connections, the application uses ``socket``; after either, the caller

1. acts on ``take_events()``: the transport on those whose name ends in ``Wanted``, the application on the others;
2. for each link of ``take_ready()``, and again whenever its TCP connection becomes writable, writes what
   ``data_to_send(link, limit)`` gives until that is empty;
3. calls ``timer_expired`` at ``next_timer()``.

What a transport owes the engine:

- All bytes that its system had acknowledged are handed to ``bytes_received`` (or ``bytes_placed``) before
  ``connection_lost``, unless the process ends: the peer does not send them again.
- Where several links of a peer are readable, path 0 had better be emptied before the others are read: a kernel that
  has just fanned out sends on the other paths as soon as path 0 is acknowledged.
- ``bytes_acked`` tells what the peer's system has acknowledged, before ``connection_lost`` for the last time.
- A link whose ``reading`` is off is not read until ``ReadWanted``, unless it is to be aborted.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from rdstool.protocol import events
from rdstool.protocol.addresses import canonical
from rdstool.protocol.base_connection import BaseConnection
from rdstool.protocol.config import Settings
from rdstool.protocol.congestion import LocalMap
from rdstool.protocol.connection import Connection, Remembered
from rdstool.protocol.errors import LocalProtocolError, SocketError
from rdstool.protocol.host import Ends, Random
from rdstool.protocol.ib.connection import IbConnection
from rdstool.protocol.ib.port import IbPort
from rdstool.protocol.kinds import Transport
from rdstool.protocol.link import BaseLink, Link
from rdstool.protocol.loopback import LoopbackConnection
from rdstool.protocol.profile import LINUX_7, Profile
from rdstool.protocol.reasons import RefuseReason
from rdstool.protocol.sockets import Socket, SocketHost
from rdstool.protocol.states import PathState
from rdstool.protocol.tcp_connection import TcpConnection


class Node(SocketHost):
    """The engine. ``now`` is seconds on any clock that never goes back; same inputs give same outputs."""

    def __init__(
        self,
        *addresses: str,
        random: Random,
        settings: Settings | None = None,
        profile: Profile = LINUX_7,
        transport: Transport | None = Transport.TCP,
        now: float = 0.0,
        name: Callable[[str], str] = str,
    ) -> None:
        super().__init__(transport, random, settings or Settings(), profile, now, name)
        self.connections: dict[tuple[str, str, int], BaseConnection | LoopbackConnection] = {}
        """Connections by local address, peer address and type of service."""
        self.remembered: dict[Ends, Remembered] = {}
        """What is kept of peers that were forgotten, in the order in which they were."""
        self.first_tx = 1
        """Where the numbers of a new connection begin: above all that peers were sent which are not even remembered."""
        self.ib = IbPort(self)
        """What an InfiniBand transport calls."""
        for address in addresses:
            self.add_address(address)

    # ---- For the application

    def add_address(self, address: str) -> str:
        """Own one more address; returns it in canonical form. Raises ``SocketError``: EINVAL where no host can."""
        own = self.host(address)
        self.ports.setdefault(own, {})
        self.maps.setdefault(own, LocalMap())
        return own

    def socket(self) -> Socket:
        """A new socket, not bound."""
        return Socket(self)

    def adopt(self, socket: Socket) -> None:
        """Take over a socket of another node that is not bound, with its options. Raises ``LocalProtocolError``."""
        if socket.address or socket.closed:
            raise LocalProtocolError(f"{socket!r} has its place already")
        socket.move(self)

    def take_events(self) -> list[events.Event]:
        """What has happened since the last call, in order."""
        taken, self._events = self._events, []
        return taken

    def close(self, now: float) -> None:
        """Close all sockets, give up all TCP connections and take no more."""
        self.check_clock(now)
        self.closed = True
        for ports in self.ports.values():
            for socket in list(ports.values()):
                socket.close()
        for connection in self.connections.values():
            if isinstance(connection, BaseConnection):
                connection.close(now)

    # ---- For the transport

    def connected(self, link: Link, now: float) -> None:
        """The TCP connection that ``ConnectWanted`` asked for is established."""
        self.check_clock(now)
        link.owner.established(link, now)

    def connect_failed(self, link: BaseLink, detail: str, now: float) -> None:
        """It could not be established, or was given up before. The engine asks again by itself."""
        self.connection_lost(link, detail, now)

    def accepted(self, local: str, peer: str, peer_port: int, now: float) -> Link | None:
        """A TCP connection came from ``peer``'s ``peer_port``. None: close it at once with a reset (linger 0)."""
        self.check_clock(now)
        local, peer = canonical(local), canonical(peer)
        answer = self._accept(local, peer, peer_port, now)
        if isinstance(answer, Link):
            return answer
        self.counters.refused_connections += 1
        self.emit(events.ConnectionRefused(local, peer, answer))
        return None

    def _accept(self, local: str, peer: str, peer_port: int, now: float) -> Link | RefuseReason:
        if self.closed:
            return RefuseReason.CLOSED
        if local not in self.ports:
            return RefuseReason.NOT_OURS
        if peer in self.ports:
            return RefuseReason.OWN_ADDRESS
        try:
            connection = self._of_peer(local, peer)
        except SocketError:
            return RefuseReason.TOO_MANY_CONNECTIONS
        assert isinstance(connection, Connection)
        return connection.accept(peer_port, now)

    def _of_peer(self, local: str, peer: str) -> Connection:
        """The connection of a peer that connects, as ``connection`` gives it."""
        found = self.connections.get((local, peer, 0))
        if found is None:
            new = (local, peer) not in self.remembered
            found = self.connection(local, peer, 0)
            if new:
                self.silent[local, peer] = self.now
        assert isinstance(found, Connection)
        return found

    def _make_room(self) -> None:
        """Forget a peer: a silent one, or else one that is away and owed nothing; if there is one."""
        for ends, since in self.silent.items():
            if self.now >= since + self.settings.silent_patience_s:
                self._forget(*ends)
                return
            break  # all others came later
        for ends in self.away:
            if self._dispensable(*ends):
                self._forget(*ends)
                return

    def _dispensable(self, local: str, peer: str) -> bool:
        """Nothing waits for the peer, and no socket is connected to it."""
        connection = self.connections[local, peer, 0]
        assert isinstance(connection, Connection)
        return connection.idle and all(
            socket.peer is None or socket.peer[0] != peer for socket in self.ports[local].values()
        )

    def _forget(self, local: str, peer: str) -> None:
        connection = self.connections.pop((local, peer, 0))
        assert isinstance(connection, Connection)
        # A silent peer has sent no message, so none can be lost or come twice.
        remembered = (local, peer) not in self.silent
        if remembered:
            self._remember(connection)
        self.silent.pop((local, peer), None)
        self.away.pop((local, peer), None)
        self.counters.forgotten_peers += 1
        self.emit(events.PeerForgotten(local, peer, remembered))
        for socket in self.ports[local].values():
            socket.forget_route(peer)
        connection.forget(self.now)

    def _remember(self, connection: Connection) -> None:
        self.remembered[connection.local, connection.peer] = connection.remember()
        if len(self.remembered) > self.settings.limits.remembered:
            lost = self.remembered.pop(next(iter(self.remembered)))
            self.first_tx = max(self.first_tx, *(next_tx for next_tx, _ in lost.numbers))

    def bytes_received(self, link: Link, data: bytes | bytearray | memoryview, now: float) -> None:
        """Bytes came on a TCP connection. Whatever they are, the worst that follows is its end."""
        if now != self.now:
            self.check_clock(now)
        link.owner.receive(link, data if type(data) is bytes else bytes(data), now)

    def bytes_placed(self, link: Link, count: int, now: float) -> None:
        """Take ``count`` bytes that are already where ``link.deframer.room()`` said."""
        if now != self.now:
            self.check_clock(now)
        link.owner.receive(link, count, now)

    def bytes_acked(self, link: Link, total: int, now: float) -> None:
        """The peer's system has acknowledged the first ``total`` bytes of what was sent on the link."""
        self.check_clock(now)
        if total > link.sent:
            raise LocalProtocolError(f"{total} bytes acknowledged, {link.sent} were given to the transport")
        if total > link.acked:
            link.acked = total
            link.owner.acknowledged(link, total)

    def connection_lost(self, link: BaseLink, detail: str, now: float) -> None:
        """A TCP connection has ended, and all bytes that came on it have been handed on."""
        self.check_clock(now)
        link.owner.lost(link, detail, now)

    def data_to_send(self, link: Link, limit: int) -> list[bytes]:
        """Buffers to write in this order: whole messages, up to ``limit`` bytes and the rest of the last message.

        Empty where there is nothing to send now; ``take_ready`` tells when there is again.
        """
        return link.owner.data_to_send(link, limit)

    @property
    def pending(self) -> bool:
        """There is something in ``take_events`` or ``take_ready``."""
        return bool(self._events or self.ready)

    @property
    def has_events(self) -> bool:
        """There is something in ``take_events``."""
        return bool(self._events)

    def take_ready(self) -> list[BaseLink]:
        """Links that have bytes to send since the last call."""
        taken, self.ready = self.ready, []
        for link in taken:
            link.ready = False
        return taken

    def next_timer(self) -> float | None:
        """When to call ``timer_expired``, or None."""
        return self.timers.next()

    def timer_expired(self, now: float) -> None:
        """Do what is due."""
        self.check_clock(now)
        self.timers.run(now)

    # ---- For the engine's own parts

    def connection(self, local: str, peer: str, tos: int) -> BaseConnection | LoopbackConnection:
        """The connection of two addresses, made where there is none; another peer may be forgotten for it.

        Raises ``SocketError`` (ENOMEM) where there are too many.
        """
        key = local, peer, tos
        found = self.connections.get(key)
        if found is None:
            if len(self.connections) >= self.settings.limits.connections and peer not in self.ports:
                self._make_room()
            if peer in self.ports:
                found = LoopbackConnection(self, local, peer, tos)
            elif len(self.connections) >= self.settings.limits.connections:
                raise SocketError(errno.ENOMEM, f"this node has {len(self.connections)} peers and takes no more")
            elif self.transport is Transport.IB:
                found = IbConnection(self, local, peer, tos)
            else:
                found = self._new_connection(local, peer, tos)
            self.connections[key] = found
        elif isinstance(found, Connection):
            self.silent.pop((local, peer), None)
        return found

    def _new_connection(self, local: str, peer: str, tos: int) -> Connection:
        made = TcpConnection(self, local, peer, tos)
        past = self.remembered.pop((local, peer), None)
        if past is not None:
            made.recall(past)
        else:
            for path in made.paths:
                path.next_tx = self.first_tx
        return made

    def mark_port(self, socket: Socket, *, congested: bool) -> None:
        """A socket passed a mark of its receive buffer: all peers of its address learn of it (§3.3)."""
        self.maps[socket.address].mark(socket.port, congested=congested)
        self.emit(events.PortCongested(socket.address, socket.port, congested))
        for connection in self.connections.values():
            if isinstance(connection, LoopbackConnection):
                if connection.peer == socket.address:
                    self.congestion_changed(connection.local, connection.peer)
            elif connection.local == socket.address:
                connection.map_changed()

    def up(self, local: str, peer: str) -> int:
        """Paths that are up between two addresses."""
        connection = self.connections.get((canonical(local), canonical(peer), 0))
        if not isinstance(connection, BaseConnection):
            return 0
        return sum(1 for lane in connection.lanes() if lane.state is PathState.UP)
