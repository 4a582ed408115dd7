"""Plays a scenario against a peer, step by step, and judges what the peer does."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from itertools import repeat

from dissectors.wire.rds import TCP_PORT
from rdstool.craft.build import Builder, raw_bytes
from rdstool.craft.judge import Differs, Line, Match, Seen, Verdict, meets, words
from rdstool.craft.scenario import (
    CONNECTION,
    CROWD,
    MESSAGES,
    SILENCE,
    Action,
    Expect,
    Role,
    Scenario,
    Send,
)
from rdstool.craft.wire import Came, Wire
from rdstool.errors import TransportError, UsageError
from rdstool.protocol.addresses import rank, same_family
from rdstool.protocol.config import Settings
from rdstool.transport.base import Tap
from rdstool.transport.tcp.sockets import Dialler, abort, listener

WRITE_BYTES = 1 << 16
"""Written at once, at least, where messages are sent one behind the other."""
STALL_S = 5.0
"""How long the peer may leave no room for what we send, before we go on with the next step."""
CONNECT_S = 10.0
DIALS_AT_ONCE = 200
KEPT_LINES = 1000
"""Of one scenario; floods would be endless."""
CROSSED_TRIES = 5
"""A larger peer that connects while we do may forget our connection; then the scenario is played again.

Linux 7.3 was seen to: nine of 328 connections to it were never read from, and behind the SYN of each of the nine came
one of its own within 5 ms. It asks to be connected to after most scenarios, with its last answer still unacknowledged.
"""
SPARE_FILES = 64
"""File descriptors that are for other things than connections."""
_SEQUENCE_BYTES = 8


async def play(
    scenario: Scenario, match: Match, *, tap: Tap | None = None, tell: Callable[[Line], None] = lambda _line: None
) -> Verdict:
    """Play it. ``tell`` gets each line as it happens.

    Raises ``TransportError`` where the peer cannot be reached at all, ``UsageError`` where the addresses do not fit.
    """
    check(scenario, match)
    for again in range(CROSSED_TRIES):
        player = _Player(scenario, replace(match, seed=match.seed + (again << 32)), tap, tell)
        async with player.ready():
            await player.play()
        if not player.verdict.difference or not player.crossed:
            break
        if again + 1 < CROSSED_TRIES:
            player.say_crossed()
    return player.verdict


def check(scenario: Scenario, match: Match) -> None:
    """Raises ``UsageError`` where the addresses are not what the scenario needs."""
    if not same_family(match.own, match.peer) or match.own == match.peer:
        raise UsageError(f"{match.own} and {match.peer} cannot be the two ends of a connection: name another --from")
    if (rank(match.own) < rank(match.peer)) is not (scenario.role is Role.SMALLER):
        raise UsageError(
            f"{scenario.id} needs an own address that is {scenario.role.value} than the peer's {match.peer}, "
            f"{match.own} is not: name another --from"
        )


class _Player:
    def __init__(self, scenario: Scenario, match: Match, tap: Tap | None, tell: Callable[[Line], None]) -> None:
        self.verdict = Verdict(scenario)
        self._scenario = scenario
        self._match = match
        self._tap = tap
        self._tell_line = tell
        chance = random.Random(match.seed)  # noqa: S311
        self._builder = Builder(scenario.ports, 1 + chance.randrange(0xFFFFFFFF))
        self._dialler = Dialler(Settings(), chance.randrange(1 << 16))
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._wires: dict[str, Wire] = {}
        self._all: list[Wire] = []
        self._crowd: list[Wire] = []
        self._refused = 0
        self._dialled = False
        self.crossed = False
        """The peer connected although it is the larger one, since we did."""
        self._come: asyncio.Queue[Wire] = asyncio.Queue()
        self._news = asyncio.Event()
        self._sequences = dict.fromkeys(scenario.paths, 1)

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
            self.crossed = self._dialled
            self._news.set()

    def say_crossed(self) -> None:
        """Tell that what was seen says nothing about the scenario."""
        self._say("", "the peer connected to us at the same time: once more", "")

    async def play(self) -> None:
        """All steps, up to the first where the peer does otherwise."""
        for step in self._scenario.steps:
            if isinstance(step, Send):
                await asyncio.sleep(step.after_s)
                await self._send(step)
                continue
            try:
                done = await self._expect(step)
            except Differs as difference:
                self.verdict.difference, self.verdict.line = str(difference), step.line
                self._say("", f"expected {words(step)}: {difference}", step.path, step.line, "differs")
                return
            self._say("", f"expected {words(step)}: {done}", step.path, step.line, "ok")

    # ---- What we do

    async def _send(self, step: Send) -> None:
        match step.action:
            case Action.CONNECT:
                await self._connect(step)
            case Action.CROWD:
                await self._gather(step)
            case Action.FINISH:
                self._wire(step).finish()
                self._did(step, "FIN")
            case Action.RESET:
                self._wire(step).reset()
                self._did(step, "RST")
            case Action.WAIT:
                self._did(step, f"waited {step.after_s:g} s")
            case _:
                await self._send_bytes(step)

    async def _connect(self, step: Send) -> None:
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
        self._did(step, f"connected {wire.describe()}")

    async def _dial(self, wire: Wire, path: int) -> None:
        sock = self._dialler.dial(self._match.own, self._match.peer, path)
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
            await self._loop.create_connection(lambda: wire, sock=sock)
        except BaseException:
            sock.close()
            raise

    async def _gather(self, step: Send) -> None:
        """Open many connections; what the peer refuses or ends is counted when it is asked for."""
        _allow_files(step.count + SPARE_FILES)
        path = self._scenario.paths[step.path]
        limit = asyncio.Semaphore(DIALS_AT_ONCE)

        async def one() -> None:
            async with limit:
                wire = Wire("", lambda _wire, _came: self._news.set(), None, incoming=False)
                try:
                    await self._dial(wire, path)
                except (OSError, TimeoutError):
                    self._refused += 1
                else:
                    self._crowd.append(wire)

        await asyncio.gather(*(one() for _ in range(step.count)))
        self._did(step, f"{step.count} connections, {self._refused} refused at once")

    async def _send_bytes(self, step: Send) -> None:
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
        self._did(step, self._sent_words(step, sent, wire.sent_bytes - before, wire))

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

    @staticmethod
    def _sent_words(step: Send, count: int, size: int, wire: Wire) -> str:
        what = "bytes" if step.action is Action.BYTES else step.action.value
        times = f" {count} times" if count > 1 else ""
        details = ", ".join(f"{key} {_short(value)}" for key, value in step.values.items())
        ended = f"; the peer had {wire.ended} it" if wire.ended and not wire.usable else ""
        return f"{what}{times}{f' ({details})' if details else ''}: {size} bytes{ended}"

    def _wire(self, step: Send | Expect) -> Wire:
        wire = self._wires.get(step.path)
        if wire is None:
            raise UsageError(f"{self._scenario.file}:{step.line}: there is no connection {step.path!r} yet")
        return wire

    # ---- What the peer does

    def _hear(self, wire: Wire, came: Came) -> None:
        self._say("<-", came.words(), wire.name)
        self._news.set()

    async def _expect(self, step: Expect) -> str:
        """What happened, where it is allowed. Raises ``Differs``."""
        began = self._loop.time()
        deadline = began + step.within_s * self._patience(step)
        if step.outcomes == (CONNECTION,):
            return await self._incoming_connection(step, deadline)
        if CROWD in step.outcomes:
            return await self._thinned(step, deadline)
        wire = self._wire(step)
        seen = Seen()
        while True:
            self._news.clear()
            while wire.inbox:
                if meets(wire.inbox.popleft(), step, seen):
                    return seen.last
            if wire.ended is not None:
                if wire.ended in step.outcomes:
                    return wire.ended
                raise Differs(f"the connection was {wire.ended}")
            if not await self._anything_until(began + step.within_s * self._patience(step)):
                break
        if SILENCE in step.outcomes:
            return f"silence for {step.within_s:g} s"
        count = f"{seen.count} came" if step.count > 1 else "nothing of that came"
        raise Differs(f"{count} within {step.within_s:g} s{seen.near}")

    def _patience(self, step: Expect) -> float:
        """The factor for a step's time. What the peer has crossed is not waited for long: it is played again."""
        if SILENCE in step.outcomes:
            return 1.0
        return min(self._match.patience, 1.0) if self.crossed else self._match.patience

    async def _anything_until(self, deadline: float) -> bool:
        try:
            async with asyncio.timeout_at(deadline):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

    async def _incoming_connection(self, step: Expect, deadline: float) -> str:
        try:
            async with asyncio.timeout_at(deadline):
                wire = await self._come.get()
        except TimeoutError:
            raise Differs(f"no connection came within {step.within_s:g} s") from None
        wire.name = step.path
        self._wires[step.path] = wire
        return f"connection {wire.describe()}"

    async def _thinned(self, step: Expect, deadline: float) -> str:
        """Wait until few enough connections are open."""
        assert step.at_most is not None
        while True:
            self._news.clear()
            open_still = [wire for wire in self._crowd if wire.ended is None]
            if len(open_still) <= step.at_most:
                return f"{len(open_still)} of {len(self._crowd) + self._refused} connections are open"
            if not await self._anything_until(deadline):
                raise Differs(f"{len(open_still)} connections are open after {step.within_s:g} s")

    # ---- Telling

    def _did(self, step: Send, text: str) -> None:
        self._say("->", text, step.path, step.line)

    def _say(self, arrow: str, text: str, path: str, line: int | None = None, verdict: str = "") -> None:
        said = Line(self._loop.time() - self._began, arrow, text, path, line, verdict)
        if len(self.verdict.lines) < KEPT_LINES:
            self.verdict.lines.append(said)
            self._tell_line(said)
        elif len(self.verdict.lines) == KEPT_LINES or verdict:
            more = said if verdict else replace(said, text="… and more that is not shown")
            self.verdict.lines.append(more)
            self._tell_line(more)


def _numbered(message: bytes, first: int, step: Send) -> Iterator[bytes]:
    """The same message again and again, with ascending sequence numbers."""
    rest = message[_SEQUENCE_BYTES:]
    for number in range(step.count):
        sequence = (first + number) & 0xFFFFFFFFFFFFFFFF
        yield (sequence.to_bytes(_SEQUENCE_BYTES, "big") + rest)[: step.cut_bytes]


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _allow_files(number: int) -> None:
    """See that so many files can be open. Raises ``UsageError``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < number:
        if hard != resource.RLIM_INFINITY and hard < number:
            raise UsageError(
                f"{number} open files are needed, {hard} are allowed: raise the limit (ulimit -n {number})"
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
