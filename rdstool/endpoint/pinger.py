"""Pings a host as rds-ping does (protocol.md §12.3): empty messages to port 0, from several sockets in turn.

A pong says no more than which port it answers, so a socket has at most one ping on its way. Eight sockets are enough
while the peer answers in time; while it does not, more are opened.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from dissectors.wire.rds import PING_PORT, TCP_PORT
from rdstool.endpoint.constants import MSG_DONTWAIT
from rdstool.endpoint.node import AsyncSocket, Node
from rdstool.protocol.addresses import canonical, rank
from rdstool.protocol.connection import Connection
from rdstool.protocol.errors import SocketError
from rdstool.protocol.node import Node as Engine
from rdstool.protocol.states import PathState

SOCKETS = 8
"""Sockets that are used in turn. Their ports spread over the paths."""
MAX_WAITING = 1024
"""Pings that may be unanswered at a time. Where there are more to send, they wait."""


@dataclass(frozen=True, slots=True)
class Pong:
    """A ping was answered."""

    number: int
    """Number of the ping, from 1."""
    rtt_s: float
    """Round-trip time in seconds."""
    source: str
    """Address that the answer came from."""
    duplicate: bool
    """The ping had been answered before."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A ping was not answered in time. An answer that still comes is not counted."""

    number: int
    """Number of the ping, from 1."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A ping could not be sent."""

    number: int
    """Number of the ping, from 1."""
    why: str


Outcome = Pong | Lost | Failed


@dataclass(slots=True)
class Tally:
    """What became of all pings, and the round-trip times of those that were answered."""

    sent: int = 0
    received: int = 0
    """Pings that were answered; each counts once."""
    duplicates: int = 0
    min_s: float = math.inf
    max_s: float = 0.0
    mean_s: float = 0.0
    _spread: float = 0.0
    """Sum of squared deviations from the mean (Welford)."""

    def add(self, rtt_s: float) -> None:
        """Count an answer with its round-trip time."""
        self.received += 1
        self.min_s = min(self.min_s, rtt_s)
        self.max_s = max(self.max_s, rtt_s)
        off_old_mean = rtt_s - self.mean_s
        self.mean_s += off_old_mean / self.received
        self._spread += off_old_mean * (rtt_s - self.mean_s)

    @property
    def deviation_s(self) -> float:
        """Standard deviation of the round-trip times."""
        return math.sqrt(self._spread / self.received) if self.received else 0.0

    @property
    def lost_percent(self) -> float:
        """Share of pings without an answer. Those that still wait for one are included."""
        return 100 * (self.sent - self.received) / self.sent if self.sent else 0.0


@dataclass(slots=True, eq=False)
class _Slot:
    """A socket, and the ping that was sent last from it."""

    sock: AsyncSocket
    reader: asyncio.Task[None] | None = None
    """Reads answers as long as the slot is used."""
    number: int = 0
    """Number of the ping; 0 before the first."""
    sent_at: float = 0.0
    """By the clock of the event loop."""
    waiting: bool = False
    """The ping is neither answered nor lost."""
    timer: asyncio.Task[None] | None = None
    """Gives the ping up for lost."""


