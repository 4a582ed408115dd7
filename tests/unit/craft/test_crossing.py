"""Peers that end a scenario's connection as they are busy with another: their own, or that of the scenario before."""

from __future__ import annotations

import asyncio
import gc
import socket
from contextlib import suppress

import pytest

from dissectors.wire.rds import HEADER_BYTES, TCP_PORT
from rdstool.craft.judge import Match
from rdstool.craft.library import scenario
from rdstool.craft.play import TRIES, play
from rdstool.craft.tcp_stage import TcpStage
from tests.kit.hostile import PATIENCE_S, RawPeer, message
from tests.kit.loopback import own_addresses


class Peer:
    """Answers a probe and a ping, but not on its first connections: those it closes."""

    def __init__(self, own: str, other: str, failures: int, *, crossing: bool = False, answers: int = 0) -> None:
        self._own, self._other = own, other
        self._failures = failures
        self._crossing = crossing
        """Before it fails, it connects itself, and is refused."""
        self._answers = answers
        """What it says before it fails."""
        self.connections = 0

    async def serve(self) -> None:
        """Take connections, one after the other."""
        loop = asyncio.get_running_loop()
        with socket.create_server((self._own, TCP_PORT)) as server:
            server.setblocking(False)
            while True:
                sock, _ = await loop.sock_accept(server)
                self.connections += 1
                with sock, suppress(OSError):
                    await self._answer(sock, fails=self.connections <= self._failures)

    async def _answer(self, sock: socket.socket, *, fails: bool) -> None:
        loop = asyncio.get_running_loop()
        if fails and self._crossing:
            own = await RawPeer(self._own).reach(self._other)
            assert await own.is_dropped()
            own.close()
        for reply in (message(1, 0, 1), message(2, 0, 5000))[: self._answers if fails else None]:
            await loop.sock_recv(sock, HEADER_BYTES)
            await loop.sock_sendall(sock, reply)
        if not fails:
            await loop.sock_recv(sock, HEADER_BYTES)


async def attempt(failures: int, why: str, *, crossing: bool = False, answers: int = 0) -> tuple[bool, int, int]:
    """Play a scenario: whether it differed, the connections that it took, and how often ``why`` was told."""
    own, other = own_addresses(2)
    peer = Peer(other, own, failures, crossing=crossing, answers=answers)
    told: list[str] = []
    serving = asyncio.create_task(peer.serve())
    try:
        async with asyncio.timeout(PATIENCE_S):
            verdict = await play(
                scenario("flags-unknown"),
                Match(own, other, seed=1, patience=PATIENCE_S),
                tell=lambda line: told.append(line.text),
            )
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    return (
        bool(verdict.difference),
        peer.connections,
        told.count(f"{why}: once more"),
    )


CROSSED = "the peer connected to us at the same time"
DISMISSED = "the peer ended a connection before it said anything"


async def test_a_scenario_that_the_peer_crossed_is_played_again() -> None:
    assert await attempt(1, CROSSED, crossing=True) == (False, 2, 1)


async def test_a_peer_that_always_crosses_is_judged_in_the_end() -> None:
    assert await attempt(100, CROSSED, crossing=True) == (True, TRIES, TRIES - 1)


async def test_a_connection_that_the_peer_ends_without_a_word_is_made_again() -> None:
    assert await attempt(2, DISMISSED) == (False, 3, 2)


async def test_a_peer_that_always_ends_connections_is_judged_in_the_end() -> None:
    assert await attempt(100, DISMISSED) == (True, TRIES, TRIES - 1)


async def test_what_a_peer_does_that_has_spoken_stands() -> None:
    assert await attempt(1, DISMISSED, answers=1) == (True, 1, 0)


@pytest.mark.parametrize("turns", range(4))
async def test_a_connection_that_comes_at_the_very_end_is_not_left_open(turns: int) -> None:
    own, other = own_addresses(2)
    match = Match(other, own, seed=1, patience=PATIENCE_S)
    stage = TcpStage(scenario("larger-side-speaks"), match, lambda *_: None, lambda: None, None)
    async with stage.ready():
        await asyncio.sleep(0)
        with socket.create_connection((other, TCP_PORT)):
            for _ in range(turns):
                await asyncio.sleep(0)
    gc.collect()  # a socket that nobody has closed is a warning, and that an error
