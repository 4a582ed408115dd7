"""Peers that misbehave over real TCP: bounded memory, the reason in the log and in a counter, nobody else disturbed.

The node under attack has the largest of three addresses: the honest peer and the hostile one connect to it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import pytest

import rdstool
from dissectors.wire.extensions import GenNum, NPaths, build_extensions
from rdstool.endpoint.constants import MSG_DONTWAIT
from rdstool.protocol import events
from rdstool.protocol.config import Limits
from tests.kit.hostile import PATIENCE_S, RawPeer, congestion_map, message
from tests.kit.loopback import own_addresses

MIB = 1 << 20
WAVE = 50
"""Connections at a time, below the backlog: what is above it waits a second in the peer's system."""
PROBE = message(0, 1, 0)
"""What makes the node judge what follows: a handshake of one path."""


class Attack:
    """A node under attack, and an honest peer that is served all the time."""

    def __init__(self, node: rdstool.Node, honest: rdstool.Node, hostile: str) -> None:
        self.node = node
        self.hostile = hostile
        """Address to attack from."""
        self._ask, self._answer = honest.socket(4000), node.socket(4000)
        self._served = asyncio.Condition()
        self._rounds = 0
        self._lost = 0
        for each in (honest, node):
            each.on_event(lambda event, own=honest.addresses[0]: self._hear(event, own))  # type: ignore[misc]

    def _hear(self, event: events.Event, honest: str) -> None:
        if isinstance(event, events.PathDown) and honest in {event.local, event.peer}:
            self._lost += 1

    @property
    def target(self) -> str:
        """The node's address."""
        return self.node.addresses[0]

    def counter(self, name: str) -> int:
        """One of the node's counters."""
        return self.node.engine.counters.as_dict()[name]

    async def connect(self) -> RawPeer:
        """One more connection of the hostile peer."""
        return await RawPeer(self.hostile).reach(self.target)

    async def serve(self) -> None:
        """Have messages of the honest peer go there and back, for ever."""
        while True:
            question = b"%d" % self._rounds
            await self._ask.sendto(question, self._answer.getsockname())
            data, sender = await self._answer.recvfrom()
            await self._answer.sendto(data, sender)
            assert await self._ask.recv() == question
            async with self._served:
                self._rounds += 1
                self._served.notify_all()

    async def served(self, times: int = 20) -> None:
        """Wait until the honest peer has been served as often; it keeps its connections."""
        goal = self._rounds + times
        async with asyncio.timeout(PATIENCE_S), self._served:
            await self._served.wait_for(lambda: self._rounds >= goal)
        assert not self._lost


@asynccontextmanager
async def attack(limits: Limits | None = None) -> AsyncIterator[Attack]:
    """The honest peer is served before, throughout and after."""
    honest, hostile, target = own_addresses(3)
    options = rdstool.NodeOptions(rdstool.Settings(limits=limits or Limits()))
    async with rdstool.Node(honest) as peer, rdstool.Node(target, options=options) as node:
        underway = Attack(node, peer, hostile)
        serving = asyncio.create_task(underway.serve())
        await underway.served()
        try:
            yield underway
            await underway.served()
        finally:
            serving.cancel()
            with suppress(asyncio.CancelledError):
                await serving


