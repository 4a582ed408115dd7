"""The larger address asks smaller ones to connect; these close such a connection at once (protocol.md §4.2)."""

from __future__ import annotations

import asyncio
import socket
import threading

import rdstool
from dissectors.wire.rds import TCP_PORT
from rdstool.protocol import events
from rdstool.protocol.config import Settings
from rdstool.transport.tcp.sockets import abort, listener
from tests.kit.loopback import own_addresses


def close_first_comer(door: socket.socket) -> None:
    """As a kernel on the smaller address does."""
    abort(door.accept()[0])


async def test_a_connection_that_is_closed_at_once_was_no_failure_to_connect() -> None:
    *smaller, larger = own_addresses(8)
    doors = [listener(address, TCP_PORT, Settings()) for address in smaller]
    closers = [threading.Thread(target=close_first_comer, args=(door,)) for door in doors]
    for door, closer in zip(doors, closers, strict=True):
        door.setblocking(True)
        closer.start()
    failed: list[events.Event] = []
    ended: set[str] = set()
    all_ended = asyncio.Event()

    def hear(event: events.Event) -> None:
        if isinstance(event, events.ConnectFailed):
            failed.append(event)
        if isinstance(event, events.ConnectFailed | events.PathDown):
            ended.add(event.peer)
            if ended == set(smaller):
                all_ended.set()

    async with rdstool.Node(larger) as node:
        node.on_event(hear)
        sock = node.socket(4000)
        for address in smaller:
            await sock.sendto(b"connect to me", (address, 4000))
        await all_ended.wait()
        assert failed == []
    for closer in closers:
        closer.join()
    for door in doors:
        door.close()
