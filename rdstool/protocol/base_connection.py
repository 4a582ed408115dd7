"""What connections over TCP and over InfiniBand have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from rdstool.protocol.congestion import PeerMap
from rdstool.protocol.host import Host
from rdstool.protocol.lane import Lane
from rdstool.protocol.link import BaseLink
from rdstool.protocol.outgoing import Outbox, Outgoing
from rdstool.protocol.reasons import SendStatus
from rdstool.protocol.states import PathState


class BaseConnection(ABC):
    """What a node shares with one peer address. Made by the first send or accept, and kept for ever."""

    __slots__ = (
        "agreed",
        "links",
        "local",
        "local_map",
        "map_missed",
        "node",
        "npaths",
        "peer",
        "peer_map",
        "ports",
        "tos",
    )

    transport: ClassVar[str]
    """Name of the transport in rds-info."""

    def __init__(self, node: Host, local: str, peer: str, tos: int) -> None:
        self.node = node
        self.local = local
        self.peer = peer
        self.tos = tos
        self.local_map = node.maps[local]
        self.peer_map = PeerMap()
        self.map_missed = False
        """A sender was refused by a map that may be old."""
        self.ports = node.ports[local]
        """Sockets that are bound to our address."""
        self.npaths = 1
        self.agreed = False
        """Whether the number of paths is known."""
        self.links = 0
        """Links that were made so far."""

    @abstractmethod
    def lanes(self) -> Sequence[Lane]:
        """All paths, by number."""

    @abstractmethod
    def send(self, message: Outgoing, port_hash: int, now: float) -> None:
        """Queue a socket's message."""

    @abstractmethod
    def prepare(self, now: float) -> None:
        """Connect, before the first message."""

    def hasten(self, now: float) -> None:  # noqa: B027 - InfiniBand alone has something to do
        """Somebody waits until all that was sent is acknowledged. TCP does that by itself."""

    @abstractmethod
    def map_changed(self) -> None:
        """Our map has changed: the peer is to learn of it."""

    @abstractmethod
    def lost(self, link: BaseLink, detail: str, now: float) -> None:
        """The transport has no more of a link."""

    @abstractmethod
    def close(self, now: float) -> None:
        """Close the connection and give up all that waits."""

    def congested(self, port: int) -> bool:
        """Whether the peer marked this port."""
        return self.peer_map.bits is not None and self.peer_map.congested(port)

    def left(self, message: Outgoing, status: SendStatus) -> None:
        """A message is acknowledged, or given up."""
        if message.socket is not None:
            message.socket.message_left(message, status)

    def cancel(self, socket: Outbox, port: int | None) -> int:
        """Forget the messages of a socket, to one port or (None) to all; returns how many."""

        def chosen(message: Outgoing) -> bool:
            return message.socket is socket and (port is None or message.dport == port)

        return sum(lane.remove(chosen, SendStatus.CANCELED) for lane in self.lanes())

    def miss_map(self, now: float) -> None:
        """A sender is refused by the peer's map: without a connection no newer one would ever come."""
        if all(lane.state is not PathState.UP for lane in self.lanes()):
            self.map_missed = True
            self.prepare(now)

    @property
    def needed(self) -> bool:
        """Somebody waits for the peer."""
        return self.map_missed or any(lane.waiting for lane in self.lanes())
