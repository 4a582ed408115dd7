"""Pings a host as rds-ping does (protocol.md §12.3): empty messages to port 0, from several sockets in turn.

A pong tells nothing but the port that it answers. So each ping has a socket to itself until it is answered: eight
sockets serve while the peer answers in time, and more come up while it does not.
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
"""That are used in turn; their ports spread over the paths."""
MAX_WAITING = 1024
"""Pings that wait for their answers; further ones wait to be sent."""


@dataclass(frozen=True, slots=True)
class Pong:
    """An answer."""

    number: int
    """Of the ping, from 1."""
    rtt_s: float
    source: str
    """The address that it came from."""
    duplicate: bool
    """It was answered before."""


@dataclass(frozen=True, slots=True)
class Lost:
    """No answer came in time; should one come yet, it is not taken."""

    number: int


@dataclass(frozen=True, slots=True)
class Failed:
    """It could not be sent."""

    number: int
    why: str


Outcome = Pong | Lost | Failed


@dataclass(slots=True)
class Tally:
    """What became of all pings."""

    sent: int = 0
    received: int = 0
    duplicates: int = 0
    min_s: float = math.inf
    max_s: float = 0.0
    mean_s: float = 0.0
    _spread: float = 0.0
    """Sum of squared deviations from the mean (Welford)."""

    def add(self, rtt_s: float) -> None:
        """Count an answer."""
        self.received += 1
        self.min_s = min(self.min_s, rtt_s)
        self.max_s = max(self.max_s, rtt_s)
        before = rtt_s - self.mean_s
        self.mean_s += before / self.received
        self._spread += before * (rtt_s - self.mean_s)

    @property
    def deviation_s(self) -> float:
        """Standard deviation of the round-trip times."""
        return math.sqrt(self._spread / self.received) if self.received else 0.0

    @property
    def lost_percent(self) -> float:
        """Pings without answer, those included that still wait for one."""
        return 100 * (self.sent - self.received) / self.sent if self.sent else 0.0


@dataclass(slots=True, eq=False)
class _Slot:
    """A socket and the ping that it is used for."""

    sock: AsyncSocket
    reader: asyncio.Task[None] | None = None
    number: int = 0
    sent_at: float = 0.0
    waiting: bool = False
    timer: asyncio.Task[None] | None = None


@dataclass(slots=True)
class Pinger:
    """One run. ``hear`` is told of every outcome as it comes."""

    node: Node
    destination: str
    hear: Callable[[Outcome], None]
    interval_s: float = 1.0
    """Between two pings; 0 sends the next one as soon as a socket is free."""
    count: int | None = None
    """How many; None goes on until it is cancelled."""
    timeout_s: float = 10.0
    """How long each answer is waited for."""
    tos: int = 0
    """Type of service; over TCP all are one."""
    tally: Tally = field(default_factory=Tally)
    _free: deque[_Slot] = field(default_factory=deque)
    _slots: set[_Slot] = field(default_factory=set)
    _freed: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: asyncio.TaskGroup = field(default_factory=asyncio.TaskGroup)
    """Where one fails, the run does."""

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
            # Even with an interval of 0 answers have their turn.
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
        self._freed.clear()
        await self._freed.wait()

    def _drop(self, slot: _Slot) -> None:
        """The socket goes, and with it a ping that was not acknowledged."""
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
                continue  # somebody's datagram to a port that was free
            rtt_s, duplicate = now - slot.sent_at, not slot.waiting
            if duplicate:
                self.tally.duplicates += 1
            else:
                self.tally.add(rtt_s)
                self._done(slot)
            self.hear(Pong(slot.number, rtt_s, message.address, duplicate))

    def _done(self, slot: _Slot) -> None:
        slot.waiting = False
        if slot.timer is not None:
            slot.timer.cancel()
        if len(self._free) < SOCKETS:
            self._free.append(slot)
        else:
            self._drop(slot)
        self._freed.set()

    async def _lose(self, slot: _Slot) -> None:
        await asyncio.sleep(self.timeout_s)
        slot.waiting, slot.timer = False, None
        self._drop(slot)
        self._freed.set()
        self.hear(Lost(slot.number))


def why_silent(engine: Engine, local: str, peer: str) -> str | None:
    """What may keep a peer from answering, as far as its connection tells; None where nothing is known.

    A refused connection is not told: that is an event of its own (``ConnectFailed``).
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
