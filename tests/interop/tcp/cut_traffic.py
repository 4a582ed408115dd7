"""Messages both ways between pairs of sockets, while TCP connections are cut; and what has become of each of them.

A message is known by its turn, its place in what its socket sends: its size tells it, and its bytes prove it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import rdstool
from rdstool.capture.message import Message
from rdstool.capture.streams import Stream
from rdstool.endpoint.node import AsyncSocket
from rdstool.lab import RdsSocket, digest, payload
from rdstool.protocol import events
from rdstool.protocol.connection import Connection
from tests.interop.tcp.meeting import PATIENCE_S, Meeting

SOCKETS, MESSAGES, SIZE = 8, 150, 3000
DAMAGED = -1
"""The turn of a message that nobody has sent so."""
MARKER = 8
"""Bytes of a message that shows that all before it has come, or never will: a path keeps the order."""
MARKER_S = 10.0
"""How long a marker is waited for before the next: a kernel may lose one of them, too."""
POLL_S = 0.5
"""For one question to the kernel for messages."""

Turns = list[int]
Cut = Callable[[], Awaitable[bool]]
"""Cuts the connections; whether there were any."""


def text(index: int, turn: int) -> tuple[int, int]:
    """Seed and size of a message of a pair of sockets."""
    return 1000 * index + turn, SIZE + turn


DIGESTS = [[digest(payload(*text(index, turn))) for turn in range(MESSAGES)] for index in range(SOCKETS)]


def turn_of(index: int, length: int, sha256: str | None) -> int:
    """Which message it is that came to a pair of sockets."""
    turn = length - SIZE
    return turn if 0 <= turn < MESSAGES and DIGESTS[index][turn] == sha256 else DAMAGED


def amiss(came: list[Turns]) -> str:
    """Where this is not every message once and in order: a line for each such socket, with the turns."""
    found = []
    for index, turns in enumerate(came):
        if turns == list(range(MESSAGES)):
            continue
        counts = Counter(turns)
        lost = [turn for turn in range(MESSAGES) if not counts[turn]]
        doubled = [turn for turn, times in counts.items() if times > 1]
        late = [turn for at, turn in enumerate(turns) if turn < max(turns[:at], default=turn)]
        kinds = {
            "lost": lost,
            "more than once": doubled,
            "behind a later one": late,
            "damaged": [*{DAMAGED} & {*counts}],
        }
        found.append(f"socket {index}: " + ", ".join(f"{kind} {turns}" for kind, turns in kinds.items() if turns))
    return "\n".join(found)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A message that came to rdstool over TCP, whatever became of it then."""

    turn: int
    path: int
    """Which rdstool had its connection on."""
    flagged: bool
    """RETRANSMITTED."""


