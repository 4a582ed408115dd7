"""A machine with one node: its transport over the simulated TCP, and its death and rebirth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from dissectors.wire.rds import TCP_PORT
from rdstool.protocol import events
from rdstool.protocol.config import Limits, Settings
from rdstool.protocol.link import BaseLink
from rdstool.protocol.node import Node
from rdstool.protocol.profile import Profile
from rdstool.protocol.source_ports import EPHEMERAL_PORTS, source_port
from tests.sim.clock import Clock
from tests.sim.tcp import KEEPALIVE_S, Side, Weather, cut

CONNECT_TIMEOUT_S = (0.5, 3.0)


class Host:
    """A transport as a real one would be: it polls, reads what is there, and does what events ask for."""

    def __init__(
        self,
        address: str,
        clock: Clock,
        weather: Weather,
        settings: Settings,
        profile: Profile,
        tell: Callable[[str], None],
    ) -> None:
        self.address = address
        self.clock = clock
        self.weather = weather
        self.random: Random = weather.random
        self.settings = settings
        self.profile = profile
        self.tell = tell
        self.reached: dict[str, Host] = {}
        """All hosts by address."""
        self.blocked: set[str] = set()
        """Addresses that cannot be connected to at present."""
        self.restarts = 0
        self.up = True
        self.lazy_s = 0.0
        """How long the program takes to look at its sockets."""
        self.hear: Callable[[events.Event], None] = lambda _event: None
        """Takes events for the application."""
        self.sides: list[Side] = []
        self.backlog: list[Side] = []
        self.dialling: list[Side] = []
        self._waking = False
        self._timer: float | None = None
        self.node = self._make_node()

    def _make_node(self) -> Node:
        return Node(
            self.address,
            random=Random(self.random.getrandbits(64)),
            settings=self.settings,
            profile=self.profile,
            now=self.clock.now,
        )

    def make_place(self) -> None:
        """Take all peers from now on."""
        self.settings = self.node.settings = replace(self.settings, limits=Limits())

    # ---- The program's loop

    def wake(self) -> None:
        """Have the program look at its sockets soon."""
        if not self._waking and self.up:
            self._waking = True
            node = self.node
            self.clock.after(self.lazy_s * self.random.random(), lambda: self._poll(node))

    def _poll(self, node: Node) -> None:
        if node is not self.node or not self.up:
            return
        self._waking = False
        now = self.clock.now
        backlog, self.backlog = self.backlog, []
        for side in backlog:
            self._accept(side, now)
        # In any order: the engine does not depend on path 0 being read first.
        for side in self.random.sample(self.sides, len(self.sides)):
            if side.link is not None and side.link.reading and not side.connecting and not side.done:
                self._read(side, now)
        due = node.next_timer()
        if due is not None and due <= now:
            node.timer_expired(now)
        self.act()

    def _accept(self, side: Side, now: float) -> None:
        link = self.node.accepted(self.address, side.other.address, side.other.port, now)
        if link is None:
            side.reset()
            return
        side.link = link
        link.handle = side
        self.sides.append(side)
        self.act()

    def _read(self, side: Side, now: float) -> None:
        link = side.link
        assert link is not None
        if side.inbox:
            size = self.random.choice((1, 47, 48, 100, 1500, 1 << 16, 1 << 16))
            self.node.bytes_received(link, side.read(size), now)
            self.act()
            if side.done:
                return
        if side.inbox:
            self.wake()
        elif side.eof or side.error:
            self._finish(side, "reset" if side.error else "closed by the peer")

    def _finish(self, side: Side, why: str) -> None:
        link = side.link
        if link is None:
            return
        side.link = None
        if side in self.sides:
            self.sides.remove(side)
        side.close()
        self.node.bytes_acked(link, min(side.acked, link.sent), self.clock.now)
        self.node.connection_lost(link, why, self.clock.now)

    def acknowledged(self, side: Side) -> None:
        """The peer's system has more of what was sent."""
        if side.link is not None and self.up and not side.done:
            self.node.bytes_acked(side.link, side.acked, self.clock.now)
            self._fill(side)
            self.act()

    def act(self) -> None:
        """Do what the engine asks for, until it asks for nothing."""
        node = self.node
        while True:
            taken = node.take_events()
            ready = node.take_ready()
            if not taken and not ready:
                break
            for event in taken:
                self._obey(event)
            for link in ready:
                if isinstance(link.handle, Side):
                    self._fill(link.handle)
        self._arm()

    def _obey(self, event: events.Event) -> None:
        match event:
            case events.ConnectWanted():
                self._connect(event)
            case events.ReadWanted():
                self.wake()
            case events.CloseWanted(link=link):
                side = link.handle
                if side.connecting:
                    self._give_up(link, side)
                elif not side.done:
                    side.shutdown()
            case events.AbortWanted(link=link):
                side = link.handle
                if side.connecting:
                    self._give_up(link, side)
                elif side.link is link:
                    while side.inbox:
                        self.node.bytes_received(link, side.read(1 << 20), self.clock.now)
                    side.reset()
                    self._finish(side, "given up")
            case _:
                self.hear(event)
        if isinstance(event, events.PathUp | events.PathDown | events.PeerRestarted | events.MessagesDropped):
            self.tell(f"{self.address} {event}")

    def _give_up(self, link: BaseLink, side: Side) -> None:
        side.connecting = False
        side.link = None
        if side.met:
            side.reset()
        side.closed = True
        self.node.connection_lost(link, "given up", self.clock.now)

    def _fill(self, side: Side) -> None:
        if side.link is None or side.done or side.fin_wanted or side.connecting:
            return
        while side.room():
            buffers = self.node.data_to_send(side.link, side.room())
            if not buffers:
                break
            side.unsent += b"".join(buffers)
        side.push()

    def _arm(self) -> None:
        due = self.node.next_timer()
        if due is None or (self._timer is not None and self.clock.now < self._timer <= due):
            return
        self._timer = due
        node = self.node

        def fire() -> None:
            if node is self.node and self.up:
                self._timer = None
                self._poll_timers()

        self.clock.after(max(0.0, due - self.clock.now), fire)

    def _poll_timers(self) -> None:
        due = self.node.next_timer()
        if due is not None and due <= self.clock.now:
            self.node.timer_expired(self.clock.now)
        self.act()

    # ---- Connecting

    def _connect(self, wanted: events.ConnectWanted) -> None:
        port = source_port(wanted.path, wanted.attempt, *EPHEMERAL_PORTS, wanted.npaths)
        side = Side(self.weather, self, self.address, port)
        side.connecting = True
        side.link = wanted.link
        wanted.link.handle = side
        self.dialling = [each for each in self.dialling if each.connecting]
        self.dialling.append(side)
        self.clock.after(self.weather.delay(), lambda: self._syn(side, wanted))

    def _syn(self, side: Side, wanted: events.ConnectWanted) -> None:
        if side.closed:
            return
        target = self.reached.get(wanted.peer)
        refused = target is not None and not target.up and self.random.random() < 0.5
        if refused or target is None or not target.up or wanted.peer in self.blocked:
            delay = self.weather.delay() if refused else self.random.uniform(*CONNECT_TIMEOUT_S)
            self.clock.after(delay, lambda: self._fail(side))
            return
        far = Side(self.weather, target, target.address, TCP_PORT)
        far.other, side.other = side, far
        far.met = side.met = True
        target.backlog.append(far)
        target.wake()
        self.clock.after(self.weather.delay(), lambda: self._established(side))

    def _established(self, side: Side) -> None:
        if not side.connecting or not self.up or side.link is None or side.link.handle is not side or side.silent:
            return
        if side.error:
            self._fail(side)
            return
        side.connecting = False
        self.sides.append(side)
        self.node.connected(side.link, self.clock.now)
        self.act()
        self.wake()

    def _fail(self, side: Side) -> None:
        if not side.connecting or not self.up or side.link is None or side.silent:
            return
        side.connecting = False
        link, side.link = side.link, None
        self.node.connect_failed(link, "timed out", self.clock.now)
        self.act()

    # ---- Death

    def crash(self, *, power: bool) -> None:
        """End the program (its system closes its sockets), or with ``power`` the machine without a word."""
        self.tell(f"{self.address} {'loses power' if power else 'is killed'}")
        self.up = False
        for side in (*self.sides, *self.backlog, *(each for each in self.dialling if each.connecting)):
            side.link = None
            side.connecting = False
            if not side.met:
                side.closed = True
                continue
            if power:
                side.silent = True
                other = side.other
                if other.limit is None:
                    other.limit = other.arrived
                self.clock.after(self.random.uniform(*KEEPALIVE_S), other.fail)
            else:
                cut_off = self.random.random() < 0.5
                side.close()
                if cut_off:
                    cut(side, loud=True)
        self.sides.clear()
        self.backlog.clear()
        self.dialling.clear()

    def boot(self) -> None:
        """Start a new node, which knows nothing."""
        self.tell(f"{self.address} starts again")
        self.restarts += 1
        self.up = True
        self._waking = False
        self._timer = None
        self.node = self._make_node()
