"""RoCE devices on a network that loses, doubles, delays, reorders and damages datagrams, in virtual time.

Each connection carries SENDs, RDMA WRITEs, READs and atomics at once, both ways. Every completion is compared with
what must be true: a SEND arrives once and in order, memory holds what was written, an atomic operation was executed
once. When the faults end, everything that was posted must be done.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from random import Random

from rdstool.protocol.ib.memory import Access
from rdstool.transport.ib.provider import (
    Broken,
    Completed,
    ConnectFailed,
    ConnectionOptions,
    ConnectRequested,
    Disconnected,
    Established,
    Operation,
    Refused,
    Segment,
    Status,
)
from rdstool.transport.ib.roce.connection import RoceConnection
from rdstool.transport.ib.roce.device import Device
from rdstool.transport.ib.roce.flow import MAX_BURST
from tests.sim.clock import Clock
from tests.sim.model import Violation
from tests.unit.transport.ib.driving import Datagram, sent

SERVICE = 0x0106_48CA
QUIET_S = 60.0
"""Time after the last fault within which everything must be done."""
ACK_TIMEOUT = 14
"""67 ms: several times the longest delay of the network, and more than a blackout lasts."""
BLACKOUT_S = 0.06
MANY_STEPS = 2_000_000
RECEIVE_BYTES = 9_000
SLOT_BYTES = 16_384
SLOTS = 8
PATTERN_BYTES = 65_536
COUNTER_AT, CHAIN_AT, SLOTS_AT = 0, 8, 64
PATTERN_AT = SLOTS_AT + SLOTS * SLOT_BYTES
MEMORY_BYTES = PATTERN_AT + PATTERN_BYTES
ALL_ACCESS = Access.LOCAL_WRITE | Access.REMOTE_WRITE | Access.REMOTE_READ | Access.REMOTE_ATOMIC
PATTERN = bytes((index * 7 + index // 251) & 0xFF for index in range(PATTERN_BYTES))


def content(seed: int, length: int) -> bytes:
    """Bytes that tell where they are from."""
    return hashlib.shake_128(seed.to_bytes(8)).digest(length)


class Application:
    """One end of a connection: posts work, takes what comes, and knows what must be."""

    def __init__(self, host: Host, connection: RoceConnection, number: int) -> None:
        self.host, self.connection, self.number = host, connection, number
        self.random = host.network.random
        self.peer: Application | None = None
        self.up = False
        self.over: str | None = None
        self.to_do = 0
        self.open: dict[int, tuple[Operation, int, bytes]] = {}
        """wr_id -> (operation, slot or expected value, data)"""
        self.next_id = 1
        self.sent = self.received = 0
        self.last_done = 0
        self.added = self.adds_begun = 0
        self.chain = 0
        self.slots = list(range(SLOTS))
        self.receives = 0
        self.memory = bytearray(MEMORY_BYTES)
        self.memory[PATTERN_AT:] = PATTERN
        self.region = host.device.register(self.memory, ALL_ACCESS)
        self.landing = bytearray(PATTERN_BYTES * SLOTS)
        self.landing_region = host.device.register(self.landing, Access.LOCAL_WRITE, address=0x1000)

    def feed(self) -> None:
        """Post receives."""
        want = self.random.choice((1, 8, 32))
        while self.receives < want:
            self.receives += 1
            self.connection.post_receive(0, RECEIVE_BYTES)

    def work(self) -> None:
        """Post a few requests."""
        peer = self.peer
        if not self.up or self.over or peer is None:
            return
        for _ in range(self.random.choice((1, 1, 4, 12))):
            if self.to_do:
                self.to_do -= 1
                self._one(peer)

    def _one(self, peer: Application) -> None:
        kind = self.random.choice(list(Operation))
        fence = self.random.random() < 0.2
        size = min(self.random.choice((0, 1, 4144, 300, self.host.network.mtu, 9_000)), RECEIVE_BYTES)
        number, rkey = self.next_id, peer.region.rkey
        self.next_id += 1
        if kind is Operation.WRITE and self.slots:
            slot = self.slots.pop(self.random.randrange(len(self.slots)))
            data = content(number << 8 | self.number, min(size * 2, SLOT_BYTES))
            self.open[number] = (kind, slot, data)
            self.connection.post_write(number, data, SLOTS_AT + slot * SLOT_BYTES, rkey, fence=fence)
        elif kind is Operation.READ and self.slots:
            slot = self.slots.pop()
            start = self.random.randrange(PATTERN_BYTES)
            length = min(size * self.random.choice((1, 7)), PATTERN_BYTES - start)
            self.open[number] = (kind, slot, PATTERN[start : start + length])
            into = Segment(0x1000 + slot * PATTERN_BYTES, length, self.landing_region.lkey)
            self.connection.post_read(number, into, PATTERN_AT + start, rkey, fence=fence)
        elif kind is Operation.FETCH_ADD:
            self.open[number] = (kind, self.adds_begun, b"")
            self.adds_begun += 1
            self.connection.post_fetch_add(number, COUNTER_AT, rkey, 1, fence=fence)
        elif kind is Operation.COMPARE_SWAP:
            self.open[number] = (kind, self.chain, b"")
            self.connection.post_compare_swap(number, CHAIN_AT, rkey, self.chain, self.chain + 3, fence=fence)
            self.chain += 3
        else:
            data = content(self.sent << 8 | self.number, size)
            self.sent += 1
            self.open[number] = (Operation.SEND, size, data)
            self.connection.post_send(number, data, solicited=bool(size & 1), fence=fence)

    def completed(self, done: Completed) -> None:
        """Compare a completion with what must be."""
        if done.status is not Status.SUCCESS:
            self.over = self.over or f"{done.operation.name} ended with {done.status.name}"
            return
        if done.operation is Operation.RECEIVE:
            self.receives -= 1
            if self.peer is None or done.data != content(self.received << 8 | self.peer.number, len(done.data)):
                raise Violation(f"{self.connection}: message {self.received} is not what was sent as that")
            if done.solicited != bool(len(done.data) & 1):
                raise Violation(f"{self.connection}: solicited event lost or invented")
            self.received += 1
            return
        if done.wr_id <= self.last_done:
            raise Violation(f"{self.connection}: request {done.wr_id} done after {self.last_done}")
        self.last_done = done.wr_id
        operation, value, data = self.open.pop(done.wr_id)
        if operation is not done.operation:
            raise Violation(f"{self.connection}: {done.operation} in place of {operation}")
        self._judge(done, operation, value, data)

    def _judge(self, done: Completed, operation: Operation, value: int, data: bytes) -> None:
        assert self.peer is not None
        right = True
        if operation is Operation.WRITE:
            start = SLOTS_AT + value * SLOT_BYTES
            right = self.peer.memory[start : start + len(data)] == data
            self.slots.append(value)
        elif operation is Operation.READ:
            start = value * PATTERN_BYTES
            right = self.landing[start : start + len(data)] == data
            self.slots.append(value)
        elif operation is not Operation.SEND:
            right = done.original == value
        if not right:
            raise Violation(f"{self.connection}: {operation.name} {done.wr_id}: found {done.original}, not {value}")


class Host:
    """A device and the applications on it."""

    def __init__(self, network: Network, address: str, ports: tuple[int, ...]) -> None:
        self.network = network
        self.device = Device(address, network.random, ports)
        self.device.burst = network.random.choice((1, MAX_BURST))
        self.device.listen(SERVICE)
        self.applications: dict[int, Application] = {}
        self.alarm: float | None = None
        self.lazy_s = 0.0
        """Receives are posted so much later."""

    def poke(self) -> None:
        """Handle events, send what there is to send, and set the alarm."""
        clock = self.network.clock
        while True:
            for event in self.device.take_events():
                self._event(event)
            outgoing = sent(self.device, clock.now)
            for datagram in outgoing:
                self.network.carry(self, datagram)
            if not outgoing and not self.device.events:
                break
        due = self.device.next_timer()
        if due is not None and (self.alarm is None or due < self.alarm):
            self.alarm = due
            clock.at(max(due, clock.now), lambda: self._ring(due))

    def _ring(self, due: float) -> None:
        if self.alarm == due:
            self.alarm = None
        self.device.advance(self.network.clock.now)
        self.poke()

    def _feed(self, application: Application) -> None:
        application.feed()
        self.poke()

    def _event(self, event: object) -> None:
        network = self.network
        if isinstance(event, Completed):
            application = self.applications[event.connection.number]  # type: ignore[attr-defined]
            application.completed(event)
            if event.operation is Operation.RECEIVE and not application.over:
                network.clock.after(self.lazy_s, partial(self._feed, application))
        elif isinstance(event, ConnectRequested):
            connection = event.connection
            assert isinstance(connection, RoceConnection)
            number = int.from_bytes(event.private_data[:4])
            network.pair(self, connection, number)
            connection.accept(event.private_data[:4], network.options)
        elif isinstance(event, Established):
            self.applications[event.connection.number].up = True  # type: ignore[attr-defined]
        elif isinstance(event, Broken | ConnectFailed | Refused | Disconnected):
            connection = event.connection
            assert isinstance(connection, RoceConnection)
            application = self.applications[connection.number]
            application.over = application.over or repr(event)
        network.tell(f"{self.device.address} {type(event).__name__} {getattr(event, 'wr_id', '')}")


class Network:
    """A run of one seed."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.clock = Clock()
        self.story: list[str] = []
        choose = self.random.choice
        self.mtu = choose((256, 1024, 1024, 4096))
        self.options = ConnectionOptions(
            responder_resources=choose((1, 4, 128)),
            initiator_depth=choose((1, 4, 128)),
            path_mtu=self.mtu,
            ack_timeout=ACK_TIMEOUT,
        )
        bad = choose((0.0, 0.01, 0.03, 0.08))
        self.loss, self.doubling, self.damage = bad, choose((0.0, bad, 0.1)), choose((0.0, bad / 2))
        self.delay_s, self.jitter_s = choose((0.0001, 0.002)), choose((0.0, 0.0005, 0.003))
        self.rare_s = choose((0.0, 0.01))
        """Delay of one datagram in a hundred: far out of order."""
        self.faulty = True
        self.dark_until = 0.0
        self.digest = hashlib.sha256()
        six = self.random.random() < 0.2
        addresses = [f"fd00::{n}" if six else f"10.0.0.{n}" for n in range(1, choose((2, 2, 3)) + 1)]
        self.hosts = [Host(self, address, choose(((4791,), (49152, 50000)))) for address in addresses]
        self.by_address = {host.device.address: host for host in self.hosts}
        self.applications: list[Application] = []
        self.steps = 0

    def tell(self, text: str) -> None:
        """Add to the story."""
        self.story.append(f"{self.clock.now:11.6f} {text}")

    def pair(self, host: Host, connection: RoceConnection, number: int) -> None:
        """The passive end of the connection that application ``number`` asked for."""
        active = self.applications[number]
        passive = Application(host, connection, number | 0x80)
        passive.peer, active.peer = active, passive
        passive.to_do = active.to_do
        host.applications[connection.number] = passive
        host.lazy_s = self.random.choice((0.0, 0.0, 0.0005, 0.01))
        passive.feed()
        self._busy(passive)

    def carry(self, host: Host, datagram: Datagram) -> None:
        """Deliver a datagram: not at all, once or twice, whole or damaged, sooner or later."""
        self.digest.update(datagram.data)
        target = self.by_address[datagram.destination]
        copies = 1
        data = datagram.data
        random = self.random.random
        delay = self.delay_s
        if self.faulty:
            if random() < self.loss or self.clock.now < self.dark_until:
                copies = 0
            elif random() < self.doubling:
                copies = 2
        for _ in range(copies):
            late = delay + self.jitter_s * random()
            if self.faulty and random() < 0.01:
                late += self.rare_s
            if self.faulty and random() < self.damage:
                place = self.random.randrange(len(data))
                data = data[:place] + bytes([data[place] ^ 1 << self.random.randrange(8)]) + data[place + 1 :]
            self.clock.after(late, self._delivery(target, data, host.device.address, datagram.source_port))

    def _delivery(self, target: Host, data: bytes, source: str, port: int) -> Callable[[], None]:
        def deliver() -> None:
            target.device.receive([data], source, port, self.clock.now)
            target.poke()

        return deliver

    def run(self) -> None:
        """Raises ``Violation`` where something is lost, doubled, wrong or stuck."""
        for number in range(self.random.choice((1, 1, 2, 3))):
            host, other = self.random.sample(self.hosts, 2)
            connection = host.device.connect(other.device.address, SERVICE, number.to_bytes(4), self.options)
            application = Application(host, connection, number)
            application.to_do = self.random.choice((5, 40, 120))
            self.applications.append(application)
            host.applications[connection.number] = application
            application.feed()
            host.poke()
            self._busy(application)
        self.clock.after(self.random.random(), self._blackout)
        self._advance(self.random.choice((0.05, 0.5, 3.0)))
        self.faulty = False
        self.tell("no more faults")
        self._advance(self.clock.now + QUIET_S)
        self._judge()

    def _busy(self, application: Application) -> None:
        def turn() -> None:
            application.work()
            application.host.poke()
            if application.to_do and not application.over:
                self.clock.after(self.random.random() * 0.02, turn)

        self.clock.after(self.random.random() * 0.01, turn)

    def _blackout(self) -> None:
        self.dark_until = self.clock.now + BLACKOUT_S * self.random.random()
        self.tell(f"dark until {self.dark_until:.3f}")

    def _advance(self, until: float) -> None:
        self.steps += self.clock.run(until, self._is_done)
        if self.steps > MANY_STEPS:
            raise Violation(f"{self.steps} steps: the devices keep each other busy")
        self.clock.now = max(self.clock.now, until) if not self._is_done() else self.clock.now

    def _is_done(self) -> bool:
        ends = [end for host in self.hosts for end in host.applications.values()]
        return len(ends) == 2 * len(self.applications) and not any(end.to_do or end.open for end in ends)

    def _judge(self) -> None:
        for host in self.hosts:
            for end in host.applications.values():
                if end.over:
                    raise Violation(f"{end.connection} {end.over}")
                if end.to_do or end.open:
                    raise Violation(f"{end.connection} is stuck: {end.to_do} to do, {list(end.open)[:3]} open")
                assert end.peer is not None
                if end.received != end.peer.sent:
                    raise Violation(f"{end.connection}: {end.peer.sent} messages sent, {end.received} received")
                if int.from_bytes(end.memory[:8], "little") != end.peer.adds_begun:
                    raise Violation(f"{end.connection}: {end.peer.adds_begun} additions begun, memory disagrees")
                if end.memory[PATTERN_AT:] != PATTERN:
                    raise Violation(f"{end.connection}: memory that nobody wrote has changed")


def run_seed(seed: int) -> Network:
    """Run one seed; a ``Violation`` tells the seed and the end of the story."""
    network = Network(seed)
    try:
        network.run()
    except Violation as error:
        raise Violation("\n".join([*network.story[-60:], f"{error} (seed {seed})"])) from error
    return network
