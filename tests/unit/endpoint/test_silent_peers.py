"""A peer whose system takes our connection, while the peer itself does not know of it (protocol.md §4.2)."""

from __future__ import annotations

import asyncio
import socket

import rdstool
from dissectors.wire.rds import TCP_PORT
from rdstool.protocol.config import Settings
from rdstool.transport.tcp.sockets import listener
from tests.kit.hostile import PATIENCE_S, congestion_map
from tests.kit.loopback import own_addresses


async def test_a_message_arrives_although_the_peer_has_forgotten_the_first_connection() -> None:
    smaller, larger = own_addresses(2)
    loop = asyncio.get_running_loop()
    heard = asyncio.Event()
    opened: list[socket.socket] = []

    async def hear(door: socket.socket) -> None:
        """Take connections; read none of the first, and answer on the others."""
        while True:
            sock, _ = await loop.sock_accept(door)
            opened.append(sock)
            if len(opened) > 1:
                await loop.sock_sendall(sock, congestion_map())
                came = b""
                while part := await loop.sock_recv(sock, 1 << 16):
                    came += part
                    if b"hello" in came:
                        heard.set()

    options = rdstool.NodeOptions(Settings(answer_patience_s=0.1, close_grace_s=0.1))
    with listener(larger, TCP_PORT, Settings()) as door:
        hearing = asyncio.create_task(hear(door))
        async with rdstool.Node(smaller, options=options) as node, asyncio.timeout(PATIENCE_S):
            sender = node.socket(4000)
            await sender.sendto(b"hello", (larger, 4000))
            await heard.wait()
            await sender.drain()
        hearing.cancel()
    for sock in opened:
        sock.close()
