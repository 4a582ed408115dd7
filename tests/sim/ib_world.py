"""One run over InfiniBand: as over TCP, with the faults of a network of datagrams, and atomics that count."""

from __future__ import annotations

from rdstool.protocol.config import Settings
from rdstool.protocol.control import FetchAdd
from rdstool.protocol.errors import LocalProtocolError, WouldBlock
from rdstool.protocol.ib.memory import RdmaFlags
from rdstool.protocol.inbox import MSG_DONTWAIT
from rdstool.protocol.profile import LINUX_6, LINUX_7
from rdstool.protocol.reasons import SendStatus
from tests.sim.host import Host
from tests.sim.ib_host import BLACKOUT_S, IbHost
from tests.sim.model import Bound, Model, Sent, Violation
from tests.sim.world import World

LONG_BLACKOUT_S = 12.0
"""More than the retries of a reliable connection last."""
_BUSY_S = (0.5, 2.0)


class IbModel(Model):
    """What must hold, with one exception.

    A host that was restarted begins its numbers anew, and private data does not tell of it. Where such a host sends a
    message twice, its peer may take it for one of its earlier life, as kernels do.
    """

    def missing(self) -> list[Sent]:
        """Messages between sockets that live, which are neither there nor given up."""
        return [message for message in super().missing() if not self._taken_for_old(message)]

    @staticmethod
    def _taken_for_old(message: Sent) -> bool:
        assert message.target is not None
        receiver = message.target.host.node
        return bool(message.source.host.restarts and receiver.counters.recv_drop_old_seq)


class Counted:
    """Eight bytes of one life of a host, to which others add."""

    def __init__(self, bound: Bound) -> None:
        self.memory = bytearray(8)
        self.bound, self.host = bound, bound.host
        self.cookie = bound.socket.offer_memory(self.memory)
        self.added = self.unsure = 0


class IbWorld(World):
    """A run of one seed."""

    def __init__(self, seed: int) -> None:
        self.counted: dict[str, Counted] = {}
        self.atomics = 0
        super().__init__(seed)
        self.model = IbModel()
        self.busy_s = min(self.busy_s, max(_BUSY_S))
        self.size = min(self.size, 12_000)
        self.gap_s *= 2

    def _make_host(self, number: int) -> Host:
        choose = self.random.choice
        settings = Settings(
            sndbuf=choose((2_000, 20_000, 106_496)),
            rcvbuf=choose((1_000, 20_000, 106_496)),
            ib_flow_control=choose((False, True)),
            ib_max_send_wr=choose((4, 32, 256)),
            ib_max_recv_wr=choose((8, 64, 1024)),
        )
        address = f"10.0.0.{number + 1}"
        if self.random.random() < 0.1:
            address = f"fd00::{number + 1}"
        host = IbHost(address, self.clock, self.weather, settings, choose((LINUX_7, LINUX_6)), self.tell)
        host.lazy_s = choose((0.0, 0.0, 0.001, 0.02))
        host.calm = self.calm
        return host

    def run(self) -> None:
        """Raises ``Violation`` where an invariant does not hold."""
        super().run()
        for counted in self.counted.values():
            self._judge_counted(counted)

    def _judge_counted(self, counted: Counted) -> None:
        found = int.from_bytes(counted.memory, "little")
        if not counted.added <= found <= counted.added + counted.unsure:
            raise Violation(
                f"the number of {counted.host.address} is {found}: {counted.added} were added, "
                f"of {counted.unsure} more it is not known"
            )

    # ---- Applications

    def _start_applications(self, host: Host) -> None:
        super()._start_applications(host)
        before = self.counted.get(host.address)
        if before is not None:
            self._judge_counted(before)
        bound = self.bounds[host.address][0]
        self.counted[host.address] = Counted(bound)

    def _work(self, bound: Bound) -> None:
        if self.faulty and self.random.random() < 0.6:
            self._add(bound)
        super()._work(bound)

    def _add(self, bound: Bound) -> None:
        target = self.random.choice(self.hosts)
        counted = self.counted.get(target.address)
        other_family = (":" in bound.host.address) != (":" in target.address)
        if counted is None or target is bound.host or other_family:
            return

        def ended(status: SendStatus) -> None:
            counted.unsure -= 1
            if status is SendStatus.ACKNOWLEDGED:
                counted.added += 1
            elif status is not SendStatus.REMOTE_ERROR:
                counted.unsure += 1
            elif counted.bound.alive:
                # Where the socket was closed, or its host restarted, the key is void. Else nothing is refused.
                raise Violation(f"an atomic of {bound.name} failed: {status.name}")

        add = FetchAdd(counted.cookie, 1, flags=RdmaFlags.SILENT, ended=ended)
        try:
            bound.socket.sendmsg(b"", target.address, 4000, now=self.clock.now, flags=MSG_DONTWAIT, control=[add])
        except WouldBlock:
            return
        counted.unsure += 1
        self.atomics += 1
        bound.host.act()

    def _last_messages(self) -> None:
        super()._last_messages()
        self._hasten()

    def _hasten(self) -> None:
        """Ask for the acknowledgements that peers may keep for ever."""
        for bound in list(self.model.sockets.values()):
            if bound.alive and not bound.socket.drained():
                bound.host.act()
        self.clock.after(0.1, self._hasten)

    # ---- Faults

    def _fault(self) -> None:
        if not self.faulty:
            return
        random = self.random
        kind = random.choice(("cut", "cut", "cut all", "flap", "dark", "long dark", "kill", "power", "block"))
        host = random.choice(self.hosts)
        assert isinstance(host, IbHost)
        if kind == "cut" and host.up and host.connections():
            self.tell(f"cut one of {host.address}")
            host.break_one(random.choice(host.connections()))
        elif kind == "cut all":
            self._cut_all(host, loud=True)
        elif kind == "flap":
            self._flap(host)
        elif kind in {"dark", "long dark"}:
            self.tell(f"{kind}: nothing that {host.address} sends arrives")
            host.dark_until = self.clock.now + random.random() * (BLACKOUT_S if kind == "dark" else LONG_BLACKOUT_S)
        elif kind in {"kill", "power"} and host.up:
            self._kill(host, power=kind == "power")
        elif kind == "block":
            self.tell(f"{host.address} is not reached")
            for other in self.hosts:
                other.blocked.add(host.address)
            self.clock.after(random.random() * 2, lambda: self._unblock(host))
        self.clock.after(2 * random.random() * self.fault_gap_s, self._fault)

    def _cut_all(self, host: Host, *, loud: bool) -> None:
        self.tell(f"cut all of {host.address}")
        assert isinstance(host, IbHost)
        if host.up:
            for connection in host.connections():
                host.break_one(connection)


def run_ib_seed(seed: int) -> IbWorld:
    """Run one seed. On failure the message holds the end of the story and how to run it again."""
    world = IbWorld(seed)
    try:
        world.run()
    except (Violation, LocalProtocolError, AssertionError) as error:
        story = "\n".join(world.story[-400:])
        raise Violation(f"{story}\n{error}\nrun it again: python -m tests.sim --ib --seed {seed}") from error
    return world
