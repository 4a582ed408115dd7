"""Credit flow control between two nodes over RoCE on loopback, which no kernel turns on; each exchange is recorded."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rdstool.capture.events import CmMessage
from rdstool.capture.message import Message, messages_of
from rdstool.capture.pipeline import open_capture
from rdstool.endpoint.core import NodeOptions
from rdstool.endpoint.node import AsyncSocket, Node
from rdstool.protocol.config import Settings
from rdstool.protocol.kinds import MessageKind, Transport
from rdstool.validate.rule import Severity
from rdstool.validate.validator import validate
from tests.kit.loopback import own_addresses

LIMIT_S = 90
SIZES = (0, 1, 64, 4095, 4096, 4097, 65_536, 300_000)
ROUNDS = 6
"""Times that all sizes are sent, each way."""
SMALL, USUAL = 16, 1024
"""Receives that are posted: less than one message of 65,536 bytes needs, and as kernels post."""
SETTINGS = Settings(sndbuf=1 << 21, rcvbuf=1 << 23)


def options(*, on: bool, ring: int, pcap: Path | None = None) -> NodeOptions:
    settings = replace(SETTINGS, ib_flow_control=on, ib_max_recv_wr=ring)
    return NodeOptions(settings, transport=Transport.IB, pcap=pcap)


async def exchange(near: AsyncSocket, far: AsyncSocket) -> None:
    """Messages of all sizes both ways at the same time, and memory written between them."""
    memory = bytearray(20_000)
    cookie = far.offer_memory(memory)
    data = os.urandom(len(memory))

    async def send(sock: AsyncSocket, payloads: Sequence[bytes], peer: AsyncSocket) -> None:
        for payload in payloads:
            await sock.sendto(payload, peer.getsockname())
        await sock.drain()

    async def receive(sock: AsyncSocket, payloads: Sequence[bytes]) -> None:
        for payload in payloads:
            assert (await sock.recvfrom())[0] == payload

    there, back = ([os.urandom(size) for size in SIZES * ROUNDS] for _ in range(2))
    async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
        group.create_task(receive(far, there))
        group.create_task(receive(near, back))
        group.create_task(send(near, there, far))
        group.create_task(send(far, back, near))
        group.create_task(near.rdma_write(cookie, data, far.getsockname()))
    assert memory == data


def recorded(file: Path) -> tuple[list[CmMessage], list[Message]]:
    """Of the connection's making, and what went over it; nothing in it is worse than a note."""
    made: list[CmMessage] = []
    messages: list[Message] = []
    with open_capture(file) as capture:
        for decoded in capture.batches():
            made += [event for event in decoded.events if isinstance(event, CmMessage)]
            messages += messages_of(decoded.messages, capture.streams)
    with open_capture(file) as capture:
        assert [finding for finding in validate(capture) if finding.severity is not Severity.NOTE] == []
    return made, messages


@pytest.mark.parametrize(
    ("near_on", "far_on", "ring"),
    [
        pytest.param(True, True, SMALL, id="both, small ring"),
        pytest.param(True, True, USUAL, id="both"),
        pytest.param(True, False, USUAL, id="active side"),
        pytest.param(False, True, USUAL, id="passive side"),
        pytest.param(False, False, SMALL, id="none, small ring"),
        pytest.param(False, False, USUAL, id="none"),
    ],
)
async def test_messages_arrive_and_credits_go_only_where_both_sides_use_them(
    tmp_path: Path, near_on: bool, far_on: bool, ring: int
) -> None:
    here, there = own_addresses(2)
    file = tmp_path / "node.pcapng"
    async with (
        Node(here, options=options(on=near_on, ring=ring, pcap=file)) as one,
        Node(there, options=options(on=far_on, ring=ring)) as other,
    ):
        await exchange(one.socket(4000), other.socket(4000))
        counters = [node.engine.counters for node in (one, other)]
    updates = [each.ib_rx_credit_updates for each in counters]
    throttled = [each.ib_tx_throttle for each in counters]
    made, messages = recorded(file)
    told = {message.name: message.private.credit for message in made if message.private is not None}
    assert told == {"REQ": near_on * ring, "REP": far_on * ring}
    data = [message for message in messages if message.kind is MessageKind.DATA]
    assert len(data) == 2 * ROUNDS * len(SIZES)
    assert all(message.complete for message in messages)
    granted = [sum(m.header.credit for m in messages if m.direction == way) for way in (0, 1)]
    if near_on and far_on:
        assert all(granted)
        assert all(updates)
    else:
        assert granted == updates == throttled == [0, 0]
    if ring == SMALL and near_on and far_on:
        assert all(throttled)
