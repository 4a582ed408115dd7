"""Addresses on the command line: how they are written, and which of this machine reaches another."""

from __future__ import annotations

import socket
from typing import NamedTuple

from rdstool.cli.carriers import AUTO, TCP, TRANSPORTS
from rdstool.cli.output import note
from rdstool.errors import UsageError
from rdstool.transport.scopes import host_of, socket_address

DEFAULT_PORT = 4000
"""RDS port where an address comes without one."""


class Place(NamedTuple):
    """An IP address and an RDS port."""

    address: str
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


def place(text: str, port: int = DEFAULT_PORT) -> Place:
    """``HOST``, ``HOST:PORT``, ``V6`` or ``[V6]:PORT``; names are looked up. Raises ``UsageError``.

    What reads as an IPv6 address as well as a shorter one and a port is the address, and that is told.
    """
    host, port_text = text, ""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        if not closed or (rest and not rest.startswith(":")):
            raise UsageError(f"{text!r} is not an address: write [ADDRESS]:PORT")
        port_text = rest[1:]
    elif text.count(":") == 1:
        host, _, port_text = text.partition(":")
    elif (shorter := text.rpartition(":"))[2].isdigit() and _is_ipv6(shorter[0]):
        note(f"{text} is taken for an address: for port {shorter[2]}, write [{shorter[0]}]:{shorter[2]}")
    if port_text:
        if not port_text.isascii() or not port_text.isdigit() or int(port_text) > 0xFFFF:
            raise UsageError(f"{port_text!r} in {text!r} is not a port: they are 0 to 65535")
        port = int(port_text)
    return Place(resolve(host), port)


def _is_ipv6(text: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6, text.partition("%")[0])
    except OSError:
        return False
    return True


def resolve(host: str) -> str:
    """The IP address of a host, IPv4 before IPv6. Raises ``UsageError``."""
    if not host:
        raise UsageError("an address is missing before the port")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if host.count(":") == 1 or "]:" in host:
        raise UsageError(f"{host!r}: no port belongs here, only an address")
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as problem:
        why = getattr(problem, "strerror", None) or str(problem)
        raise UsageError(f"{host!r} is neither an address nor a known name ({why})") from None
    found.sort(key=lambda each: each[0] != socket.AF_INET)
    return host_of(found[0][4])


def source_for(destination: str, transport: str = TCP) -> str:
    """The address from which this machine reaches another one. Nothing is sent.

    Raises ``UsageError`` where there is none, ``SocketError`` where ``destination`` is not the address of one host.

    For a loopback address it is one that no other node has: any of 127.0.0.0/8 reaches any other.
    """
    from rdstool.protocol.names import checked_host  # noqa: PLC0415

    checked_host(destination)
    family = socket.AF_INET6 if ":" in destination else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(socket_address(destination, 1)[1])
            source = host_of(probe.getsockname())
    except OSError as problem:
        raise UsageError(
            f"this machine has no route to {destination} ({problem.strerror}): name the address to send from"
        ) from None
    if not source.startswith("127."):
        return source
    others = (f"127.0.0.{number}" for number in range(1, 255))
    return next((each for each in (source, *others) if each != destination and _is_free(each, transport)), source)


def _is_free(address: str, transport: str) -> bool:
    """No node listens on an address of this machine."""
    from dissectors.wire.encapsulation import ROCE_UDP_PORT  # noqa: PLC0415
    from dissectors.wire.rds import TCP_PORT  # noqa: PLC0415

    if transport == AUTO:
        return all(_is_free(address, each) for each in TRANSPORTS)
    over_tcp = transport == TCP
    with socket.socket(type=socket.SOCK_STREAM if over_tcp else socket.SOCK_DGRAM) as probe:
        if over_tcp:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, TCP_PORT if over_tcp else ROCE_UDP_PORT))
        except OSError:
            return False
    return True
