"""A node of rdstool on the host's side of a guest's network, and the guest's kernel opposite it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Literal, TypeVar

import rdstool
from rdstool.endpoint.node import AsyncSocket
from rdstool.lab import Guest, Message, Network, RdsSocket, digest, payload
from rdstool.lab.capture import Capture
from rdstool.protocol import events
from rdstool.protocol.connection import Connection
from rdstool.validate.rule import Finding
from rdstool.validate.validator import validate

Role = Literal["smaller", "larger"]
"""What rdstool's address is, compared with the kernel's: the smaller one opens the TCP connections."""

PATIENCE_S = 200.0
"""How long a test waits for what must come; the guests are slow where there is no KVM."""
MIB = 1 << 20
BUFFER = 4 * MIB
SETTINGS = rdstool.Settings(sndbuf=BUFFER, rcvbuf=BUFFER)

T = TypeVar("T")


@dataclass
class Ground:
    """Where tests meet a kernel: each meeting on addresses of its own, so that nothing is known of the peer."""

    guest: Guest
    network: Network
    folder: Path
    """For what nodes record of themselves."""
    capture: Capture
    """All frames between the two."""
    recorded: list[Path] = field(default_factory=list)
    corrupted: bool = False
    """Set where the network changes bits: TCP's receivers drop such segments, but a capture of the wire has them."""
    may_have_errors: bool = False
    """Set by tests in which a kernel is known to go wrong."""
    _hosts: dict[Role, count[int]] = field(default_factory=lambda: {"smaller": count(2), "larger": count(0x101)})

    _taken: list[str] = field(default_factory=list)

    @property
    def learns_paths_late(self) -> bool:
        """Kernels before 7.0 send on path 0 until they know of others, then reset some; no generation is told."""
        return self.guest.kernel.release.startswith("6.")

    def take_address(self, role: Role, *, ipv6: bool = False) -> str:
        """An address of the host's side that this kernel has not met."""
        number = next(self._hosts[role])
        address = f"2001:db8::{number:x}" if ipv6 else f"192.0.2.{number if number < 0x100 else number - 0x100 + 100}"
        self.network.add_address(address)
        self._taken.append(address)
        return address

    def findings(self) -> list[Finding]:
        """What rdstool validate says of all frames so far; no more are taken."""
        self.capture.stop()
        with rdstool.open_capture(str(self.capture.path)) as frames:
            return list(validate(frames))

    def give_up_addresses(self) -> None:
        """Leave the network as it was."""
        for address in self._taken:
            self.network.remove_address(address)

    @asynccontextmanager
    async def meeting(
        self, role: Role, *, ipv6: bool = False, settings: rdstool.Settings = SETTINGS, address: str = ""
    ) -> AsyncIterator[Meeting]:
        """A node that records itself, on a fresh address unless one is given."""
        local = address or self.take_address(role, ipv6=ipv6)
        pcap = self.folder / f"node-{len(self.recorded)}.pcapng"
        self.recorded.append(pcap)
        options = rdstool.NodeOptions(settings, pcap=pcap, make_socket=self.network.socket)
        async with rdstool.Node(local, options=options) as node:
            yield Meeting(self.guest, node, self.network.guest6 if ipv6 else self.network.guest)


