"""tshark with the plugin and the native decoder see the same in what nodes record of themselves, too."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dissectors.wire.rds import Flags
from rdstool.capture.events import RdmaOperation
from rdstool.capture.message import messages_of
from rdstool.capture.pipeline import open_capture
from rdstool.endpoint.constants import MSG_DONTWAIT
from rdstool.endpoint.core import NodeOptions
from rdstool.endpoint.node import AsyncSocket, Node
from rdstool.endpoint.recorder import Recording
from rdstool.lab import Network
from rdstool.protocol.config import Settings
from rdstool.protocol.errors import RdmaError, WouldBlock
from rdstool.protocol.ib.memory import RdmaFlags
from rdstool.protocol.kinds import Transport
from tests.kit.hostile import RawPeer, congestion_map, message
from tests.kit.loopback import own_addresses
from tests.kit.tsharks import VERSIONS
from tests.tshark.running import compare

LIMIT_S = 120
"""How long a conversation may take."""
MIB = 1 << 20
TCP = NodeOptions(Settings(sndbuf=4 * MIB, rcvbuf=4 * MIB))
INFINIBAND = replace(TCP, transport=Transport.IB)
SOCKETS = 16
"""Of each node: enough that each of eight paths carries messages."""
LOST = 0.03
"""Part of the datagrams that a bad network loses."""


@asynccontextmanager
async def recorded(
    folder: Path, options: NodeOptions, addresses: list[str] | None = None
) -> AsyncIterator[tuple[Node, Node]]:
    """Two nodes, the one with the smaller address first; each writes to a file of its own."""
    small, large = addresses or own_addresses(2)
    first, second = (replace(options, pcap=folder / f"{name}.pcapng") for name in ("small", "large"))
    async with Node(small, options=first) as one, Node(large, options=second) as other:
        yield one, other


async def talk(one: Node, other: Node, *sizes: int) -> None:
    """Messages there and back between sockets of many ports, one size after the other; and pings of both sides."""
    for number in range(max(SOCKETS, len(sizes))):
        near, far = one.socket(4000 + number), other.socket(5000 + number)
        size = sizes[number % len(sizes)]
        await near.sendto(os.urandom(size), far.getsockname())
        await far.sendto((await far.recvfrom())[0], near.getsockname())
        await near.recv()
        for pinging, peer in ((near, far), (far, near)):
            await pinging.sendto(b"", (peer.getsockname()[0], 0))
            await pinging.recv()
        for sock in (near, far):
            await sock.drain()
            sock.close()


# ---- Conversations. Each leaves files in a folder.


async def over_paths(folder: Path, paths: int) -> None:
    options = replace(TCP, settings=replace(TCP.settings, paths=paths))
    async with recorded(folder, options) as nodes:
        await talk(*nodes, 0, 1, 47, 48, 5000, 70_000, 200_000)


async def over_roce(folder: Path) -> None:
    async with recorded(folder, INFINIBAND) as nodes:
        await talk(*nodes, *[0, 1, 4095, 4096, 4097, 65_536] * 3, MIB)


async def over_ipv6(folder: Path, options: NodeOptions) -> None:
    with Network() as network:
        options = replace(options, make_socket=network.socket)
        async with recorded(folder, options, [network.smaller6, network.larger6]) as nodes:
            await talk(*nodes, 0, 1, 5000, 70_000)


async def over_a_bad_network(folder: Path) -> None:
    lots = random.Random(1)

    class Lossy(socket.socket):
        """Loses datagrams."""

        def sendto(self, data: Any, address: Any) -> int:  # type: ignore[override]
            return len(data) if lots.random() < LOST else super().sendto(data, address)

    async with recorded(folder, replace(INFINIBAND, make_socket=Lossy)) as nodes:
        await talk(*nodes, 0, 4097, 65_536, 100_000)


async def from_the_middle(folder: Path, options: NodeOptions) -> None:
    """The recording begins when the nodes are long connected."""
    small, large = own_addresses(2)
    async with Node(small, options=options) as one, Node(large, options=options) as other:
        await talk(one, other, 0, 5000, 70_000)
        file = Recording(folder / "late.pcapng")
        one.core.record(file.frame)
        await talk(one, other, 0, 5000, 70_000)
    file.close()


async def with_congestion(folder: Path, options: NodeOptions) -> None:
    options = replace(options, settings=replace(options.settings, rcvbuf=10_000))
    async with recorded(folder, options) as (one, other):
        near, far = one.socket(4000), other.socket(4001)
        await congest(near, far)
        await congest(far, near)


async def congest(sender: AsyncSocket, receiver: AsyncSocket) -> None:
    """Send until the receiver's port is congested, then have it read everything."""

    async def fill() -> None:
        while True:
            await sender.sendmsg(bytes(4000), receiver.getsockname(), flags=MSG_DONTWAIT)
            await sender.drain()

    with pytest.raises(WouldBlock):
        await fill()
    last = asyncio.create_task(sender.sendto(b"the last", receiver.getsockname()))
    while await receiver.recv() != b"the last":
        pass
    await last
    await sender.drain()


async def with_a_peer_that_restarts(folder: Path, options: NodeOptions) -> None:
    small, large = own_addresses(2)
    async with Node(small, options=replace(options, pcap=folder / "small.pcapng")) as one:
        near = one.socket(4000)
        for text in (b"first life", b"second life"):
            async with Node(large, options=options) as other:
                far = other.socket(4000)
                await far.sendto(text, near.getsockname())
                assert await near.recv() == text
                await near.sendto(text, far.getsockname())
                await far.drain()


