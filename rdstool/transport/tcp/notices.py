"""Has Linux tell, by itself, when a peer's TCP has acknowledged a write.

Else a sender that waits for room learns of it only when somebody asks (``unacked``), and an event loop asks no more
often than every millisecond: with the kernel's default send buffer, that is what a message takes.

It is the timestamp of an acknowledgement (SOF_TIMESTAMPING_TX_ACK), asked for without its packet. Only its coming is of
interest: a socket whose error queue is not empty is reported as readable.
"""

from __future__ import annotations

import socket
import struct
import sys

_SO_TIMESTAMPING = 37
_TX_ACK, _OPT_TSONLY = 1 << 9, 1 << 11

ACK_NOTICE = [(socket.SOL_SOCKET, _SO_TIMESTAMPING, struct.pack("@I", _TX_ACK))]
"""Control message of a write: once the peer has acknowledged all of it, ``take_notice`` says so."""


def allow_notices(sock: socket.socket) -> bool:
    """Prepare a socket for ``ACK_NOTICE``; False where the system has no such thing."""
    if sys.platform != "linux":
        return False
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPING, _OPT_TSONLY)
    except OSError:
        return False
    return True


def take_notice(sock: socket.socket) -> bool:
    """Whether a write with ``ACK_NOTICE`` has been acknowledged. Until it is taken, the socket stays readable."""
    try:
        sock.recvmsg(0, 0, socket.MSG_ERRQUEUE)
    except OSError:
        return False
    return True
