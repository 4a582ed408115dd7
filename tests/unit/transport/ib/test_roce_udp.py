"""The provider on real sockets over loopback addresses of this process alone."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from dissectors.wire.icrc import icrc_good
from rdstool.errors import TransportError
from rdstool.protocol.ib.memory import Access, Region
from rdstool.transport.ib.provider import (
    Completed,
    Connection,
    ConnectionOptions,
    ConnectRequested,
    Disconnected,
    Established,
    Event,
    Operation,
    Provider,
    Status,
)
from rdstool.transport.ib.roce.flow import MAX_BURST
from rdstool.transport.ib.roce_udp import RoceProvider
from tests.kit.roce_driver import Driver

SERVICE = 0x0106_1C06
WAIT_S = 60.0


def own_address(number: int) -> str:
    """A loopback address that no other test process uses."""
    pid = os.getpid()
    return f"127.{100 + pid % 100}.{pid // 100 % 250}.{number + 1}"


@pytest.fixture
def providers() -> Iterator[tuple[RoceProvider, RoceProvider]]:
    made = RoceProvider(own_address(0), Random(1)), RoceProvider(own_address(1), Random(2))
    yield made
    for one in made:
        one.close()


class Party:
    """A provider on the loop of the test, and what has happened."""

    def __init__(self, provider: Provider) -> None:
        self.events: list[Event] = []
        self.wanted: tuple[type[object], int] | None = None
        self.reached = asyncio.Event()
        self.driver = Driver(provider, self.handle)

    def handle(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, ConnectRequested):
            for number in range(50):
                event.connection.post_receive(number, 5000)
            event.connection.accept(b"welcome")
        self.reached.set()

    async def until(self, kind: type[object], count: int = 1) -> list[Event]:
        """Wait for so many events of a kind."""
        async with asyncio.timeout(WAIT_S):
            while len(found := [event for event in self.events if isinstance(event, kind)]) < count:
                self.reached.clear()
                await self.reached.wait()
        return found


class OneByOne(socket.socket):
    """A socket whose way to a peer cannot carry bursts."""

    asked = 0

    def sendmsg(self, *_arguments: Any) -> int:
        OneByOne.asked += 1
        raise OSError(errno.EIO, os.strerror(errno.EIO))


async def test_where_bursts_cannot_go_datagrams_go_one_by_one() -> None:
    OneByOne.asked = 0
    made = RoceProvider(own_address(5), make_socket=OneByOne), RoceProvider(own_address(6))
    parties = [Party(provider) for provider in made]
    made[1].listen(SERVICE)
    connection: Connection = made[0].connect(made[1].address, SERVICE)
    for number in range(40):
        connection.post_send(number, bytes([number]) * 100)
    parties[0].driver.poke()
    await parties[0].until(Completed, 40)
    received = [event.data for event in await parties[1].until(Completed, 40) if isinstance(event, Completed)]
    assert received == [bytes([number]) * 100 for number in range(40)]
    assert OneByOne.asked == made[0].send_errors["EIO"] == 1
    assert made[0].device.burst == 1
    for party, provider in zip(parties, made, strict=True):
        party.driver.close()
        provider.close()


async def test_a_connection_over_sockets_carries_sends_and_writes(providers: tuple[RoceProvider, RoceProvider]) -> None:
    client, server = (Party(provider) for provider in providers)
    frames: list[bytes] = []
    for provider in providers:
        provider.set_tap(lambda _, frame: frames.append(frame))
    providers[1].listen(SERVICE)
    memory = bytearray(1 << 20)
    region: Region = providers[1].register(memory, Access.LOCAL_WRITE | Access.REMOTE_WRITE)
    options = ConnectionOptions(path_mtu=4096)
    connection: Connection = providers[0].connect(providers[1].address, SERVICE, b"hello", options)
    client.driver.poke()
    (established,) = await client.until(Established)
    assert isinstance(established, Established)
    assert established.private_data.startswith(b"welcome")
    data = os.urandom(1 << 20)
    connection.post_write(0, data, region.address, region.rkey)
    for number in range(1, 41):
        connection.post_send(number, bytes([number]) * 4144)
    client.driver.poke()
    await client.until(Completed, 41)
    received = [event for event in await server.until(Completed, 40) if isinstance(event, Completed)]
    assert [event.data for event in received] == [bytes([number]) * 4144 for number in range(1, 41)]
    assert {event.status for event in received} == {Status.SUCCESS}
    assert {event.operation for event in received} == {Operation.RECEIVE}
    assert memory == data
    connection.disconnect()
    client.driver.poke()
    await server.until(Disconnected)
    for party in (client, server):
        party.driver.close()
    assert providers[0].device.burst == MAX_BURST
    assert providers[1].device.counters.bad_icrc == 0
    assert not providers[0].send_errors
    assert all(icrc_good(frame[14:]) for frame in frames)
    places = {int.from_bytes(frame[18:20]) for frame in frames}
    assert places == set(range(max(places) + 1))
    assert len(places) > 10


def test_frames_go_to_a_tap() -> None:
    frames: list[bytes] = []
    address = own_address(2)
    provider = RoceProvider(address, tap=lambda _, frame: frames.append(frame))
    try:
        provider.connect(own_address(3), SERVICE)
        provider.process(1.0)
    finally:
        provider.close()
    (request,) = frames
    assert request[26:30] == socket.inet_aton(address)
    assert len(request) == 14 + 20 + 8 + 280


def test_an_address_that_cannot_be_used_is_told() -> None:
    for wrong, words in (("nowhere", "not an IP address"), ("192.0.2.1", "cannot be used")):
        with pytest.raises(TransportError, match=words):
            RoceProvider(wrong)
    provider = RoceProvider(own_address(4))
    try:
        with pytest.raises(TransportError, match="no other RoCE device"):
            RoceProvider(own_address(4))
    finally:
        provider.close()


def test_what_the_system_will_not_send_is_counted(providers: tuple[RoceProvider, RoceProvider]) -> None:
    providers[0].connect("192.0.2.1", SERVICE)  # a loopback address cannot reach it
    providers[0].process(1.0)
    assert sum(providers[0].send_errors.values()) == 1
    assert providers[0].next_timer() == pytest.approx(1.0 + 1.07, abs=0.01)