async def with_a_cut_connection(folder: Path) -> None:
    """The peer resets its connection in the middle of a message, and takes all messages from the next one."""
    small, large = own_addresses(2)
    hello = message(0, 1, 0) + congestion_map()
    # Neither system takes all of a message: it cannot be acknowledged before the peer has read most of it.
    settings = replace(TCP.settings, tcp_sndbuf=1 << 16)
    async with Node(large, options=NodeOptions(settings, pcap=folder / "large.pcapng")) as node:
        sender = node.socket(4000)
        first = RawPeer(small)
        first.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        async with await first.reach(large):
            await first.say(hello)
            for size in (MIB, 100):
                await sender.sendto(bytes(size), (small, 4001))
            came = 0
            while came < 100_000:
                came += len(await first.hear(1 << 12))
            first.reset()
        async with await RawPeer(small).reach(large) as second:
            await second.say(hello)
            reading = asyncio.create_task(second.is_dropped())
            await sender.drain()
        reading.cancel()


async def with_rdma(folder: Path) -> None:
    async with recorded(folder, INFINIBAND) as (one, other):
        near, far = one.socket(4000), other.socket(4001)
        cookie, peer = far.offer_memory(bytearray(os.urandom(200_000))), far.getsockname()
        for size in (0, 1, 4096, 4097, 150_000):
            await near.rdma_write(cookie, os.urandom(size), peer, offset=100)
        for size in (1, 150_000):
            await near.rdma_read(cookie, bytearray(size), peer, offset=1000)
        await near.fetch_add(cookie, 2, peer)
        await near.fetch_add(cookie, 0xD0, peer, nocarry_mask=0x80)
        await near.compare_swap(cookie, 41, 7, peer)
        await near.compare_swap(cookie, 0x107, 0x333, peer, compare_mask=0xFF, swap_mask=0xF0)


async def with_memory_that_refuses(folder: Path) -> None:
    """Each refusal ends the connection; what follows goes over the next one."""
    async with recorded(folder, INFINIBAND) as (one, other):
        near, far = one.socket(4000), other.socket(4001)
        cookie = far.offer_memory(bytearray(100), RdmaFlags(0))
        for wrong in (cookie, cookie ^ 1):
            with pytest.raises(RdmaError):
                await near.rdma_write(wrong, b"xx", far.getsockname())
            await near.sendto(b"still here", far.getsockname())
            await far.recv()


# ---- What is in them, and that both decoders agree on it.

USUAL = {"DATA", "PING", "PONG", "CONGESTION"}
HANDSHAKE = {"PROBE", "PROBE_REPLY"}
Conversation = Callable[[Path], Coroutine[Any, Any, None]]
CASES: dict[str, tuple[Conversation, set[str]]] = {
    "tcp-1-path": (partial(over_paths, paths=1), USUAL | HANDSHAKE | {"path 0"}),
    "tcp-8-paths": (partial(over_paths, paths=8), USUAL | HANDSHAKE | {f"path {number}" for number in range(8)}),
    "tcp-ipv6": (partial(over_ipv6, options=TCP), USUAL | HANDSHAKE),
    "tcp-late": (partial(from_the_middle, options=TCP), {"DATA", "PING", "PONG"}),
    "tcp-congestion": (partial(with_congestion, options=TCP), {"DATA", "congested"}),
    "tcp-restart": (partial(with_a_peer_that_restarts, options=TCP), {"DATA"} | HANDSHAKE),
    "tcp-cut": (with_a_cut_connection, {"DATA", "incomplete", "retransmitted"}),
    "roce": (over_roce, USUAL | {"fragments"}),
    "roce-ipv6": (partial(over_ipv6, options=INFINIBAND), USUAL | {"fragments"}),
    "roce-lossy": (over_a_bad_network, USUAL | {"fragments"}),
    "roce-late": (partial(from_the_middle, options=INFINIBAND), {"DATA", "PING", "PONG", "fragments"}),
    "roce-congestion": (partial(with_congestion, options=INFINIBAND), {"DATA", "congested"}),
    "roce-restart": (partial(with_a_peer_that_restarts, options=INFINIBAND), {"DATA"}),
    "roce-rdma": (with_rdma, {"rdma-read", "rdma-write", "compare-swap", "fetch-add"}),
    "roce-refused": (with_memory_that_refuses, {"DATA", "rdma-write"}),
}
"""Conversations, and what each of their recordings shows at least."""


def shown(path: Path) -> set[str]:
    """What there is in a recording, in words."""
    words = set[str]()
    with open_capture(path) as capture:
        for decoded in capture.batches():
            words |= {event.kind.value for event in decoded.events if isinstance(event, RdmaOperation)}
            for each in messages_of(decoded.messages, capture.streams):
                words |= {each.kind.name, f"path {each.path}"}
                marks = {
                    "retransmitted": Flags.RETRANSMITTED in each.flags,
                    "incomplete": not each.complete,
                    "fragments": each.fragments > 1 and each.kind.name == "DATA",
                    "congested": bool(each.congested),
                }
                words |= {word for word, holds in marks.items() if holds}
    return words


@pytest.mark.parametrize("name", CASES)
def test_no_difference_on_what_nodes_record(name: str, tmp_path: Path) -> None:
    conversation, wanted = CASES[name]

    async def hold() -> None:
        async with asyncio.timeout(LIMIT_S):
            await conversation(tmp_path)

    asyncio.run(hold())
    recordings = sorted(tmp_path.glob("*.pcapng"))
    assert recordings
    for path in recordings:
        assert wanted <= shown(path)
        for make in VERSIONS.values():
            assert compare(path, make()) == [], path.name
