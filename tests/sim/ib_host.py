"""A machine with one node over InfiniBand: a RoCE device on a network of datagrams, its death and rebirth."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from rdstool.protocol.kinds import Transport
from rdstool.protocol.node import Node
from rdstool.transport.ib.glue import Glue
from rdstool.transport.ib.provider import Event
from rdstool.transport.ib.roce.connection import CmState, RoceConnection
from rdstool.transport.ib.roce.device import Device
from tests.sim.host import Host

BLACKOUT_S = 0.4
"""Less than an acknowledgement timeout: the reliable connections survive it."""


class DeviceProvider(Device):
    """A device as the engine's glue wants its provider: datagrams come and go in ``process``."""

    def __init__(self, host: IbHost) -> None:
        super().__init__(host.address, Random(host.random.getrandbits(64)))
        self._host = host
        self._inbox: list[tuple[bytes, str, int]] = []
        self._mtu = host.random.choice((1024, 4096))

    def arrive(self, data: bytes, source: str, port: int) -> None:
        """A datagram waits to be received."""
        self._inbox.append((data, source, port))

    def process(self, now: float) -> list[Event]:
        """Receive, do what is due, send."""
        inbox, self._inbox = self._inbox, []
        self.advance(now)
        for data, source, port in inbox:
            self.receive([data], source, port, now)
        while batch := self.transmit(now):
            for group in batch:
                for data in group.datagrams:
                    self._host.carry(group.source_port, group.destination, data)
        return self.take_events()

    def path_mtu(self, _peer: str) -> int:
        """One for all peers."""
        return self._mtu

    def filenos(self) -> Sequence[int]:
        """None."""
        return ()

    def set_tap(self, _tap: object) -> None:
        """Nobody looks."""

    def close(self) -> None:
        """Nothing to close."""


class IbHost(Host):
    """Loses, doubles, delays and reorders what it sends, as ``trouble`` says."""

    def _make_node(self) -> Node:
        node = Node(
            self.address,
            random=Random(self.random.getrandbits(64)),
            settings=self.settings,
            profile=self.profile,
            transport=Transport.IB,
            now=self.clock.now,
        )
        self.glue = Glue(node, lambda: self.clock.now)
        self.provider = DeviceProvider(self)
        self.glue.add(self.address, self.provider)
        self.loss, self.doubling = self.random.choice(((0.0, 0.0), (0.01, 0.01), (0.04, 0.1)))
        self.jitter_s = self.random.choice((0.0, 0.0, 0.003))
        self.dark_until = 0.0
        self.calm = False
        self._armed: float | None = None
        return node

    # ---- The network

    def carry(self, port: int, destination: str, data: bytes) -> None:
        """Send a datagram: it comes not at all, once or twice, sooner or later."""
        random = self.random.random
        target = self.reached.get(destination)
        lost = not self.calm and random() < self.loss
        if target is None or lost or self.clock.now < self.dark_until or destination in self.blocked:
            return
        assert isinstance(target, IbHost)
        copies = 2 if not self.calm and random() < self.doubling else 1
        for _ in range(copies):
            late = self.weather.delay_s / 4 + (0.0 if self.calm else self.jitter_s * random())
            self.clock.after(late, lambda: target.deliver(data, self.address, port))

    def deliver(self, data: bytes, source: str, port: int) -> None:
        """A datagram has come."""
        if self.up:
            self.provider.arrive(data, source, port)
            self.glue.stirred[self.address] = None
            self.wake()

    # ---- The program's loop

    def _poll(self, node: Node) -> None:
        if node is not self.node or not self.up:
            return
        self._waking = False
        self._do_due()
        self.act()

    def _do_due(self) -> None:
        now = self.clock.now
        due = self.node.next_timer()
        if due is not None and due <= now:
            self.node.timer_expired(now)
        due = self.provider.next_timer()
        if due is not None and due <= now:
            self.glue.stirred[self.address] = None

    def act(self) -> None:
        """Do what engine and provider ask for, until they ask for nothing."""
        if not self.up:
            return
        node, glue = self.node, self.glue
        while node.pending or glue.stirred:
            for event in node.take_events():
                if type(event).__name__.endswith("Wanted"):
                    glue.obey(event)  # type: ignore[arg-type]
                else:
                    self.hear(event)
                    if type(event).__name__ in {"PathUp", "PathDown", "ConnectionRefused"}:
                        self.tell(f"{self.address} {event}")
            for link in node.take_ready():
                glue.flush(link)
            glue.settle()
        self._arm()

    def _arm(self) -> None:
        times = [due for due in (self.node.next_timer(), self.provider.next_timer()) if due is not None]
        if not times or (self._armed is not None and self.clock.now < self._armed <= min(times)):
            return
        self._armed = min(times)
        node = self.node

        def fire() -> None:
            if node is self.node and self.up:
                self._armed = None
                self._do_due()
                self.act()

        self.clock.after(max(0.0, self._armed - self.clock.now), fire)

    # ---- Faults

    def connections(self) -> list[RoceConnection]:
        """Reliable connections that the engine has, and that are established."""
        found = [each for each in self.glue.links if isinstance(each, RoceConnection)]
        return [each for each in found if each.cm_state is CmState.ESTABLISHED]

    def break_one(self, connection: RoceConnection) -> None:
        """A queue pair fails, as when an adapter reports a fatal error."""
        connection.fail()
        self.provider.broke(connection, "cut")
        self.glue.stirred[self.address] = None
        self.wake()

    def crash(self, *, power: bool) -> None:
        """End the program, which may disconnect, or the machine without a word."""
        self.tell(f"{self.address} {'loses power' if power else 'is killed'}")
        if not power and self.random.random() < 0.5:
            self.glue.end_all()
            self.provider.process(self.clock.now)
        self.up = False
