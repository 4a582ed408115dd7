"""What every transport is to its driver."""

from __future__ import annotations

from typing import Protocol

from rdstool.protocol import events
from rdstool.protocol.link import BaseLink

Wanted = (
    events.ConnectWanted
    | events.IbConnectWanted
    | events.ReadWanted
    | events.PauseWanted
    | events.CloseWanted
    | events.AbortWanted
)
"""What the engine asks of a transport."""


class Transport(Protocol):
    """Carries bytes between engines.

    All calls come in the driver's turn, but ``flush`` and ``check_acks``: these need its lock only.
    """

    def listen(self, address: str) -> None:
        """Take connections for an address of the node. Raises ``TransportError`` where that cannot be."""
        ...

    def obey(self, wanted: Wanted) -> None:
        """Do what the engine asks for."""
        ...

    def flush(self, link: BaseLink) -> bool:
        """Write what the engine has for a link; False where the loop must go on with it (``settle``)."""
        ...

    def settle(self) -> None:
        """Wait for what ``flush`` left: sockets that were full, acknowledgements to come."""
        ...

    def check_acks(self, *, polling: bool = False) -> None:
        """Find out now what the peers have acknowledged. One who is ``polling`` does so every few milliseconds."""
        ...

    def set_tap(self, tap: Tap | None) -> None:
        """Tell this tap from now on, or none; it is told first of the connections that are open."""
        ...

    def open_links(self) -> int:
        """Connections that are open or being opened."""
        ...

    def close(self) -> None:
        """Give up everything at once."""
        ...


class Tap(Protocol):
    """Is told of all bytes that go over a connection, to record them. ``key`` names the connection."""

    def opened(self, key: int, local: tuple[str, int], peer: tuple[str, int], *, incoming: bool) -> None:
        """A connection is established."""
        ...

    def packet(self, frame: bytes) -> None:
        """A whole packet, sent or received, as an Ethernet frame: of a transport that has packets, nothing else."""
        ...

    def joined(self, key: int, local: tuple[str, int], peer: tuple[str, int], sent: int, *, ended: bool) -> None:
        """A connection was established before; ``sent`` bytes went out on it, and with ``ended`` no more will."""
        ...

    def sent(self, key: int, data: bytes) -> None:
        """The system has taken these bytes."""
        ...

    def received(self, key: int, data: bytes) -> None:
        """These bytes came."""
        ...

    def acknowledged(self, key: int, total: int) -> None:
        """The peer has acknowledged the first ``total`` bytes."""
        ...

    def closed(self, key: int, *, reset: bool, by_peer: bool) -> None:
        """One direction has ended, or with ``reset`` both."""
        ...
