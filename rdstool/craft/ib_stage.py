"""Scenarios over InfiniBand: reliable connections of either provider, without a protocol engine of RDS.

Connections keep to the rules of InfiniBand by themselves: they acknowledge, send again and answer requests. What a
scenario breaks of these it sends beside them, as single packets, which only the provider ``roce`` can.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from rdstool.craft.build import raw_bytes
from rdstool.craft.hearing import Came, Hear, Hearing
from rdstool.craft.ib_build import IbBuilder, private_data, target
from rdstool.craft.ib_line import Line
from rdstool.craft.ib_packets import SEQUENCE_ERROR, Packets
from rdstool.craft.judge import Match, sent_words
from rdstool.craft.scenario import ACCEPTED, MESSAGES, NAK, REJECTED, REMOTE, Action, Expect, Scenario, Send
from rdstool.craft.stage import Crowd, connection_of
from rdstool.errors import UsageError
from rdstool.protocol.ib.header import FRAME_BYTES
from rdstool.protocol.ib.memory import Access
from rdstool.protocol.ib.private import INCOMPATIBLE, service_id
from rdstool.transport.alarm import Alarm
from rdstool.transport.base import Tap
from rdstool.transport.ib import provider as verbs
from rdstool.transport.ib.choice import provider_named
from rdstool.transport.ib.roce_udp import RoceProvider

RECEIVES = 256
"""Posted on each connection."""
SENDS_AHEAD = 256
"""Frames that wait to be acknowledged before the next one is posted."""
STALL_S = 5.0
"""How long the peer may take no frame, before we go on with the next step."""
ASK_AGAIN_S = 0.05, 0.5
"""Least and longest wait before a request is made again. It was refused because it may have crossed the peer's own."""