@contextmanager
def bounded(limit: int) -> Iterator[None]:
    """What happens here takes no more than ``limit`` bytes of memory at any time."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < limit, f"{peak:,} bytes"


def warned(caplog: pytest.LogCaptureFixture, peer: str, reason: str) -> bool:
    """The log says why a connection of a peer ended."""
    return any(
        record.levelno == logging.WARNING and peer in record.getMessage() and reason in record.getMessage()
        for record in caplog.records
    )


@pytest.mark.parametrize("seed", range(5))
async def test_garbage_ends_its_connection_and_nothing_else(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    async with attack() as underway, await underway.connect() as peer:
        with bounded(16 * MIB):
            # No header in it is a plausible one for long: 32 random bits are nearly never a length below 1 MiB.
            noise = random.Random(seed).randbytes(MIB)
            while await peer.say(noise):
                pass
            assert await peer.is_dropped()
        assert underway.counter("dropped_oversized") == 1
        assert warned(caplog, underway.hostile, "longer message than allowed")


@pytest.mark.parametrize("cut", [1, 24, 47, 48, 49, 100])
async def test_half_a_message_is_forgotten_with_its_connection(cut: int) -> None:
    async with attack() as underway:
        sock = underway.node.socket(4100)
        for _ in range(3):
            async with await underway.connect() as peer:
                await peer.say((PROBE + message(1, 4000, 4100, bytes(1000)))[: 48 + cut])
                peer.reset()
        async with await underway.connect() as peer:
            await peer.say(PROBE + message(1, 4000, 4100, b"whole"))
            assert await sock.recv() == b"whole"


async def test_a_connection_that_says_half_a_header_and_no_more_costs_itself_only() -> None:
    async with attack() as underway, await underway.connect() as peer:
        assert await peer.say(PROBE[:24])
        await underway.served(200)


async def test_a_length_of_four_gib_is_not_believed(caplog: pytest.LogCaptureFixture) -> None:
    async with attack() as underway, await underway.connect() as peer:
        with bounded(4 * MIB):
            await peer.say(PROBE + message(1, 4000, 4000, length=0xFFFF_FFFF))
            assert await peer.is_dropped()
        assert underway.counter("dropped_oversized") == 1
        assert warned(caplog, underway.hostile, "4294967295 bytes")


async def test_longest_messages_that_are_begun_on_many_connections_and_never_ended_wait_unread() -> None:
    async with attack() as underway:
        peers = [await underway.connect() for _ in range(50)]
        with bounded(8 * MIB):
            for peer in peers:
                await peer.say(PROBE + message(1, 4000, 4100, bytes(900_000)[: 1 << 15], length=MIB))
            await underway.served(50)
        for peer in peers:
            peer.reset()


async def test_unknown_extensions_are_passed_over() -> None:
    async with attack() as underway, await underway.connect() as peer:
        for kind in range(256):
            await peer.say(message(kind + 1, 1, 0, exthdr=bytes([kind]) * 16))
        await peer.say(message(300, 4000, 0))
        heard = b""
        while len(heard) < 48 or heard[-48:][:8] == bytes(8) or heard[-48 + 22 : -48 + 24] != (4000).to_bytes(2, "big"):
            part = await peer.hear()
            assert part
            heard += part


async def test_a_peer_that_restarts_with_every_message_is_followed() -> None:
    async with attack() as underway, await underway.connect() as peer:
        with bounded(8 * MIB):
            for number in range(1, 5001):
                probe = message(1, 1, 0, exthdr=build_extensions([NPaths(1), GenNum(number)]))
                assert await peer.say(probe)
                if number % 500 == 0:
                    await peer.hear()
            await peer.say(message(2, 4000, 4100, b""))
            while underway.counter("recv_drop_no_sock") < 1:
                await underway.served(1)
        assert underway.counter("peer_restarts") == 4999


async def test_pings_without_end_and_without_reading_end_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    async with attack() as underway, await underway.connect() as peer:
        await peer.say(PROBE)
        with bounded(32 * MIB):
            sequence = 1
            while await peer.say(b"".join(message(sequence + each, 4000, 0) for each in range(1000))):
                sequence += 1000
        assert underway.counter("dropped_ping_flood") == 1
        assert warned(caplog, underway.hostile, "too many pings")


async def test_pings_that_are_read_are_all_answered() -> None:
    count = 50_000
    async with attack() as underway, await underway.connect() as peer:
        before = underway.counter("recv_ping")
        await peer.say(PROBE)
        with bounded(32 * MIB):
            heard = 0
            for sequence in range(1, count, 1000):
                await peer.say(b"".join(message(sequence + each, 4000, 0) for each in range(1000)))
                while heard < 48 * sequence:
                    heard += len(await peer.hear(MIB))
        assert underway.counter("recv_ping") == before + 1 + count
        assert underway.counter("dropped_ping_flood") == 0


async def test_congestion_maps_without_end_take_the_room_of_one() -> None:
    async with attack() as underway, await underway.connect() as peer:
        await peer.say(PROBE)
        with bounded(16 * MIB):
            maps = b"".join(congestion_map(byte) for byte in (0, 255) * 16)
            for _ in range(150):
                assert await peer.say(maps)
            while underway.counter("cong_update_received") < 150 * 32:
                await underway.served(1)


async def test_messages_far_beyond_a_receive_buffer_wait_in_tcp_and_none_is_lost() -> None:
    count = 1000
    async with attack(Limits(overrun_bytes=4 * MIB)) as underway, await underway.connect() as peer:
        full = underway.node.socket(4100)
        await peer.say(PROBE)

        async def flood() -> None:
            for sequence in range(1, count + 1):
                await peer.say(message(sequence, 4000, 4100, sequence.to_bytes(4, "big") * 16_384))

        with bounded(16 * MIB):
            flooding = asyncio.create_task(flood())
            while not underway.counter("paused_overrun"):
                await underway.served(1)
            await underway.served(20)
            assert full._inner.receive_bytes <= full._inner.rcvbuf + 4 * MIB
        for sequence in range(1, count + 1):
            assert (await full.recv())[:4] == sequence.to_bytes(4, "big")
        await flooding


async def test_a_peer_that_never_reads_holds_up_those_who_send_to_it_and_nobody_else() -> None:
    async with attack() as underway, await underway.connect() as peer:
        await peer.say(PROBE)
        sock = underway.node.socket(4100)
        with bounded(8 * MIB):
            with suppress(BlockingIOError):
                # As much as its system takes, and one send buffer.
                while True:
                    await sock.sendmsg(bytes(8192), (underway.hostile, 4000), flags=MSG_DONTWAIT)
                    await underway.served(1)
            await underway.served(100)
        assert sock._inner.send_bytes < sock._inner.sndbuf + 8192


async def test_a_slow_drip_is_put_together_and_holds_up_nobody() -> None:
    async with attack() as underway, await underway.connect() as peer:
        sock = underway.node.socket(4100)
        data = PROBE + message(1, 4000, 4100, b"drop by drop")
        for byte in data:
            await peer.say(bytes([byte]))
            await underway.served(1)
        assert await sock.recv() == b"drop by drop"


async def test_ten_thousand_connections_of_one_address_leave_room_for_others() -> None:
    async with attack() as underway:
        kept: list[RawPeer] = []
        with bounded(64 * MIB):
            for _ in range(10_000 // WAVE):
                wave = await asyncio.gather(*(underway.connect() for _ in range(WAVE)), return_exceptions=True)
                await underway.served(1)
                kept += [peer for peer in wave if isinstance(peer, RawPeer) and not peer.is_refused()]
        assert underway.node.core.driver.transport.open_links() < 100
        assert underway.counter("refused_connections") > 9_900
        for peer in kept:
            peer.reset()


async def test_connections_that_come_and_go_leave_nothing_behind() -> None:
    async with attack(Limits(trace_records=100)) as underway:

        async def come_and_go(times: int) -> None:
            for _ in range(times):
                (await underway.connect()).reset()
                await underway.served(1)

        await come_and_go(200)
        gc.disable()  # nothing waits for it
        tracemalloc.start()
        await come_and_go(1000)
        grown = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        gc.enable()
        assert grown < MIB // 4, f"{grown:,} bytes"