@dataclass(slots=True)
class Pinger:
    """One run of pings to one host."""

    node: Node
    destination: str
    """Address to ping."""
    hear: Callable[[Outcome], None]
    """Called with every outcome as soon as it is known. What it raises ends the run."""
    interval_s: float = 1.0
    """Time from one ping to the next; with 0, the next one is sent as soon as a socket is free."""
    count: int | None = None
    """Pings to send; None sends until the run is cancelled."""
    timeout_s: float = 10.0
    """How long to wait for each answer."""
    tos: int = 0
    """Type of service. TCP has only one."""
    tally: Tally = field(default_factory=Tally)
    _free: deque[_Slot] = field(default_factory=deque)
    """Slots without a ping on its way."""
    _slots: set[_Slot] = field(default_factory=set)
    """All slots."""
    _freed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set whenever a ping was answered or lost."""
    _tasks: asyncio.TaskGroup = field(default_factory=asyncio.TaskGroup)
    """Readers and timers. When one of them fails, the run fails."""

    async def run(self) -> None:
        """Send all pings, and wait until each is answered or lost.

        Raises, as a group, ``SocketError`` for a bad type of service, and what ``hear`` raises, which ends the run.
        """
        async with self._tasks:
            try:
                self._free.extend(self._new_slot() for _ in range(SOCKETS))
                await self._send_all()
            finally:
                for slot in tuple(self._slots):
                    self._drop(slot)

    async def _send_all(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while self.count is None or self.tally.sent < self.count:
            # Also sleeps where a ping is due already: the tasks that read answers need their turn.
            await asyncio.sleep(max(0.0, due - loop.time()))
            slot = await self._free_slot()
            due = max(due, loop.time() - self.interval_s) + self.interval_s
            await self._ping(slot)
        while any(slot.waiting for slot in self._slots):
            await self._change()

    # ---- Sockets

    def _new_slot(self) -> _Slot:
        sock = self.node.socket(0)
        if self.tos:
            sock.set_tos(self.tos)
        slot = _Slot(sock)
        slot.reader = self._tasks.create_task(self._read(slot))
        self._slots.add(slot)
        return slot

    async def _free_slot(self) -> _Slot:
        while not self._free:
            if self.interval_s and len(self._slots) < MAX_WAITING:
                return self._new_slot()
            await self._change()
        return self._free.popleft()

    async def _change(self) -> None:
        """Wait until a ping is answered or lost."""
        self._freed.clear()
        await self._freed.wait()

    def _drop(self, slot: _Slot) -> None:
        """Close the slot's socket. A ping that is not acknowledged is given up with it."""
        if slot.timer is not None:
            slot.timer.cancel()
        if slot.reader is not None:
            slot.reader.cancel()
        slot.sock.close()
        self._slots.discard(slot)

    # ---- One ping

    async def _ping(self, slot: _Slot) -> None:
        loop = asyncio.get_running_loop()
        self.tally.sent += 1
        slot.number, slot.sent_at, slot.waiting = self.tally.sent, loop.time(), True
        slot.timer = self._tasks.create_task(self._lose(slot))
        try:
            await slot.sock.sendmsg(b"", (self.destination, PING_PORT), flags=MSG_DONTWAIT)
        except SocketError as problem:
            self._done(slot)
            self.hear(Failed(slot.number, problem.strerror or str(problem)))

    async def _read(self, slot: _Slot) -> None:
        while not slot.sock.closed:
            message = await slot.sock.recvmsg()
            now = asyncio.get_running_loop().time()
            if message.port != PING_PORT or not message.address or not slot.number:
                continue  # not a pong: somebody sent a datagram to this port
            rtt_s, duplicate = now - slot.sent_at, not slot.waiting
            if duplicate:
                self.tally.duplicates += 1
            else:
                self.tally.add(rtt_s)
                self._done(slot)
            self.hear(Pong(slot.number, rtt_s, message.address, duplicate))

    def _done(self, slot: _Slot) -> None:
        """The ping has come to its end: use the slot again, or close it where there are enough."""
        slot.waiting = False
        if slot.timer is not None:
            slot.timer.cancel()
        if len(self._free) < SOCKETS:
            self._free.append(slot)
        else:
            self._drop(slot)
        self._freed.set()

    async def _lose(self, slot: _Slot) -> None:
        """Give the ping up when its time is over."""
        await asyncio.sleep(self.timeout_s)
        slot.waiting, slot.timer = False, None
        self._drop(slot)
        self._freed.set()
        self.hear(Lost(slot.number))


def why_silent(engine: Engine, local: str, peer: str) -> str | None:
    """Guess from the state of the connection why a peer does not answer; None where it shows nothing.

    A connection that is refused is no guess, and not told here: ``ConnectFailed`` is an event of its own.
    """
    connection = engine.connections.get((canonical(local), canonical(peer), 0))
    if not isinstance(connection, Connection):
        return None
    path = connection.paths[0]
    if path.state is PathState.UP:
        return f"{peer} is connected and does not answer: pings may be disabled there (net.rds.ping_enable)"
    if rank(local) > rank(peer):
        return (
            f"{peer} has the smaller address and has to open the connection, to TCP port {TCP_PORT} of {local}: "
            "it may not speak RDS, or a firewall may be between"
        )
    if path.state is PathState.CONNECTING:
        return f"TCP port {TCP_PORT} of {peer} does not answer: a firewall may be between, or nobody has the address"
    return None
