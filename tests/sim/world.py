"""One run: hosts, applications that send and read, faults, and then an end at which everything must have arrived."""

from __future__ import annotations

import errno
from dataclasses import replace
from random import Random

from rdstool.protocol import events
from rdstool.protocol.config import Limits, Settings
from rdstool.protocol.errors import LocalProtocolError, SocketError, WouldBlock
from rdstool.protocol.inbox import MSG_DONTWAIT
from rdstool.protocol.profile import LINUX_6, LINUX_7, SINGLE_PATH, Profile
from tests.sim.clock import Clock
from tests.sim.host import Host
from tests.sim.model import Bound, Model, Violation
from tests.sim.tcp import Weather, cut

PORTS = (4000, 4001, 4002, 4003)
ORDERLY_6 = replace(LINUX_6, catches_up=True)
"""As 6.x, but for its fan-out, at which kernels reorder."""
QUIET_S = 300.0
"""Time after the last fault within which everything must have arrived: enough for several keep-alives."""
MANY_STEPS = 400_000
BURSTS = (1, 1, 3, 10)
"""Messages that an application sends at a time."""
BURST = sum(BURSTS) / len(BURSTS)
SOCKETS = (1 + len(PORTS)) / 2
"""Sockets of a host, on average."""


class World:
    """A run of one seed. ``story`` tells what happened."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.clock = Clock()
        self.model = Model()
        self.story: list[str] = []
        self.weather = Weather(self.random, self.clock)
        self.steps = 0
        choose = self.random.choice
        self.calm = self.random.random() < 0.15
        """No faults: then profiles that cannot tell a restart, or a path, take part too."""
        self.crowded = not self.calm and self.random.random() < 0.2
        """The first host has place for fewer peers than there are, while they come and go."""
        self.busy_s = 60.0 if self.crowded else choose((0.5, 2.0, 10.0))
        self.size = choose((10, 200, 3000, 30_000))
        self.fault_gap_s = self.busy_s * choose((0.25, 0.1, 0.04))
        count = self.random.choice((4, 5) if self.crowded else (2, 2, 3, 4, 5))
        self.gap_s = self.busy_s * count * SOCKETS * BURST / choose((100, 300, 900))
        self.hosts = [self._make_host(number) for number in range(count)]
        by_address = {host.address: host for host in self.hosts}
        for host in self.hosts:
            host.reached = by_address
            host.hear = self._hear
        self.bounds: dict[str, list[Bound]] = {}
        self.finals: list[tuple[Bound, tuple[str, int]]] = []
        self.faulty = True

    def _make_host(self, number: int) -> Host:
        choose = self.random.choice
        settings = Settings(
            paths=choose((1, 2, 3, 4, 5, 6, 7, 8, 8, 8)),
            sndbuf=choose((2_000, 20_000, 106_496)),
            rcvbuf=choose((1_000, 20_000, 106_496)),
            limits=Limits(connections=choose((2, 3))) if self.crowded and number == 0 else Limits(),
        )
        profile: Profile = choose((LINUX_7, ORDERLY_6, SINGLE_PATH)) if self.calm else LINUX_7
        address = choose((f"10.0.0.{number + 1}", f"10.0.{9 - number}.1"))
        if self.random.random() < 0.1:
            address = f"fd00::{number + 1}"
        if self.crowded and number == 0:
            # The smaller of two addresses connects again and again, and so is never without a peer.
            address = "10.0.255.1"
        host = Host(address, self.clock, self.weather, settings, profile, self.tell)
        host.lazy_s = choose((0.0, 0.0, 0.001, 0.02))
        return host

    def tell(self, text: str) -> None:
        """Add to the story."""
        self.story.append(f"{self.clock.now:11.6f} {text}")

    # ---- The run

    def run(self) -> None:
        """Raises ``Violation`` where an invariant does not hold."""
        for host in self.hosts:
            shown = f"{host.address} {host.profile.name} paths {host.settings.paths}"
            self.tell(f"{shown} sndbuf {host.settings.sndbuf} rcvbuf {host.settings.rcvbuf}")
            self._start_applications(host)
        for host in self.hosts[1:] if self.crowded else []:
            self._return(host)
        if not self.calm:
            self.clock.after(2 * self.random.random() * self.fault_gap_s, self._fault)
        self._run(self.busy_s)
        self.faulty = False
        self.tell("no more faults")
        for host in self.hosts:
            host.blocked.clear()
            host.make_place()
            host.lazy_s = min(host.lazy_s, 0.001)
            if not host.up:
                host.boot()
                self._start_applications(host)
        for bounds in self.bounds.values():
            for bound in bounds:
                bound.slow = 0.02
        self._last_messages()
        self._run(self.clock.now + QUIET_S, until_quiet=True)
        self._judge()

    def _run(self, until: float, *, until_quiet: bool = False) -> None:
        while self.clock.now < until:
            before = self.clock.now
            self.steps += self.clock.run(min(until, before + 0.5), self._check if until_quiet else self._watch)
            if self.steps > MANY_STEPS:
                raise Violation(f"{self.steps} steps: the nodes keep each other busy")
            if until_quiet and self._quiet():
                return
            self.clock.now = max(self.clock.now, min(until, before + 0.5))

    def _watch(self) -> bool:
        self.model.check_limits()
        return False

    def _check(self) -> bool:
        self.model.check_limits()
        return self._quiet()

    def _quiet(self) -> bool:
        return not self.finals and not self.model.busy() and not self.model.missing()

    def _last_messages(self) -> None:
        """Each pair of sockets that has ever talked talks once more: no connection may be stuck."""
        pairs: dict[tuple[str, tuple[str, int]], tuple[Bound, tuple[str, int]]] = {}
        for message in self.model.messages:
            source = message.source
            if source.alive and message.destination in self.model.sockets:
                pairs[source.name, message.destination] = source, message.destination
        self.finals = list(pairs.values())
        self._send_finals()

    def _send_finals(self) -> None:
        self.finals = [pair for pair in self.finals if not self._try_send(*pair, 10)]
        if self.finals:
            self.clock.after(0.05, self._send_finals)

    def _judge(self) -> None:
        self.model.check_limits()
        missing, busy = self.model.missing(), self.model.busy()
        for message in missing:
            source = message.source
            raise Violation(
                f"message {message.number} from {source.name} to {message.destination} never came "
                f"({len(missing)} did not; its status is {message.status})"
            )
        if busy or self.finals:
            names = [bound.name for bound in busy] + [f"{bound.name} to {to}" for bound, to in self.finals]
            raise Violation(f"stuck: {', '.join(names)}")

    # ---- Applications

    def _start_applications(self, host: Host) -> None:
        bounds = [self.model.bind(host, port) for port in PORTS[: self.random.randint(1, len(PORTS))]]
        self.bounds[host.address] = bounds
        for bound in bounds:
            bound.slow = self.random.choice((0.001, 0.01, 0.2))
            if self.random.random() < 0.3:
                bound.socket.set_congestion_monitor(True)
            if self.faulty:
                self._later(self._work, bound, self.gap_s * 4)

    def _later(self, action: object, bound: Bound, mean_s: float) -> None:
        self.clock.after(mean_s * 2 * self.random.random(), lambda: action(bound) if bound.alive else None)  # type: ignore[operator]

    def _work(self, bound: Bound) -> None:
        if not self.faulty:
            return
        dice = self.random.random()
        listens = self.crowded and bound.host is self.hosts[0]
        if listens and dice < 0.9:
            pass  # whom it owes a message it cannot forget
        elif dice < 0.95:
            for _ in range(self.random.choice(BURSTS)):
                host = self.random.choice(self.hosts[1:] if listens else self.hosts)
                self._try_send(bound, (host.address, self.random.choice(PORTS)), self._filler())
        elif dice < 0.98:
            self._cancel(bound)
        elif dice < 0.99 and not self.calm:
            self._rebind(bound)
            return
        self._later(self._work, bound, self.gap_s)

    def _filler(self) -> int:
        return self.random.randint(0, self.size)

    def _try_send(self, bound: Bound, destination: tuple[str, int], filler: int) -> bool:
        """False where it would block. A receiver that cannot be sent to is passed over."""
        if (":" in bound.host.address) != (":" in destination[0]):
            return True
        filler = min(filler, bound.socket.sndbuf - 8)
        try:
            self.model.send(bound, destination, filler, self.clock.now, self.random.choice((0, MSG_DONTWAIT)))
        except WouldBlock:
            bound.host.act()
            return False
        except SocketError as error:
            if error.errno != errno.ENOMEM or not self.crowded:
                raise
        bound.host.act()
        return True

    def _cancel(self, bound: Bound) -> None:
        destination = self.random.choice(self.hosts).address, self.random.choice(PORTS)
        for message in self.model.messages:
            if message.source is bound and message.destination == destination and message.status is None:
                message.canceled = True
        bound.socket.cancel_sent_to(*destination)
        bound.host.act()

    def _rebind(self, bound: Bound) -> None:
        """Close a socket and bind another one to its port."""
        self.tell(f"{bound.name} is closed and bound again")
        port = bound.socket.port
        self.model.forget(bound)
        bound.socket.close()
        bound.host.act()
        fresh = self.model.bind(bound.host, port)
        fresh.name += f"/{self.clock.now:.6f}"
        fresh.slow = bound.slow
        self.bounds[bound.host.address].append(fresh)
        self._later(self._work, fresh, self.gap_s)

    def _hear(self, event: events.Event) -> None:
        if isinstance(event, events.SendFinished):
            self.model.finished(event.token, event.status)
        elif isinstance(event, events.SocketReadable):
            bound = self.model.sockets.get((event.socket.address, event.socket.port))
            if bound is not None and bound.socket is event.socket:
                self._later(self._read, bound, bound.slow)

    def _read(self, bound: Bound) -> None:
        """Read some messages; when there are none left, wait until the engine tells of new ones."""
        more = True
        for _ in range(self.random.randint(1, 40)):
            try:
                got = bound.socket.recvmsg(now=self.clock.now)
            except WouldBlock:
                more = False
                break
            if got.address:
                self.model.receive(bound, got.data, got.address, got.port)
        if more:
            self._later(self._read, bound, bound.slow)
        bound.host.act()

    # ---- Faults

    def _fault(self) -> None:
        if not self.faulty:
            return
        random = self.random
        kind = random.choice(("cut", "cut", "cut all", "flap", "silence", "stall", "kill", "power", "block"))
        host = random.choice(self.hosts)
        open_sides = [side for side in host.sides if not side.connecting and not side.error]
        if kind in {"cut", "silence"} and open_sides:
            side = random.choice(open_sides)
            self.tell(f"{kind}: {side.address}:{side.port} - {side.other.address}:{side.other.port}")
            cut(side, loud=kind == "cut")
        elif kind == "cut all":
            self._cut_all(host, loud=random.random() < 0.8)
        elif kind == "flap":
            self._flap(host)
        elif kind == "stall":
            self.tell(f"stall {host.address}")
            for side in open_sides:
                side.stalled_until = self.clock.now + random.random() * 3
        elif kind in {"kill", "power"} and host.up:
            self._kill(host, power=kind == "power")
        elif kind == "block":
            self.tell(f"{host.address} is not reached by new connections")
            for other in self.hosts:
                other.blocked.add(host.address)
            self.clock.after(random.random() * 2, lambda: self._unblock(host))
        self.clock.after(2 * random.random() * self.fault_gap_s, self._fault)

    def _leave(self, host: Host) -> None:
        """The host loses its network for a while and forgets nothing, as one that is asleep; again and again."""
        if not self.faulty:
            return
        self._cut_all(host, loud=True)
        for other in self.hosts:
            other.blocked.add(host.address)
            host.blocked.add(other.address)
        self.clock.after(self.random.random() * self.busy_s / 2, lambda: self._return(host))

    def _return(self, host: Host) -> None:
        self.tell(f"{host.address} is back")
        host.blocked.clear()
        self._unblock(host)
        self.clock.after(self.random.random() * self.busy_s / 16, lambda: self._leave(host))

    def _cut_all(self, host: Host, *, loud: bool) -> None:
        self.tell(f"cut all of {host.address}")
        for side in host.sides:
            if not side.connecting and not side.error:
                cut(side, loud=loud)

    def _flap(self, host: Host) -> None:
        """Cut all TCP connections again and again, so soon that little gets through in between."""
        for _ in range(self.random.randint(2, 8)):
            when = self.random.random() * self.weather.delay_s * 40
            self.clock.after(when, lambda: self._cut_all(host, loud=True))

    def _unblock(self, host: Host) -> None:
        for other in self.hosts:
            other.blocked.discard(host.address)

    def _kill(self, host: Host, *, power: bool) -> None:
        host.act()
        for bound in self.bounds[host.address]:
            if bound.alive:
                self.model.forget(bound)
        host.crash(power=power)
        self.clock.after(self.random.random() * 2, lambda: self._boot(host))

    def _boot(self, host: Host) -> None:
        if not host.up:
            host.boot()
            self._start_applications(host)
            if self.random.random() < 0.5:
                # What a node does first, before its peers know that it is new, is done on shaky ground.
                self._flap(host)


def run_seed(seed: int) -> World:
    """Run one seed. On failure the message holds the end of the story and how to run it again."""
    world = World(seed)
    try:
        world.run()
    except (Violation, LocalProtocolError, AssertionError) as error:
        story = "\n".join(world.story[-400:])
        raise Violation(f"{story}\n{error}\nrun it again: python -m tests.sim --seed {seed}") from error
    return world


def digest(world: World) -> tuple[object, ...]:
    """What two runs of one seed must agree in."""
    counters = tuple(tuple(host.node.counters.as_dict().values()) for host in world.hosts)
    return tuple(world.story), world.steps, world.clock.now, counters, len(world.model.messages)
