"""A peer of a node that is played by hand, over a TCP socket of the system."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import Self

from dissectors.wire.congestion import BITMAP_BYTES
from dissectors.wire.rds import RDS_HEADER, TCP_PORT, Flags, RdsHeader

PATIENCE_S = 60.0
"""How long a test waits for what must come."""
_LINGER_0 = struct.pack("@ii", 1, 0)


def message(sequence: int, sport: int, dport: int, payload: bytes = b"", **fields: int | bytes) -> bytes:
    """The bytes of one message. ``length`` may be given to lie about it."""
    length = fields.pop("length", len(payload))
    header = RdsHeader(sequence=sequence, length=length, sport=sport, dport=dport, **fields)  # type: ignore[arg-type]
    return RDS_HEADER.pack(header) + payload


def congestion_map(byte: int = 0) -> bytes:
    """A congestion map in which every byte is the same."""
    return message(0, 0, 0, bytes([byte]) * BITMAP_BYTES, flags=int(Flags.CONG_BITMAP))


class RawPeer:
    """One TCP connection to a node, from an address of its own."""

    def __init__(self, address: str) -> None:
        self._loop = asyncio.get_running_loop()
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.sock.bind((address, 0))

    async def reach(self, node: str) -> Self:
        """Connect to a node's address. Raises ``OSError`` where it refuses at once."""
        try:
            await self._loop.sock_connect(self.sock, (node, TCP_PORT))
        except OSError:
            self.close()
            raise
        return self

    async def say(self, data: bytes) -> bool:
        """Send; False where the node has ended the connection."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._loop.sock_sendall(self.sock, data)
        except OSError:
            return False
        return True

    async def hear(self, size: int = 1 << 16) -> bytes:
        """The next bytes of the node; empty where it has ended the connection, in whichever way."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await self._loop.sock_recv(self.sock, size)
        except TimeoutError:
            raise
        except OSError:
            return b""

    async def is_dropped(self) -> bool:
        """Read until the node ends the connection. Raises ``TimeoutError`` where it does not."""
        while await self.hear():
            pass
        return True

    def is_refused(self) -> bool:
        """The node has reset the connection, which is closed then. Asked without waiting."""
        refused = bool(self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        if refused:
            self.close()
        return refused

    def reset(self) -> None:
        """End it without a word."""
        with suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
        self.close()

    def close(self) -> None:
        """End it."""
        self.sock.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.close()