class Traffic:
    """All messages of one meeting. ``run`` has them sent."""

    def __init__(self, meeting: Meeting, here: list[AsyncSocket], there: list[RdsSocket]) -> None:
        self.meeting = meeting
        self.to_rdstool: list[Turns] = [[] for _ in here]
        self.to_kernel: list[Turns] = [[] for _ in here]
        self._here, self._there = here, there
        self._ports = [sock.getsockname()[1] for sock in here]
        self._marked_here: set[int] = set()
        self._marked_there: set[int] = set()
        self._came = asyncio.Condition()
        self._paths: dict[int, int] = {}
        """TCP port of who dialled -> path of rdstool."""
        meeting.node.on_event(self._note_path)
        for path in meeting.connection.paths:
            self._note(path.index)

    # ---- Which path is whose

    def _note_path(self, event: events.Event) -> None:
        if isinstance(event, events.PathUp):
            self._note(event.path)

    def _note(self, path: int) -> None:
        connection: Connection = self.meeting.connection
        link = connection.paths[path].link
        if link is not None:
            self._paths[link.peer_port or link.local_port] = path

    def arrivals(self, recording: Path) -> list[list[Arrival]]:
        """What came from the kernel for each socket, as the node has recorded it; once the node is closed."""
        found: list[list[Arrival]] = [[] for _ in self._here]
        for index, turn, message, stream in self._seen(recording, self.meeting.kernel):
            path = self._paths[stream.a.port if stream.a.port in self._paths else stream.b.port]
            found[index].append(Arrival(turn, path, bool(message.flags & message.flags.RETRANSMITTED)))
        return found

    def sent(self, capture: Path) -> list[Turns]:
        """What rdstool has sent, each message where it was first seen whole."""
        found: list[Turns] = [[] for _ in self._here]
        for index, turn, _, _ in self._seen(capture, self.meeting.local):
            if turn not in found[index]:
                found[index].append(turn)
        return found

    def _seen(self, path: Path, source: str) -> Iterator[tuple[int, int, Message, Stream]]:
        """Whole messages of one side in a capture: pair of sockets, turn, message, stream."""
        with rdstool.open_capture(path, rdstool.CaptureOptions(digests=True)) as capture:
            for message in capture:
                port = message.dport if source == self.meeting.kernel else message.sport
                whole = message.src == source and port in self._ports and message.complete
                if whole and message.length != MARKER:
                    index = self._ports.index(port)
                    turn = turn_of(index, message.length, message.sha256)
                    yield index, turn, message, capture.streams[message.stream]

    # ---- Sending

    async def run(self, *cuts: Cut) -> None:
        """Send everything both ways, each cut amid a part of it; then wait until all has come, or never will."""
        async with self._readers():
            bounds = [MESSAGES * number // (len(cuts) + 1) for number in range(len(cuts) + 2)]
            for cut, first, last in zip((*cuts, None), bounds, bounds[1:], strict=False):
                before = sum(map(len, self.to_rdstool))
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._kernel_sends(first, last))
                    for index in range(len(self._here)):
                        group.create_task(self._send(index, first, last))
                    if cut is not None:
                        await self._until(lambda before=before: sum(map(len, self.to_rdstool)) > before)  # type: ignore[misc]
                        await self._cut(cut)
            async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
                group.create_task(self._mark_here())
                group.create_task(self._mark_there())

    async def _cut(self, cut: Cut) -> None:
        """Cut connections, and wait until rdstool has noticed, and has all of them again."""
        meeting = self.meeting
        resets = meeting.counter("conn_reset")
        paths = meeting.connection.npaths
        await meeting.until(lambda: meeting.paths_up() == paths)
        async with asyncio.timeout(PATIENCE_S):
            while not await cut():
                pass
        await meeting.until(lambda: meeting.counter("conn_reset") > resets and meeting.paths_up() == paths)

    async def _send(self, index: int, first: int, last: int) -> None:
        for turn in range(first, last):
            await self._here[index].sendto(payload(*text(index, turn)), self._there[index].end)
            await asyncio.sleep(0)

    async def _kernel_sends(self, first: int, last: int) -> None:
        for start in range(first, last, 10):
            plan = [
                (sock, to.getsockname(), size, seed)
                for turn in range(start, min(start + 10, last))
                for index, (sock, to) in enumerate(zip(self._there, self._here, strict=True))
                for seed, size in [text(index, turn)]
            ]
            assert set(await self.meeting.ask(self.meeting.guest.rds.send_many, plan, nonblocking=True)) == {None}

    # ---- The end

    async def _mark_there(self) -> None:
        for seed in count():
            missing = [index for index in range(len(self._here)) if index not in self._marked_there]
            if not missing:
                return
            for index in missing:
                await self._here[index].sendto(payload(seed, MARKER), self._there[index].end)
            await self._until(lambda: len(self._marked_there) == len(self._here), MARKER_S)

    async def _mark_here(self) -> None:
        for seed in count():
            missing = [index for index in range(len(self._here)) if index not in self._marked_here]
            if not missing:
                return
            plan = [(self._there[index], self._here[index].getsockname(), MARKER, seed) for index in missing]
            await self.meeting.ask(self.meeting.guest.rds.send_many, plan, nonblocking=True)
            await self._until(lambda: len(self._marked_here) == len(self._here), MARKER_S)

    # ---- Receiving

    async def _until(self, condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
        """Wait for something that messages bring about; not longer than this."""
        try:
            async with asyncio.timeout(patience_s), self._came:
                await self._came.wait_for(condition)
        except TimeoutError:
            pass

    @asynccontextmanager
    async def _readers(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._read(index)) for index in range(len(self._here))]
        kernel = asyncio.create_task(self._kernel_reads())
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            self._over = True
            await asyncio.gather(*tasks, return_exceptions=True)
            await kernel

    _over = False

    async def _read(self, index: int) -> None:
        while True:
            data, _ = await self._here[index].recvfrom()
            await self._take(index, len(data), digest(data), self.to_rdstool, self._marked_here)

    async def _kernel_reads(self) -> None:
        rds = self.meeting.guest.rds
        index = {sock.number: number for number, sock in enumerate(self._there)}
        while not self._over:
            for one in await self.meeting.ask(rds.receive_many, self._there, SOCKETS, timeout_s=POLL_S):
                if one.source is not None:
                    at = index[one.socket]
                    await self._take(at, one.length, one.sha256, self.to_kernel, self._marked_there)

    async def _take(self, index: int, length: int, sha256: str, came: list[Turns], marked: set[int]) -> None:
        if length == MARKER:
            marked.add(index)
        else:
            came[index].append(turn_of(index, length, sha256))
        async with self._came:
            self._came.notify_all()
