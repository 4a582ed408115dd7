"""Messages between addresses of one node: delivered at once, nothing on the wire (protocol.md §9.7)."""

from __future__ import annotations

from dissectors.wire.rds import PING_PORT
from rdstool.protocol.congestion import LocalMap
from rdstool.protocol.host import Host
from rdstool.protocol.outgoing import Outbox, Outgoing
from rdstool.protocol.reasons import SendStatus


class _OwnMap:
    """Our own map, seen as that of the peer."""

    __slots__ = ("_map",)

    def __init__(self, local_map: LocalMap) -> None:
        self._map = local_map

    @property
    def bits(self) -> bytes | None:
        """The map, or None where no bit is set."""
        return self._map.payload if self._map.ports else None


class LoopbackConnection:
    """One path, no states: delivery is acknowledgement."""

    __slots__ = ("agreed", "local", "next_rx", "next_tx", "node", "peer", "peer_map", "tos")

    transport = "loopback"

    def __init__(self, node: Host, local: str, peer: str, tos: int) -> None:
        self.node = node
        self.local = local
        self.peer = peer
        self.tos = tos
        self.agreed = True
        self.peer_map = _OwnMap(node.maps[peer])
        self.next_tx = 1
        self.next_rx = 0

    def send(self, message: Outgoing, _port_hash: int, now: float) -> None:
        """Deliver a socket's message."""
        counters = self.node.counters
        message.sequence = self.next_tx
        self.next_tx += 1
        self.next_rx = self.next_tx
        if message.dport == PING_PORT:
            if self.node.settings.ping_enable and message.socket is not None:
                counters.recv_ping += 1
                counters.send_pong += 1
                message.socket.deliver(b"", self.peer, PING_PORT, now, now)
        else:
            target = self.node.ports[self.peer].get(message.dport)
            if target is None:
                counters.recv_drop_no_sock += 1
            elif not target.deliver(message.payload, self.local, message.sport, now, now):
                counters.dropped_overrun += 1
        counters.send_drop_acked += 1
        if message.socket is not None:
            message.socket.message_left(message, SendStatus.ACKNOWLEDGED)

    def congested(self, port: int) -> bool:
        """Whether one of our own sockets has too much to read."""
        return port in self.node.maps[self.peer].ports

    def cancel(self, _socket: Outbox, _port: int | None) -> int:
        """Cancel nothing, since nothing ever waits."""
        return 0

    def miss_map(self, _now: float) -> None:
        """The map is our own, and never old."""

    def hasten(self, _now: float) -> None:
        """Do nothing: delivery is acknowledgement."""

    def prepare(self, _now: float) -> None:
        """There is nothing to agree on."""