class Meeting:
    """One node and the kernel. What waits for the guest runs in another thread, for the node lives in this one."""

    def __init__(self, guest: Guest, node: rdstool.Node, kernel: str) -> None:
        self.guest = guest
        self.node = node
        self.kernel = kernel
        """Address of the guest."""
        self.local = node.addresses[0]
        self.events: list[events.Event] = []
        self._news = asyncio.Event()
        node.on_event(self._hear)

    def _hear(self, event: events.Event) -> None:
        self.events.append(event)
        self._news.set()

    def happened(self, kind: type[T]) -> list[T]:
        """The events of one class."""
        return [event for event in self.events if isinstance(event, kind)]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something holds that events of the engine bring about."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._news.clear()
                await self._news.wait()

    @property
    def connection(self) -> Connection:
        """The engine's connection with the kernel."""
        found = self.node.engine.connections[self.local, self.kernel, 0]
        assert isinstance(found, Connection)
        return found

    def paths_up(self) -> int:
        """Paths that are up."""
        return self.node.engine.up(self.local, self.kernel)

    def counter(self, name: str) -> int:
        """One of the node's counters."""
        return self.node.engine.counters.as_dict()[name]

    # ---- The guest

    async def ask(self, call: Callable[..., T], *arguments: Any, **keywords: Any) -> T:
        """Call something of the guest, while the node goes on."""
        return await asyncio.to_thread(call, *arguments, **keywords)

    async def open(self, port: int = 0, **buffers: int) -> RdsSocket:
        """A socket of the kernel."""
        return await self.ask(self.guest.rds.open, self.kernel, port, **{"sndbuf": BUFFER, "rcvbuf": BUFFER, **buffers})

    async def open_many(self, number: int) -> list[RdsSocket]:
        """Sockets of the kernel."""
        return await self.ask(self.guest.rds.open_many, number, self.kernel, sndbuf=BUFFER, rcvbuf=BUFFER)

    async def agree_on_paths(self, paths: int = 8) -> None:
        """Talk until all paths are up on both sides: kernels before 7.0 reorder what they send before they know."""
        here, there = self.node.socket(0), await self.open()
        await here.sendto(b"", (self.kernel, 0))
        assert await here.recvfrom() == (b"", (self.kernel, 0))
        await self.ask(self.guest.rds.send, there, here.getsockname())
        await here.recvfrom()
        await self.until(lambda: self.paths_up() == paths)
        here.close()
        await self.ask(self.guest.rds.close, there)

    async def connected(self) -> dict[str, Any]:
        """The kernel's record of its connection with the node."""
        (record,) = [
            each
            for each in await self.ask(self.guest.rds.table, "connections", ipv6=":" in self.local)
            if each["peer"] in {self.local, f"::ffff:{self.local}"}
        ]
        return record

    async def count_alike(self) -> None:
        """Wait until what each side has sent on path 0 is what the other one expects next."""
        async with asyncio.timeout(PATIENCE_S):
            while not await self._counts_alike():
                pass

    async def _counts_alike(self) -> bool:
        record, path = await self.connected(), self.connection.paths[0]
        return (record["next_rx"], record["next_tx"]) == (path.next_tx, path.next_rx)


Text = tuple[int, int]
"""A message's seed and size."""


def expected(texts: list[Text]) -> list[tuple[int, str]]:
    """Length and digest of messages."""
    return [(size, digest(payload(seed, size))) for seed, size in texts]


async def send(sock: AsyncSocket, to: RdsSocket, texts: list[Text]) -> None:
    """Send messages of rdstool."""
    for seed, size in texts:
        await sock.sendto(payload(seed, size), to.end)


async def read(sock: AsyncSocket, number: int, patience_s: float = PATIENCE_S) -> list[tuple[int, str]]:
    """Length and digest of messages that come to rdstool; as many as came in time."""
    found: list[tuple[int, str]] = []
    try:
        async with asyncio.timeout(patience_s):
            while len(found) < number:
                data, _ = await sock.recvfrom()
                found.append((len(data), digest(data)))
    except TimeoutError:
        pass
    return found


async def exchange(
    meeting: Meeting, here: list[AsyncSocket], there: list[RdsSocket], texts: list[list[Text]]
) -> tuple[list[list[tuple[int, str]]], list[list[tuple[int, str]]]]:
    """Send each pair of sockets its texts, both ways at once; what rdstool got, and what the kernel got."""
    rds = meeting.guest.rds
    plan = [
        (there[index], here[index].getsockname(), size, seed)
        for turn in range(max(map(len, texts)))
        for index in range(len(texts))
        for seed, size in texts[index][turn : turn + 1]
    ]
    async with asyncio.TaskGroup() as group:
        readers = [group.create_task(read(sock, len(own))) for sock, own in zip(here, texts, strict=True)]
        kernel = group.create_task(meeting.ask(rds.receive_many, there, len(plan), timeout_s=PATIENCE_S))
        sent = group.create_task(meeting.ask(rds.send_many, plan, nonblocking=True))
        for sock, to, own in zip(here, there, texts, strict=True):
            group.create_task(send(sock, to, own))
    assert set(sent.result()) == {None}
    came = kernel.result()
    return [reader.result() for reader in readers], [
        told([one for one in came if one.socket == sock.number]) for sock in there
    ]


def told(messages: list[Message]) -> list[tuple[int, str]]:
    """Length and digest of messages that came to the kernel."""
    return [(message.length, message.sha256) for message in messages if message.source is not None]
