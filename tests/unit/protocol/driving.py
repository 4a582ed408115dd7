"""Two nodes, or a node and a peer played by hand, joined by byte strings instead of TCP."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from typing import Any

import pytest

from dissectors.wire.rds import HEADER_BYTES, RDS_HEADER, RdsHeader
from rdstool.protocol import events
from rdstool.protocol.config import Settings
from rdstool.protocol.connection import Connection
from rdstool.protocol.errors import SocketError
from rdstool.protocol.link import BaseLink, Link
from rdstool.protocol.node import Node
from rdstool.protocol.profile import LINUX_7, Profile
from rdstool.protocol.sockets import Socket

SMALL, LARGE = "10.0.0.1", "10.0.0.2"
ALL = 1 << 30


def make_node(address: str = SMALL, *, seed: int = 1, profile: Profile = LINUX_7, **settings: Any) -> Node:
    """A node with one address."""
    return Node(address, random=Random(seed), settings=Settings(**settings), profile=profile)


def bound(node: Node, port: int = 4000) -> Socket:
    """A socket on the node's address."""
    socket = node.socket()
    socket.bind(next(iter(node.ports)), port)
    return socket


def connection_of(node: Node, peer: str) -> Connection:
    """What the node shares with a peer."""
    found = node.connections[next(iter(node.ports)), peer, 0]
    assert isinstance(found, Connection)
    return found


def of_kind(happened: Iterable[events.Event], kind: type) -> list[events.Event]:
    """The events of one class."""
    return [event for event in happened if isinstance(event, kind)]


def parsed(data: bytes) -> list[tuple[RdsHeader, bytes]]:
    """The messages of a byte stream."""
    found, at = [], 0
    while at < len(data):
        header = RDS_HEADER.unpack_from(data, at)
        end = at + HEADER_BYTES + header.length
        found.append((header, data[at + HEADER_BYTES : end]))
        at = end
    return found


def sent_by(node: Node, link: Link) -> list[tuple[RdsHeader, bytes]]:
    """What the node has to send on a link now."""
    return parsed(b"".join(node.data_to_send(link, ALL)))


def header(sequence: int, length: int, sport: int, dport: int, flags: int = 0, exthdr: bytes = bytes(16)) -> bytes:
    """48 bytes of a header, packed by the field table and not by the engine."""
    fields = RdsHeader(sequence=sequence, length=length, sport=sport, dport=dport, flags=flags, exthdr=exthdr)
    return RDS_HEADER.pack(fields)


def greeted(node: Node, local: str, peer: str, peer_port: int, now: float) -> Link:
    """A link that the node accepted from a peer which then probed, without multipath, by a message numbered 0."""
    link = node.accepted(local, peer, peer_port, now)
    assert link is not None
    node.bytes_received(link, header(0, 0, 1, 0), now)
    sent_by(node, link)
    return link


class Wire:
    """Joins nodes without delay. What one has to send the other receives, and it is acknowledged."""

    def __init__(self, *nodes: Node) -> None:
        self.nodes = {address: node for node in nodes for address in node.ports}
        self.far: dict[Link, tuple[Node, Link]] = {}
        self.events: list[events.Event] = []
        """What happened, but for what the transport has done."""
        self.now = 0.0
        self.acknowledging = True

    def run(self, now: float | None = None) -> list[events.Event]:
        """Move everything until nothing moves; gives what happened."""
        self.now = self.now if now is None else now
        begin = len(self.events)
        moved = True
        while moved:
            moved = False
            for node in set(self.nodes.values()):
                due = node.next_timer()
                if due is not None and due <= self.now:
                    node.timer_expired(self.now)
                for event in node.take_events():
                    moved = True
                    self._obey(node, event)
                for link in node.take_ready():
                    moved = self._move(node, link) or moved
        return self.events[begin:]

    def wait(self, seconds: float) -> list[events.Event]:
        """Let time pass, timer by timer."""
        begin, end = len(self.events), self.now + seconds
        while True:
            timers = [due for node in set(self.nodes.values()) if (due := node.next_timer()) is not None]
            if not timers or min(timers) > end:
                break
            self.run(max(self.now, *[min(timers)]))
        self.run(end)
        return self.events[begin:]

    def cut(self, node: Node, peer: str, path: int = 0) -> None:
        """End one path's TCP connection for both sides; what is sent and not acknowledged is lost."""
        link = connection_of(node, peer).paths[path].link
        assert link is not None
        other, far = self.far.pop(link)
        self.far.pop(far)
        node.connection_lost(link, "cut", self.now)
        other.connection_lost(far, "cut", self.now)

    def _obey(self, node: Node, event: events.Event) -> None:
        match event:
            case events.ConnectWanted(link=link, local=local, peer=peer, path=path, attempt=attempt):
                target = self.nodes.get(peer)
                far = target.accepted(peer, local, 32768 + 8 * attempt + path, self.now) if target else None
                if target is None:
                    node.connect_failed(link, "no such host", self.now)
                    return
                node.connected(link, self.now)
                if far is None:
                    node.connection_lost(link, "reset", self.now)
                else:
                    self.far[link], self.far[far] = (target, far), (node, link)
            case events.CloseWanted(link=link) | events.AbortWanted(link=link):
                if link in self.far:
                    other, far = self.far.pop(link)
                    self.far.pop(far)
                    other.connection_lost(far, "closed", self.now)
                node.connection_lost(link, "closed", self.now)
            case events.ReadWanted():
                pass
            case _:
                self.events.append(event)

    def _move(self, node: Node, link: BaseLink) -> bool:
        if not isinstance(link, Link) or link not in self.far:
            return False
        other, far = self.far[link]
        if not far.reading:
            link.ready = True
            node.ready.append(link)
            return False
        data = b"".join(node.data_to_send(link, ALL))
        if data:
            other.bytes_received(far, data, self.now)
            if self.acknowledging:
                node.bytes_acked(link, link.sent, self.now)
        return bool(data)


def pair(**settings: Any) -> tuple[Node, Node, Wire]:
    """A node with the smaller address, one with the larger, and what joins them."""
    small, large = make_node(SMALL, seed=1, **settings), make_node(LARGE, seed=2, **settings)
    return small, large, Wire(small, large)


def received(socket: Socket, now: float = 0.0) -> list[bytes]:
    """All that a socket has to read."""
    taken = []
    while socket.received:
        taken.append(socket.recvmsg(now=now).data)
    return taken


def fails(number: int, call: Callable[[], object]) -> SocketError:
    """Call, and see that it raises this errno; returns the error."""
    with pytest.raises(SocketError) as caught:
        call()
    assert caught.value.errno == number, caught.value
    assert isinstance(caught.value, OSError)
    return caught.value


def send(socket: Socket, data: bytes = b"", address: str | None = LARGE, flags: int = 0) -> int:
    """Send to port 4000 of an address; returns the length."""
    return socket.sendmsg(data, address, 4000, now=0.0, flags=flags)
