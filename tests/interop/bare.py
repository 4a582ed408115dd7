"""A peer without a protocol engine: a TCP socket, messages read and written whole. What it sends is what it is told."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Self

from dissectors.wire.congestion import BITMAP_BYTES
from dissectors.wire.rds import HEADER_BYTES, MAX_MESSAGE_BYTES, RDS_HEADER, TCP_PORT, Flags, RdsHeader
from rdstool.afrds.sockets import family_of
from rdstool.lab import Network

TIMEOUT_S = 90.0
"""For answers that must come."""


@dataclass(frozen=True)
class Received:
    """A message of the kernel."""

    header: RdsHeader
    payload: bytes

    @property
    def is_bitmap(self) -> bool:
        """A congestion bitmap."""
        return self.header.flags == Flags.CONG_BITMAP and len(self.payload) == BITMAP_BYTES


class BarePeer:
    """One TCP connection with the kernel's RDS."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        sock.settimeout(TIMEOUT_S)

    @classmethod
    def dial(cls, network: Network, local: str, kernel: str) -> Self:
        """Connect from ``local``, as the smaller address does."""
        sock = network.socket(family_of(local))
        sock.bind((local, 0))
        sock.settimeout(TIMEOUT_S)
        sock.connect((kernel, TCP_PORT))
        return cls(sock)

    def send(self, header: RdsHeader, payload: bytes = b"") -> None:
        """Send one message."""
        self._socket.sendall(RDS_HEADER.pack(header) + payload)

    def receive(self) -> Received:
        """The next message. Raises ``ConnectionError`` where the kernel closes instead."""
        header = RDS_HEADER.unpack_from(self._exactly(HEADER_BYTES))
        assert header.length <= MAX_MESSAGE_BYTES
        return Received(header, self._exactly(header.length))

    def receive_data(self) -> Received:
        """The next message that is no bitmap."""
        while (message := self.receive()).is_bitmap:
            pass
        return message

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _exactly(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            chunk = self._socket.recv(size - len(data))
            if not chunk:
                raise ConnectionResetError("the kernel closed the connection")
            data += chunk
        return bytes(data)


class BareListener:
    """Waits on port 16385 of one address, as the larger address does."""

    def __init__(self, network: Network, local: str) -> None:
        self._socket = network.socket(family_of(local))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind((local, TCP_PORT))
        self._socket.listen()
        self._socket.settimeout(TIMEOUT_S)

    def accept(self) -> BarePeer:
        """The kernel's next connection."""
        return BarePeer(self._socket.accept()[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
