"""Carries links between nodes of one process, without any socket: for tests, and where no port may be opened."""

from __future__ import annotations

from itertools import count

from dissectors.wire.rds import TCP_PORT
from rdstool.errors import TransportError
from rdstool.protocol import events
from rdstool.protocol.addresses import canonical
from rdstool.protocol.link import BaseLink, Link
from rdstool.protocol.source_ports import EPHEMERAL_PORTS, source_port
from rdstool.transport.base import Tap, Wanted
from rdstool.transport.driver import Driver

WRITE_BYTES = 1 << 18
"""Handed over at once."""

HostPort = tuple[str, int]


class LoopNetwork:
    """Addresses, and which node of this process has them. Nodes of one network reach each other and nobody else."""

    def __init__(self) -> None:
        self.hosts: dict[str, LoopTransport] = {}
        self.attempts = count(1)


class _End:
    """One end of a connection."""

    __slots__ = ("closed", "ends", "finished", "key", "link", "other", "owner")

    def __init__(self, owner: LoopTransport, link: Link, key: int, ends: tuple[HostPort, HostPort]) -> None:
        self.owner = owner
        self.link = link
        self.key = key
        self.ends = ends
        """Own and peer's address and port."""
        self.other: _End | None = None
        self.finished = False
        """Sends no more."""
        self.closed = False


class LoopTransport:
    """One node's part in a network. All its nodes run in one event loop."""

    def __init__(self, driver: Driver, network: LoopNetwork) -> None:
        self._driver = driver
        self._engine = driver.engine
        self._network = network
        self._tap: Tap | None = None
        self._ends: dict[int, _End] = {}
        self._keys = count(1)

    def listen(self, address: str) -> None:
        """Own an address. Raises ``TransportError`` where another node of the network does."""
        if address in self._network.hosts:
            raise TransportError(f"{address} belongs to another node of this network")
        self._network.hosts[address] = self

    def obey(self, wanted: Wanted) -> None:
        """Do what the engine asks for, each step in a callback of its own as over a network."""
        if isinstance(wanted, events.ConnectWanted):
            self._driver.loop.call_soon(self._connect, wanted)
            return
        end = self._ends.get(wanted.link.handle)
        if end is None:
            if isinstance(wanted, events.CloseWanted | events.AbortWanted):
                # Still being connected.
                self._engine.connection_lost(wanted.link, "given up", self._driver.now())
            return
        if isinstance(wanted, events.ReadWanted):
            if end.other is not None:
                self._driver.loop.call_soon(end.other.owner.hand_over, end.other)
        elif isinstance(wanted, events.CloseWanted):
            self._finish(end)
        elif isinstance(wanted, events.AbortWanted):
            self._drop(end, "given up")

    def _connect(self, wanted: events.ConnectWanted) -> None:
        link = wanted.link
        if link.path is None:
            return  # given up meanwhile
        host = self._network.hosts.get(canonical(wanted.peer))
        port = source_port(wanted.path, next(self._network.attempts), *EPHEMERAL_PORTS, wanted.npaths)
        there = host.accept(wanted.peer, wanted.local, port) if host is not None else None
        with self._driver.lock:
            if there is None:
                self._engine.connect_failed(link, "nobody has this address", self._driver.now())
            else:
                link.local_port = port
                here = self._add(link, (wanted.local, port), (wanted.peer, TCP_PORT))
                here.other, there.other = there, here
                self._engine.connected(link, self._driver.now())
            self._driver.act()

    def accept(self, address: str, peer: str, port: int) -> _End | None:
        """A node of the network connects."""
        with self._driver.lock:
            link = self._engine.accepted(address, peer, port, self._driver.now())
            end = self._add(link, (address, TCP_PORT), (peer, port)) if link is not None else None
            self._driver.loop.call_soon(self._act)
            return end

    def _act(self) -> None:
        with self._driver.lock:
            self._driver.act()

    def _add(self, link: Link, local: HostPort, peer: HostPort) -> _End:
        end = _End(self, link, next(self._keys), (local, peer))
        link.handle = end.key
        self._ends[end.key] = end
        if self._tap is not None:
            self._tap.opened(end.key, local, peer, incoming=link.incoming)
        return end

    def set_tap(self, tap: Tap | None) -> None:
        """Tell this tap from now on, or none; it is told first of the connections that are open."""
        self._tap = tap
        if tap is not None:
            for end in self._ends.values():
                tap.joined(end.key, *end.ends, end.link.sent, ended=end.finished)

    def flush(self, link: BaseLink) -> bool:
        """Hand bytes over in the next callback."""
        end = self._ends.get(link.handle)
        if end is not None:
            self._driver.loop.call_soon(self.hand_over, end)
        return True

    def hand_over(self, end: _End) -> None:
        """Give the other end what this one has to send, as long as that one reads."""
        other = end.other
        if end.closed or end.finished or other is None or other.closed:
            return
        if not other.link.reading:
            return  # goes on at ReadWanted
        with self._driver.lock:
            data = b"".join(self._engine.data_to_send(end.link, WRITE_BYTES))
            if not data:
                return
            if self._tap is not None:
                self._tap.sent(end.key, data)
        other.owner.receive(other, data)
        with self._driver.lock:
            if not end.closed:
                if self._tap is not None:
                    self._tap.acknowledged(end.key, end.link.sent)
                self._engine.bytes_acked(end.link, end.link.sent, self._driver.now())
            self._driver.act()
        self._driver.loop.call_soon(self.hand_over, end)

    def receive(self, end: _End, data: bytes) -> None:
        """Bytes of the other end."""
        with self._driver.lock:
            if not end.closed:
                if self._tap is not None:
                    self._tap.received(end.key, data)
                self._engine.bytes_received(end.link, data, self._driver.now())
            self._driver.act()

    def _finish(self, end: _End) -> None:
        end.finished = True
        if self._tap is not None:
            self._tap.closed(end.key, reset=False, by_peer=False)
        other = end.other
        if other is None or other.closed:
            self._drop(end, "closed by the peer")
        else:
            self._driver.loop.call_soon(other.owner.peer_ended, other)

    def _drop(self, end: _End, why: str) -> None:
        """The end of one side; the other learns of it. The lock is held."""
        end.closed = True
        self._ends.pop(end.key, None)
        other = end.other
        if other is not None and not other.closed:
            self._driver.loop.call_soon(other.owner.peer_ended, other)
        self._engine.connection_lost(end.link, why, self._driver.now())

    def peer_ended(self, end: _End) -> None:
        """The other end sends no more."""
        with self._driver.lock:
            if not end.closed:
                if self._tap is not None:
                    self._tap.closed(end.key, reset=False, by_peer=True)
                self._drop(end, "closed by the peer")
            self._driver.act()

    def settle(self) -> None:
        """Do nothing: whatever there is to do has a callback already."""

    def check_acks(self, *, polling: bool = False) -> None:
        """Do nothing: what is handed over is acknowledged at once."""

    def open_links(self) -> int:
        """Number of connections that are open."""
        return len(self._ends)

    def close(self) -> None:
        """Leave the network."""
        for address in [each for each, host in self._network.hosts.items() if host is self]:
            del self._network.hosts[address]
        for end in list(self._ends.values()):
            end.closed = True
            other = end.other
            if other is not None and not other.closed:
                self._driver.loop.call_soon(other.owner.peer_ended, other)
        self._ends.clear()
