"""How much of what came on a TCP connection nobody has read."""

from __future__ import annotations

import socket
import struct
import sys

_INT = struct.Struct("@i")

if sys.platform != "win32":
    from fcntl import ioctl
    from termios import FIONREAD

    def unread(sock: socket.socket) -> int:
        """Bytes that the system has. Raises ``OSError``."""
        (count,) = _INT.unpack(ioctl(sock.fileno(), FIONREAD, bytes(_INT.size)))
        return int(count)

else:

    def unread(_sock: socket.socket) -> int:
        """Nobody knows: 0."""
        return 0
