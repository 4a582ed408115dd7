"""What the system holds of a TCP connection: sent and not acknowledged (protocol.md §4.5), come and not read."""

from __future__ import annotations

import socket
import struct
import sys

LIMITATION = (
    "this system does not tell what a peer's TCP has acknowledged: messages count as acknowledged once the system has "
    "taken them, and those that are lost with a connection are not sent again"
)
"""What is lost on systems without a way to ask."""

_SIOCOUTQ = 0x5411
_SO_NWRITE = 0x1024
_INT = struct.Struct("@i")

TELLS_UNACKNOWLEDGED = sys.platform in {"linux", "darwin"}
"""This system tells what is not acknowledged."""

if sys.platform != "win32":
    from fcntl import ioctl
    from termios import FIONREAD

    def _ask(sock: socket.socket, request: int) -> int:
        (count,) = _INT.unpack(ioctl(sock.fileno(), request, bytes(_INT.size)))
        return int(count)

    def unread(sock: socket.socket) -> int:
        """Bytes that have come and that nobody has read. Raises ``OSError``."""
        return _ask(sock, FIONREAD)

else:

    def unread(_sock: socket.socket) -> int:
        """Nobody knows: 0."""
        return 0


if sys.platform == "linux":

    def unacknowledged(sock: socket.socket) -> int:
        """Bytes that are unsent or unacknowledged; a FIN counts as one. Raises ``OSError``."""
        return _ask(sock, _SIOCOUTQ)

elif sys.platform == "darwin":

    def unacknowledged(sock: socket.socket) -> int:
        """Bytes that are unsent or unacknowledged. Raises ``OSError``."""
        return sock.getsockopt(socket.SOL_SOCKET, _SO_NWRITE)

else:

    def unacknowledged(_sock: socket.socket) -> int:
        """Nobody knows: 0. See ``LIMITATION``."""
        return 0
