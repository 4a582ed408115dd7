"""Messages that go back to where they came from. A sender that takes none of its own holds up no other."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from rdstool.cli.output import note
from rdstool.protocol.errors import WouldBlock
from rdstool.protocol.inbox import MSG_DONTWAIT

if TYPE_CHECKING:
    from rdstool.endpoint.base import Address
    from rdstool.endpoint.node import AsyncSocket, Node

PATIENCE_S = 1.0
"""How long all wait for one that does not read its echoes; from then on it gets those for which there is room."""


class Echo:
    """Sends the messages of one socket back."""

    def __init__(self, node: Node, sock: AsyncSocket) -> None:
        self._node = node
        self._sock = sock
        self._answered: set[Address] = set()
        self._stuck: set[Address] = set()
        self.missed = 0
        """Messages that were not sent back."""

    async def send(self, data: bytes, sender: Address) -> None:
        """Send a message back, if its sender takes it."""
        self._answered.add(sender)
        try:
            await self._sock.sendmsg(data, sender, flags=MSG_DONTWAIT)
        except WouldBlock:
            self._give_up_who_is_gone()
            await self._patiently(data, sender)
        else:
            self._stuck.discard(sender)

    def _give_up_who_is_gone(self) -> None:
        """What waits for those is in the way of others."""
        local, _ = self._sock.getsockname()
        for peer in [each for each in self._answered if not self._node.reached(each[0], local)]:
            self._answered.discard(peer)
            self.missed += self._sock.cancel_sent_to(peer)

    async def _patiently(self, data: bytes, sender: Address) -> None:
        try:
            async with asyncio.timeout(0 if sender in self._stuck else PATIENCE_S):
                await self._sock.sendto(data, sender)
        except TimeoutError:
            self.missed += 1
            if sender not in self._stuck:
                self._stuck.add(sender)
                note(f"{sender[0]} port {sender[1]} does not take what is sent back")
