"""Every scenario that comes with rdstool, against its own node, while an honest peer goes on undisturbed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

import rdstool
from rdstool.craft.judge import Match, Verdict
from rdstool.craft.library import names, scenario
from rdstool.craft.play import play
from rdstool.craft.scenario import Role
from rdstool.protocol.config import Settings
from rdstool.protocol.connection import Connection
from rdstool.protocol.counters import Counters
from rdstool.protocol.ib.connection import IbConnection
from rdstool.protocol.kinds import Transport
from tests.kit.loopback import own_addresses

PATIENCE = 4.0
"""The machine may be busy."""


@asynccontextmanager
async def honest_traffic(node: rdstool.Node, other: rdstool.Node) -> AsyncIterator[list[int]]:
    """Messages go to and fro between two nodes; gives a list that has their number."""
    port = node.socket(4999)
    far = other.socket(4999)
    exchanged = [0]

    async def talk() -> None:
        while True:
            await far.sendto(b"undisturbed", port.getsockname())
            data, sender = await port.recvfrom()
            await port.sendto(data, sender)
            assert await far.recv() == b"undisturbed"
            exchanged[0] += 1
            await asyncio.sleep(0.01)

    job = asyncio.create_task(talk())
    try:
        yield exchanged
        before = exchanged[0]
        while exchanged[0] == before:
            assert not job.done()
            await asyncio.sleep(0)
    finally:
        job.cancel()
        await asyncio.gather(job, return_exceptions=True)


async def against_own_node(name: str, settings: Settings | None = None) -> tuple[Verdict, Counters]:
    """Play a scenario; gives the verdict and the node's counters."""
    played = scenario(name)
    small, victim, large = own_addresses(3)
    attacker, honest = (small, large) if played.role is Role.SMALLER else (large, small)
    options = rdstool.NodeOptions(settings or Settings(), transport=played.transport)
    async with rdstool.Node(victim, options=options) as node, rdstool.Node(honest, options=options) as friend:
        cookie = None
        if played.transport is Transport.IB:
            cookie = node.socket(4998).offer_memory(bytearray(1 << 20))
        match = Match(attacker, victim, seed=1, patience=PATIENCE, transport=played.transport, cookie=cookie)
        async with honest_traffic(node, friend):
            verdict = await play(played, match)
        bounded(node)
        return verdict, node.engine.counters


def bounded(node: rdstool.Node) -> None:
    """What the attacker makes the node hold is within the limits."""
    limits = node.engine.settings.limits
    assert len(node.engine.connections) <= 2
    for connection in node.engine.connections.values():
        if isinstance(connection, IbConnection):
            link = connection.lane.link
            assert len(connection.lane.control) <= limits.pongs + 1
            assert link is None or link.assembler.held <= limits.message_bytes
            continue
        assert isinstance(connection, Connection)
        assert len(connection.parked) <= limits.parked
        assert connection.unjudged_bytes <= limits.unjudged_bytes
        for path in connection.paths:
            assert len(path.control) <= limits.pongs + 1
            assert path.link is None or path.link.deframer.held <= limits.message_bytes + 48


@pytest.mark.parametrize("name", names())
async def test_the_node_does_as_it_has_to_and_others_are_undisturbed(name: str) -> None:
    verdict, _ = await against_own_node(name)
    told = "\n".join(f"{line.time_s:8.3f} {line.arrow:2} {line.text}" for line in verdict.lines[-30:])
    assert verdict.difference == "", told


@pytest.mark.parametrize(
    ("name", "reason", "counter"),
    [
        ("length-4gib", "the peer announced a longer message than allowed", "dropped_oversized"),
        ("length-one-over", "the peer announced a longer message than allowed", "dropped_oversized"),
        ("ping-flood", "the peer sent too many pings without reading the answers", "dropped_ping_flood"),
        ("connections-10000", "too many connections of this peer wait for a free path", "refused_connections"),
        ("larger-side-speaks", "the larger address does not connect", "refused_connections"),
        ("ib-checksum-bad", "checksum", "recv_drop_bad_checksum"),
        ("ib-private-version", "version", "refused_connections"),
        ("ib-cm-flood", "the peer", "refused_connections"),
    ],
)
async def test_what_ends_a_connection_is_logged_and_counted(
    name: str, reason: str, counter: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rdstool.node")
    _, counters = await against_own_node(name)
    assert reason in caplog.text
    assert getattr(counters, counter) > 0


async def test_credits_without_end_do_no_harm_where_they_are_counted() -> None:
    verdict, counters = await against_own_node("ib-credits-many", Settings(ib_flow_control=True))
    assert verdict.difference == ""
    assert counters.ib_rx_credit_updates >= 100
