"""Link-local addresses of IPv6 are those of an interface (RFC 4007): the system numbers it, the engine knows its name.

``fe80::1%eth0`` is the form of the engine, ``("fe80::1", port, 0, 2)`` that of the standard library's sockets.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

SocketAddress = tuple[str, int] | tuple[str, int, int, int]


def named(host: str) -> str:
    """The same address with the name of its interface, where that has a number: ``fe80::1%2``."""
    address, _, scope = host.partition("%")
    return scoped(address, int(scope)) if scope.isascii() and scope.isdecimal() else host


def scoped(address: str, number: int) -> str:
    """An address of the interface with this number; 0 is none. One that nobody knows stays a number."""
    if not number:
        return address
    try:
        return f"{address}%{socket.if_indextoname(number)}"
    except (OSError, OverflowError):
        return f"{address}%{number}"


def host_of(address: Sequence[Any]) -> str:
    """The engine's address of what ``getsockname``, ``accept`` or ``recvfrom`` gives, of any family."""
    return scoped(address[0], address[3]) if len(address) > 3 else address[0]


def socket_address(host: str, port: int) -> tuple[socket.AddressFamily, SocketAddress]:
    """Family and address for ``bind``, ``connect`` and ``sendto``. Raises ``OSError``: no address, or no interface."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)[0]
    return socket.AddressFamily(found[0]), found[4]  # type: ignore[return-value]
