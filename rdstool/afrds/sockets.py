"""AF_RDS sockets as Python's own socket objects, for IPv4 and IPv6."""

from __future__ import annotations

import socket
import struct

from rdstool.afrds.numbers import AF_RDS, SOL_RDS, Option, Transport


def open_socket(family: int = socket.AF_INET, transport: Transport | None = None) -> socket.socket:
    """An unbound AF_RDS socket that takes addresses of ``family``: (host, port), or (host, port, 0, scope) for IPv6.

    Python packs addresses for an AF_RDS socket as IPv4 only, so the object is told the family of its addresses instead.
    Raises ``OSError``: EAFNOSUPPORT where the kernel has no RDS, ENOPROTOOPT where it lacks the transport.
    """
    made = socket.socket(AF_RDS, socket.SOCK_SEQPACKET, 0)
    made = socket.socket(family, socket.SOCK_SEQPACKET, 0, fileno=made.detach())
    try:
        if transport is not None:
            made.setsockopt(SOL_RDS, Option.TRANSPORT, transport)
    except OSError:
        made.close()
        raise
    return made


def family_of(address: str) -> socket.AddressFamily:
    """The family of a numeric address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def pack_address(address: str, port: int) -> bytes:
    """``sockaddr_in`` or ``sockaddr_in6``, for options that take one."""
    if family_of(address) == socket.AF_INET6:
        packed = socket.inet_pton(socket.AF_INET6, address)
        return struct.pack("=H", socket.AF_INET6) + struct.pack(">HI", port, 0) + packed + struct.pack("=I", 0)
    return struct.pack("=H", socket.AF_INET) + struct.pack(">H4s8x", port, socket.inet_pton(socket.AF_INET, address))


def cancel_sent_to(sock: socket.socket, address: str, port: int) -> None:
    """Drop what this socket has queued or sent, unacknowledged, to one destination. Raises ``OSError``."""
    sock.setsockopt(SOL_RDS, Option.CANCEL_SENT_TO, pack_address(address, port))
