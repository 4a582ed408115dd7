"""One TCP connection of a scenario: bytes out as they are told, messages in as they come. No protocol engine."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from itertools import count
from typing import cast

from dissectors.wire.rds import HEADER_BYTES, RDS_HEADER
from rdstool.craft.hearing import Hear, Hearing
from rdstool.craft.scenario import CLOSED, RESET
from rdstool.protocol.kinds import MessageKind, Transport, classify
from rdstool.transport.base import Tap
from rdstool.transport.tcp.sockets import LINGER_0

SHOWN_MESSAGE_BYTES = 1 << 21
"""A header of the peer that announces more ends the decoding."""

_KEYS = count(1)


class Wire(Hearing, asyncio.Protocol):
    """One TCP connection of a scenario."""

    def __init__(self, name: str, news: Hear, tap: Tap | None, *, incoming: bool) -> None:
        super().__init__(name, news)
        self.sent_bytes = 0
        self._silent = True
        """Nothing has come."""
        self._tap = tap
        self._incoming = incoming
        self._key = next(_KEYS)
        self._transport: asyncio.Transport | None = None
        self._held = bytearray()
        self._undecodable = False
        self._room = asyncio.Event()
        self._room.set()
        self._gone = asyncio.Event()

    # ---- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take note that the connection is established."""
        self._transport = cast(asyncio.Transport, transport)
        sock: socket.socket = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tap is not None:
            self._tap.opened(self._key, self._end("sockname"), self._end("peername"), incoming=self._incoming)

    def _end(self, which: str) -> tuple[str, int]:
        assert self._transport is not None
        found = self._transport.get_extra_info(which)
        return found[0], found[1]

    def data_received(self, data: bytes) -> None:
        """Cut into messages; none is kept with its payload."""
        self._silent = False
        if self._tap is not None:
            self._tap.received(self._key, data)
        if self._undecodable:
            return
        self._held += data
        at = 0
        while len(self._held) - at >= HEADER_BYTES:
            header = RDS_HEADER.unpack_from(self._held, at)
            if header.length > SHOWN_MESSAGE_BYTES:
                self._undecodable = True
                self._held.clear()
                return
            following = at + HEADER_BYTES + header.length
            if following > len(self._held):
                break
            at = following
            self.tell(MessageKind(classify(header, Transport.TCP)).label, header)
        del self._held[:at]

    def eof_received(self) -> bool:
        """Take note of the peer's FIN."""
        self.end_with(CLOSED)
        return True  # we close when the scenario does

    def connection_lost(self, exc: Exception | None) -> None:
        """RST, or the end that we made ourselves."""
        self._room.set()
        self._gone.set()
        if exc is not None:
            self.end_with(RESET)

    def pause_writing(self) -> None:
        """The peer does not read."""
        self._room.clear()

    def resume_writing(self) -> None:
        """Take note that the connection takes bytes again."""
        self._room.set()

    def end_with(self, how: str, values: Mapping[str, int] | None = None) -> None:
        """The peer has ended it."""
        if self.ended is None and self._tap is not None:
            self._tap.closed(self._key, reset=how == RESET, by_peer=True)
        super().end_with(how, values)

    # ---- The scenario

    def describe(self) -> str:
        """Both ends, in words."""
        if self._transport is None:
            return "and was reset at once"
        (own, own_port), (peer, peer_port) = self._end("sockname"), self._end("peername")
        return f"{own}:{own_port} > {peer}:{peer_port}"

    @property
    def usable(self) -> bool:
        """Whether it can be written to."""
        return self._transport is not None and not self._transport.is_closing() and self.ended != RESET

    @property
    def dismissed(self) -> bool:
        """The peer has ended it without a word, although it took it."""
        return self._silent and self.ended is not None and not self._incoming

    def stop_reading(self) -> None:
        """Leave everything that comes in the system's buffers."""
        assert self._transport is not None
        self._transport.pause_reading()

    async def write(self, data: bytes, patience_s: float) -> bool:
        """Send, waiting for room; False where there was none for so long, or the connection has ended."""
        if not self.usable:
            return False
        assert self._transport is not None
        if self._tap is not None:
            self._tap.sent(self._key, data)
        self._transport.write(data)
        self.sent_bytes += len(data)
        if not self._room.is_set():
            try:
                async with asyncio.timeout(patience_s):
                    await self._room.wait()
            except TimeoutError:
                return False
        return self.usable

    def finish(self) -> None:
        """Send FIN."""
        if self.usable and self._transport is not None and self._transport.can_write_eof():
            try:
                self._transport.write_eof()
            except OSError:
                return  # the peer's reset has come, and is still to be told
            if self._tap is not None:
                self._tap.closed(self._key, reset=False, by_peer=False)

    async def gone(self) -> None:
        """After ``reset``: wait until nothing is left of it."""
        if self._transport is not None:
            await self._gone.wait()

    def reset(self) -> None:
        """RST, without sending what waits."""
        if self._transport is None:
            return
        if not self._transport.is_closing():
            if self._tap is not None and self.ended is None:
                self._tap.closed(self._key, reset=True, by_peer=False)
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
        self._transport.abort()
