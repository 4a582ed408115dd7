"""Tasks of an event loop that wait on a socket, until something has changed and they look again."""

from __future__ import annotations

import asyncio

from rdstool.protocol.errors import Wait

_ON_PEER = (Wait.CONGESTION, Wait.HANDSHAKE)


class Waiters:
    """The tasks that wait on one socket."""

    __slots__ = ("_futures", "_loop", "_on_peers")

    def __init__(self, loop: asyncio.AbstractEventLoop, on_peers: dict[Waiters, None]) -> None:
        """``on_peers`` has those of all sockets of the node that wait for a peer; these add and remove themselves."""
        self._loop = loop
        self._on_peers = on_peers
        self._futures: dict[Wait, list[asyncio.Future[None]]] = {reason: [] for reason in Wait}

    def wait(self, reason: Wait) -> asyncio.Future[None]:
        """What ends with the next ``wake`` for this reason."""
        future: asyncio.Future[None] = self._loop.create_future()
        self._futures[reason].append(future)
        if reason in _ON_PEER:
            self._on_peers[self] = None
        return future

    def wake(self, reason: Wait) -> None:
        """Let those look again that wait for this."""
        waiting = self._futures[reason]
        if waiting:
            self._futures[reason] = []
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    def wake_on_peer(self) -> None:
        """A peer has changed: let those look again that wait for one."""
        self._on_peers.pop(self, None)
        for reason in _ON_PEER:
            self.wake(reason)

    def wake_all(self) -> None:
        """The socket is closed: nobody has anything to wait for."""
        self._on_peers.pop(self, None)
        for reason in Wait:
            self.wake(reason)
