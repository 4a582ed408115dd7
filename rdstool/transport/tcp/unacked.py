"""How much of what a TCP socket took the peer has not acknowledged (protocol.md §4.5)."""

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

KNOWN = sys.platform in {"linux", "darwin"}
"""This system tells."""

if sys.platform == "linux":
    from fcntl import ioctl

    def unacknowledged(sock: socket.socket) -> int:
        """Bytes that are unsent or unacknowledged; a FIN counts as one. Raises ``OSError``."""
        (left,) = _INT.unpack(ioctl(sock.fileno(), _SIOCOUTQ, bytes(_INT.size)))
        return int(left)

elif sys.platform == "darwin":

    def unacknowledged(sock: socket.socket) -> int:
        """Bytes that are unsent or unacknowledged. Raises ``OSError``."""
        return sock.getsockopt(socket.SOL_SOCKET, _SO_NWRITE)

else:

    def unacknowledged(_sock: socket.socket) -> int:
        """Nobody knows: 0. See ``LIMITATION``."""
        return 0
