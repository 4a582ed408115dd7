"""Addresses and ports as ``bind`` and its like take them: what is none raises ``SocketError`` (EINVAL)."""

from __future__ import annotations

import errno
from operator import index

from rdstool.protocol.addresses import canonical, is_host, lacks_scope
from rdstool.protocol.errors import SocketError

PORT_BITS = 16
PORTS = 1 << PORT_BITS
"""Ports of an address."""


def checked_address(text: str) -> str:
    """The address in canonical form."""
    try:
        return canonical(text)
    except ValueError:
        raise SocketError(errno.EINVAL, f"{text!r} is not an IP address") from None


def checked_host(text: str) -> str:
    """The address in canonical form, where it is that of one host."""
    address = checked_address(text)
    if not is_host(address):
        raise SocketError(errno.EINVAL, f"{address} is not the address of one host")
    if lacks_scope(address):
        raise SocketError(errno.EINVAL, f"{address} is link-local: add its interface, as in {address}%eth0")
    return address


def checked_port(port: int) -> int:
    """The port, where it is one. Raises ``TypeError`` where it is no integer."""
    port = index(port)
    if not 0 <= port < PORTS:
        raise SocketError(errno.EINVAL, f"{port} is not a port: they are 0 to {PORTS - 1}")
    return port
