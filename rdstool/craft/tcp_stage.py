"""Scenarios over TCP: plain connections, without a protocol engine."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import repeat

from dissectors.wire.rds import MAX_PATHS, TCP_PORT
from rdstool.craft.build import Builder, raw_bytes
from rdstool.craft.hearing import Came, Hear, Hearing
from rdstool.craft.judge import Match, sent_words
from rdstool.craft.scenario import MESSAGES, Action, Expect, Role, Scenario, Send
from rdstool.craft.stage import Crowd, connection_of
from rdstool.craft.wire import Wire
from rdstool.errors import TransportError, UsageError
from rdstool.protocol.config import Settings
from rdstool.transport.base import Tap
from rdstool.transport.tcp.sockets import Dialler, abort, listener, tune

WRITE_BYTES = 1 << 16
"""Written at once, at least, where messages are sent one behind the other."""
STALL_S = 5.0
"""How long the peer may leave no room for what we send, before we go on with the next step."""
CONNECT_S = 10.0
DIALS_AT_ONCE = 200
SPARE_FILES = 64
"""File descriptors that are for other things than connections."""
_SEQUENCE_BYTES = 8


class TcpStage:
    """Implements ``stage.Stage``. ``news`` is called for what does not happen on the connection of a path."""

    def __init__(self, scenario: Scenario, match: Match, hear: Hear, news: Callable[[], None], tap: Tap | None) -> None:
        self._scenario = scenario
        self._match = match
        self._hear = hear
        self._news = news
        self._tap = tap
        chance = random.Random(match.seed)  # noqa: S311
        self._builder = Builder(scenario.ports, 1 + chance.randrange(0xFFFFFFFF))
        self._dialler = Dialler(Settings(), chance.randrange(1 << 16))
        self._loop = asyncio.get_running_loop()
        self._wires: dict[str, Wire] = {}
        self._all: list[Wire] = []
        self._crowd: list[Wire] = []
        self._refused = 0
        self._dialled = False
        self._crossed = False
        """The peer has connected since we did, although its address is the larger one."""
        self._come: asyncio.Queue[Wire] = asyncio.Queue()
        self._sequences = dict.fromkeys(scenario.paths, 1)

    @property
    def doubt(self) -> str:
        """The peer was busy with a connection of its own, or with the one of the scenario before."""
        if self._crossed:
            return "the peer connected to us at the same time"
        if any(wire.dismissed for wire in self._all):
            return "the peer ended a connection before it said anything"
        return ""

    @asynccontextmanager
    async def ready(self) -> AsyncIterator[None]:
        """Listen where the peer is to connect, and leave nothing open."""
        sock: socket.socket | None = None
        accepting: asyncio.Task[None] | None = None
        if self._scenario.role is Role.LARGER:
            sock = listener(self._match.own, TCP_PORT, Settings())
            accepting = asyncio.create_task(self._accept(sock))
        else:
            with suppress(TransportError):  # another program has the port: its peers are not ours to watch
                sock = listener(self._match.own, TCP_PORT, Settings())
                accepting = asyncio.create_task(self._watch(sock))
        try:
            yield
        finally:
            if accepting is not None and sock is not None:
                accepting.cancel()
                await asyncio.gather(accepting, return_exceptions=True)
                sock.close()
            for wire in (*self._all, *self._crowd):
                # FIN first, which acknowledges what has come: otherwise the peer sends it again next time.
                wire.finish()
                wire.reset()
            for wire in (*self._all, *self._crowd):
                await wire.gone()

    async def _accept(self, sock: socket.socket) -> None:
        while True:
            incoming = await self._next(sock)
            wire = Wire("", self._hear, self._tap, incoming=True)
            self._all.append(wire)
            await self._loop.create_connection(lambda wire=wire: wire, sock=incoming)  # type: ignore[misc]
            self._come.put_nowait(wire)

    async def _next(self, sock: socket.socket) -> socket.socket:
        """The next connection. ``sock_accept`` would leave one open that comes as the wait is cancelled."""
        while True:
            with suppress(BlockingIOError, InterruptedError, ConnectionAbortedError):
                incoming, _ = sock.accept()
                incoming.setblocking(False)
                return incoming
            readable: asyncio.Future[None] = self._loop.create_future()
            self._loop.add_reader(sock, _set, readable)
            try:
                await readable
            finally:
                self._loop.remove_reader(sock)

    async def _watch(self, sock: socket.socket) -> None:
        """Refuse the larger peer, as a node does, and remember that it came."""
        while True:
            incoming = await self._next(sock)
            abort(incoming)
            self._crossed = self._dialled
            self._news()

    # ---- What we do

    async def act(self, step: Send) -> str:
        """Do a step of ours."""
        match step.action:
            case Action.CONNECT:
                return await self._connect(step)
            case Action.CROWD:
                return await self._gather(step)
            case Action.FINISH:
                self._wire(step).finish()
                return "FIN"
            case Action.RESET:
                self._wire(step).reset()
                return "RST"
            case Action.WAIT:
                return f"waited {step.after_s:g} s"
            case _:
                return await self._send_bytes(step)

    async def _connect(self, step: Send) -> str:
        wire = Wire(step.path, self._hear, self._tap, incoming=False)
        path = self._scenario.paths[step.path] if step.source_path is None else step.source_path
        self._dialled = True
        try:
            await self._dial(wire, path)
        except (ConnectionResetError, BrokenPipeError) as problem:
            # It was established and ended at once, or the answer would be a refusal.
            wire.connection_lost(problem)
        except OSError as problem:
            why = os.strerror(problem.errno) if problem.errno else str(problem)
            raise TransportError(
                f"{self._match.peer} takes no connection on TCP port {TCP_PORT} ({why}): does it speak RDS over TCP?"
            ) from None
        except TimeoutError:
            raise TransportError(f"{self._match.peer} did not answer within {CONNECT_S:g} s") from None
        self._all.append(wire)
        self._wires[step.path] = wire
        if not step.reading and wire.usable:
            wire.stop_reading()
        return f"connected {wire.describe()}"

    async def _dial(self, wire: Wire, path: int) -> None:
        sock = self._dialler.dial(self._match.own, self._match.peer, path, MAX_PATHS)
        try:
            connected: asyncio.Future[None] = self._loop.create_future()
            self._loop.add_writer(sock, _set, connected)
            try:
                async with asyncio.timeout(CONNECT_S):
                    await connected
            finally:
                self._loop.remove_writer(sock)
            number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number:
                raise OSError(number, os.strerror(number))
            # Keep-alive shows whether the peer has it, too: what a full backlog has dropped looks open for ever.
            tune(sock)
            await self._loop.create_connection(lambda: wire, sock=sock)
        except BaseException:
            sock.close()
            raise

    async def _gather(self, step: Send) -> str:
        """Open many connections. How many of them the peer refuses or ends, ``crowd`` tells later."""
        _allow_files(step.count + SPARE_FILES)
        path = self._scenario.paths[step.path]
        limit = asyncio.Semaphore(DIALS_AT_ONCE)

        async def one() -> None:
            async with limit:
                wire = Wire("", lambda _wire, _came: self._news(), None, incoming=False)
                try:
                    await self._dial(wire, path)
                except (OSError, TimeoutError):
                    self._refused += 1
                else:
                    self._crowd.append(wire)

        await asyncio.gather(*(one() for _ in range(step.count)))
        return f"{step.count} connections, {self._refused} refused at once"

    async def _send_bytes(self, step: Send) -> str:
        wire = self._wire(step)
        before = wire.sent_bytes
        patience = STALL_S * self._match.patience
        sent, held = 0, bytearray()
        for data in self._pieces(step):
            sent += 1
            if step.every_s or step.chunk_bytes:
                going = await self._drip(wire, data, step, patience)
            else:
                held += data
                going = len(held) < WRITE_BYTES or await wire.write(bytes(held), patience)
                if len(held) >= WRITE_BYTES:
                    held.clear()
            if not going:
                break
        if held:
            await wire.write(bytes(held), patience)
        ended = f"; the peer had {wire.ended} it" if wire.ended and not wire.usable else ""
        return f"{sent_words(step, sent)}: {wire.sent_bytes - before} bytes{ended}"

    @staticmethod
    async def _drip(wire: Wire, data: bytes, step: Send, patience: float) -> bool:
        size = step.chunk_bytes or len(data) or 1
        for at in range(0, len(data), size):
            if not await wire.write(data[at : at + size], patience):
                return False
            await asyncio.sleep(step.every_s)
        return True

    def _pieces(self, step: Send) -> Iterable[bytes]:
        if step.action not in MESSAGES:
            return repeat(raw_bytes(step.values), step.count)
        own = step.values.get("sequence")
        first = self._sequences[step.path] if own is None else own
        data = self._builder.message(step.action, step.values, first)
        if step.action is Action.CONGESTION:
            return repeat(data[: step.cut_bytes], step.count)
        self._sequences[step.path] = first + step.count
        if "checksum" in step.values:
            made = (
                self._builder.message(step.action, {**step.values, "sequence": first + number}, 0)
                for number in range(step.count)
            )
            return (each[: step.cut_bytes] for each in made)
        return _numbered(data, first, step)

    def _wire(self, step: Send) -> Wire:
        found = connection_of(self, self._scenario.file, step)
        assert isinstance(found, Wire)
        return found

    # ---- What the peer does

    def heard(self, path: str) -> Hearing | None:
        """The connection of a path."""
        return self._wires.get(path)

    def excused(self, _step: Expect, _came: Came) -> bool:
        """False: over TCP a scenario is played again as a whole."""
        return False

    async def incoming(self, step: Expect) -> str:
        """A connection of the peer."""
        wire = await self._come.get()
        wire.name = step.path
        self._wires[step.path] = wire
        return f"connection {wire.describe()}"

    def crowd(self) -> Crowd:
        """What has become of the connections; those that were refused at once were asked for too."""
        return Crowd(sum(wire.ended is None for wire in self._crowd), len(self._crowd) + self._refused)


def _numbered(message: bytes, first: int, step: Send) -> Iterator[bytes]:
    """The same message again and again, with ascending sequence numbers."""
    rest = message[_SEQUENCE_BYTES:]
    for number in range(step.count):
        sequence = (first + number) & 0xFFFFFFFFFFFFFFFF
        yield (sequence.to_bytes(_SEQUENCE_BYTES, "big") + rest)[: step.cut_bytes]


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _allow_files(number: int) -> None:
    """See that so many files can be open. Raises ``UsageError``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < number:
        if hard != resource.RLIM_INFINITY and hard < number:
            raise UsageError(
                f"{number} open files are needed, {hard} are allowed: raise the limit (ulimit -n {number})"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