class IbStage:
    """Implements ``stage.Stage``. ``news`` is called for what does not happen on the connection of a path."""

    doubt = ""
    """None: a request that crosses another is refused, and made again."""

    def __init__(self, scenario: Scenario, match: Match, hear: Hear, news: Callable[[], None], tap: Tap | None) -> None:
        self._scenario = scenario
        self._match = match
        self._hear = hear
        self._news = news
        self._builder = IbBuilder(scenario.ports)
        self._chance = random.Random(match.seed)  # noqa: S311
        self._loop = asyncio.get_running_loop()
        self._alarm = Alarm(self._loop, self._turn)
        self._stirred = asyncio.Event()
        self._later: dict[str, asyncio.TimerHandle] = {}
        """Requests that are to be made once more, by path."""
        self._tap = tap
        self._provider = provider_named(match.provider, match.make_socket)(match.own)
        self._packets = Packets(self._provider) if isinstance(self._provider, RoceProvider) else None
        self._lines: dict[verbs.Connection, Line] = {}
        self._by_path: dict[str, Line] = {}
        self._asked: dict[str, Send] = {}
        """The last request of each path."""
        self._crowd: list[Line] = []
        self._sequences = dict.fromkeys(scenario.paths, 1)

    @asynccontextmanager
    async def ready(self) -> AsyncIterator[None]:
        """Refuse what the peer asks for, and leave nothing open."""
        provider = self._provider
        try:
            if self._tap is not None or self._packets is not None:
                provider.set_tap(self._packet)
            provider.listen(service_id(self._match.own))
            for fileno in provider.filenos():
                self._loop.add_reader(fileno, self._turn)
            yield
        finally:
            self._alarm.set(None)
            for timer in self._later.values():
                timer.cancel()
            for fileno in provider.filenos():
                self._loop.remove_reader(fileno)
            for connection in list(self._lines):
                connection.disconnect()
            provider.process(self._loop.time())
            provider.close()

    # ---- The provider

    def _turn(self) -> None:
        """Let the provider receive and send, and tell what has happened."""
        while events := self._provider.process(self._loop.time()):
            for event in events:
                self._happened(event)
        self._alarm.set(self._provider.next_timer())
        self._stirred.set()

    def _happened(self, event: verbs.Event) -> None:
        if isinstance(event, verbs.ConnectRequested):
            event.connection.reject(INCOMPATIBLE)
            return
        line = self._lines.get(event.connection)
        if line is None:
            return
        if isinstance(event, verbs.Completed) and event.operation is verbs.Operation.RECEIVE:
            if event.status is not verbs.Status.SUCCESS:
                return  # flushed, as each that would take its place
            event.connection.post_receive(0, FRAME_BYTES)
        line.happened(event, naks_seen=self._packets is not None)
        if line.ended is not None:
            del self._lines[event.connection]
            if isinstance(event, verbs.Broken):
                event.connection.disconnect()

    def _packet(self, _now: float, frame: bytes) -> None:
        """A packet was sent or has come."""
        if self._tap is not None:
            self._tap.packet(frame)
        if self._packets is None or (nak := self._packets.nak(frame, self._match.peer)) is None:
            return
        for line in self._lines.values():
            if self._packets.is_of(line, nak) and (line.provoked or nak.syndrome != SEQUENCE_ERROR):
                line.tell(NAK, None, {"syndrome": nak.syndrome, "psn": nak.psn})

    # ---- What we do

    async def act(self, step: Send) -> str:
        """Do a step of ours."""
        if step.action is Action.WAIT:
            return f"waited {step.after_s:g} s"
        if step.action in {Action.CONNECT, Action.CROWD, Action.FINISH}:
            return self._dialogue(step)
        if step.action is Action.PACKET:
            return await self._send_packets(step)
        return await (self._use_memory(step) if step.action in REMOTE else self._send(step))

    def _dialogue(self, step: Send) -> str:
        """What RDMA-CM does."""
        if step.action is Action.CROWD:
            return self._gather(step)
        if step.action is Action.CONNECT:
            self._asked[step.path] = step
            return self._connect(step.path)
        connection = self._line(step).connection
        # What is flushed, and what the peer still sends, is of no interest: the next request begins anew.
        self._lines.pop(connection, None)
        connection.disconnect()
        self._turn()
        return "DREQ"

    def _connect(self, path: str) -> str:
        step, match = self._asked[path], self._match
        data = private_data(step.values, match.own, match.peer, self._scenario.paths[path])
        line = self._by_path.setdefault(path, Line(path, self._hear))
        self._ask(line, data)
        self._turn()
        return sent_words(step, 1)

    def _ask(self, line: Line, data: bytes) -> None:
        peer = self._match.peer
        options = verbs.ConnectionOptions(path_mtu=self._provider.path_mtu(peer))
        connection = self._provider.connect(peer, service_id(peer), data, options)
        line.begin(connection)
        self._lines[connection] = line
        for _ in range(RECEIVES):
            connection.post_receive(0, FRAME_BYTES)

    def _gather(self, step: Send) -> str:
        """Ask for many connections, all at once; each is asked for again until it is answered."""
        data = private_data({}, self._match.own, self._match.peer, self._scenario.paths[step.path])
        for _ in range(step.count):
            self._crowd.append(Line("", lambda _line, _came: self._news()))
            self._ask(self._crowd[-1], data)
        self._turn()
        return f"{step.count} requests"

    async def _send(self, step: Send) -> str:
        """Messages, or bytes, each in SENDs of its own."""
        line = self._line(step)
        frames = size = 0
        first = self._first_sequence(step)
        for number in range(step.count):
            for frame in self._frames(step, first + number, line.ack):
                if not await self._room(line):
                    return f"{sent_words(step, number)}: {frames} frames, {size} bytes; no more were taken"
                line.connection.post_send(0, frame, solicited=True)
                line.posted += 1
                frames, size = frames + 1, size + len(frame)
            if step.every_s:
                self._turn()
                await asyncio.sleep(step.every_s)
        self._turn()
        return f"{sent_words(step, step.count)}: {frames} frames, {size} bytes"

    def _frames(self, step: Send, sequence: int, ack: int) -> list[bytes]:
        if step.action not in MESSAGES:
            return [raw_bytes(step.values)]
        values = _numbered(step, sequence)
        return [each[: step.cut_bytes] for each in self._builder.frames(step.action, values, sequence, ack)]

    def _first_sequence(self, step: Send) -> int:
        """The number of the step's first message; those behind it count on."""
        first: int = step.values.get("sequence", self._sequences[step.path])
        if step.action not in {Action.CONGESTION, Action.BYTES}:
            self._sequences[step.path] = first + step.count
        return first

    async def _room(self, line: Line) -> bool:
        """Wait until the peer has taken enough; False where it takes nothing more."""
        if line.posted >= SENDS_AHEAD:
            self._turn()
        while line.posted >= SENDS_AHEAD and line.ended is None:
            self._stirred.clear()
            try:
                async with asyncio.timeout(STALL_S * self._match.patience):
                    await self._stirred.wait()
            except TimeoutError:
                return False
        return line.ended is None

    async def _use_memory(self, step: Send) -> str:
        line, values = self._line(step), step.values
        for _ in range(step.count):
            self._post(step.action, line.connection, values)
            self._turn()
            await asyncio.sleep(step.every_s)
        return sent_words(step, step.count)

    def _post(self, action: Action, connection: verbs.Connection, values: Mapping[str, Any]) -> None:
        address, rkey = target(values, self._match.cookie)
        size = values.get("size", 0)
        match action:
            case Action.WRITE:
                connection.post_write(0, bytes(size), address, rkey)
            case Action.READ:
                region = self._provider.register(bytearray(max(size, 1)), Access.LOCAL_WRITE)
                connection.post_read(0, verbs.Segment(region.address, size, region.lkey), address, rkey)
            case Action.FETCH_ADD:
                connection.post_fetch_add(0, address, rkey, values.get("add", 0))
            case _:
                connection.post_compare_swap(0, address, rkey, values.get("compare", 0), values.get("swap", 0))

    async def _send_packets(self, step: Send) -> str:
        """Single packets, beside what the connection sends by itself and without its knowledge."""
        line, packets = self._line(step), self._packets
        if packets is None or not line.established:
            raise UsageError(f'{self._scenario.file}:{step.line}: expect "accepted" before the first packet')
        first = self._first_sequence(step)
        for number in range(step.count):
            carried = self._builder.carried(_numbered(step, first + number), first + number, line.ack)
            queue_pair, psn = packets.next_of(line)
            packet = self._builder.packet(step.values, queue_pair, psn + number, carried)
            line.provoked = True
            packets.send(line, packet, good=step.values.get("icrc") != "bad")
            self._turn()
            await asyncio.sleep(step.every_s)
        return f"{sent_words(step, step.count)}: {len(carried)} bytes behind the headers"

    def _line(self, step: Send) -> Line:
        found = connection_of(self, self._scenario.file, step)
        assert isinstance(found, Line)
        return found

    # ---- What the peer does

    def heard(self, path: str) -> Hearing | None:
        """The connection of a path."""
        return self._by_path.get(path)

    def excused(self, step: Expect, came: Came) -> bool:
        """A refusal where none is expected: the peer may have asked at the same time. It is asked once more (§7.3)."""
        if came.what != REJECTED or ACCEPTED not in step.outcomes or REJECTED in step.outcomes:
            return False
        self._by_path[step.path].ended = None
        wait_s = self._chance.uniform(*ASK_AGAIN_S)
        self._later[step.path] = self._loop.call_later(wait_s, self._connect, step.path)
        return True

    async def incoming(self, step: Expect) -> str:
        """Raise ``UsageError``: the peer's requests are refused, so no connection of it can be waited for."""
        raise UsageError(f"{self._scenario.file}:{step.line}: no connection of the peer is taken over InfiniBand")

    def crowd(self) -> Crowd:
        """What has become of the connections; one that is not answered yet counts as open."""
        return Crowd(sum(line.ended is None for line in self._crowd), len(self._crowd))


def _numbered(step: Send, sequence: int) -> dict[str, Any]:
    """What the scenario says of one message of several: where it gives a sequence number, that of this message."""
    values = dict(step.values)
    if "sequence" in values:
        values["sequence"] = sequence
    return values
