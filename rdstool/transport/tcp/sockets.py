"""TCP sockets as RDS uses them: listening, dialling, options (protocol.md §4.1, §4.2, §4.4)."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from dissectors.wire.rds import TCP_PORT
from rdstool.errors import AddressError
from rdstool.protocol.config import Settings
from rdstool.protocol.source_ports import EPHEMERAL_PORTS, source_port
from rdstool.transport.scopes import socket_address

BACKLOG = 64
"""Connections that wait to be accepted, as many as the kernel's (``rds_tcp_listen_init``)."""
KEEPALIVE_S = 5
"""Idle time before the first probe, and between probes (``rds_tcp_keepalive``)."""
KEEPALIVE_PROBES = 5
DIAL_TRIES = 64
"""Source ports that are tried before an attempt counts as failed."""

LINGER_0 = struct.pack("@ii", 1, 0)
"""Value of SO_LINGER that makes a close a reset."""
_PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")

MakeSocket = Callable[[int, int], socket.socket]
"""Makes a socket of a family and type: ``socket.socket``, or one that makes it in another network namespace."""


def listener(address: str, port: int, settings: Settings, make_socket: MakeSocket = socket.socket) -> socket.socket:
    """A socket that takes connections for one address, and for no other.

    Raises ``AddressError`` where the address is not this machine's, or something else has the port.
    """
    try:
        family, where = socket_address(address, port)
    except OSError as problem:
        raise AddressError(problem.errno, _why_not(address, port, problem)) from problem
    sock = make_socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        set_buffers(sock, settings)
        sock.bind(where)
        sock.listen(BACKLOG)
    except OSError as problem:
        sock.close()
        raise AddressError(problem.errno, _why_not(address, port, problem)) from problem
    return sock


def _why_not(address: str, port: int, problem: OSError) -> str:
    if problem.errno == errno.EADDRINUSE:
        return (
            f"{address} speaks RDS already: TCP port {port} is taken by another rdstool node or by the kernel's own "
            "RDS (module rds_tcp); use another address, or end the other one"
        )
    if problem.errno == errno.EADDRNOTAVAIL:
        return f"{address} is not an address of this machine; see 'ip address' for those that are"
    if problem.errno == errno.EACCES:
        return f"no permission to listen on TCP port {port} of {address}"
    return f"cannot listen on TCP port {port} of {address}: {problem.strerror or problem}"


def set_buffers(sock: socket.socket, settings: Settings) -> None:
    """``net.rds.tcp.rds_tcp_sndbuf`` and ``rds_tcp_rcvbuf``; 0 leaves them to the system."""
    if settings.tcp_sndbuf:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, settings.tcp_sndbuf)
    if settings.tcp_rcvbuf:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, settings.tcp_rcvbuf)


def tune(sock: socket.socket) -> None:
    """No delay, and keep-alive that finds a dead peer in about 30 s. Raises ``OSError``."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_S),
        ("TCP_KEEPALIVE", KEEPALIVE_S),  # macOS
        ("TCP_KEEPINTVL", KEEPALIVE_S),
        ("TCP_KEEPCNT", KEEPALIVE_PROBES),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def abort(sock: socket.socket) -> None:
    """Close at once, with a reset and no TIME_WAIT (linger 0)."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
    except OSError:
        pass  # the connection is gone already
    finally:
        sock.close()


def ephemeral_ports() -> tuple[int, int]:
    """First and last port that the system gives to connections; Linux's own where it does not tell."""
    try:
        low, high = _PORT_RANGE.read_text().split()
        return int(low), int(high)
    except (OSError, ValueError):
        return EPHEMERAL_PORTS


class Dialler:
    """Begins TCP connections from source ports that tell the path."""

    def __init__(
        self,
        settings: Settings,
        first: int,
        *,
        port: int = TCP_PORT,
        by_path: bool = True,
        make_socket: MakeSocket = socket.socket,
    ) -> None:
        self._settings = settings
        self._make_socket = make_socket
        self._port = port
        self._by_path = by_path
        """False for a profile without SPORT_IDX: the system chooses the source port."""
        self._attempts = first
        """Source ports are not used again soon: a peer may still hold a connection from the last one."""
        self._range = ephemeral_ports()

    def dial(self, local: str, peer: str, path: int, npaths: int) -> socket.socket:
        """A socket that is being connected, for one of ``npaths``. Raises ``OSError`` where it cannot even begin."""
        family, there = socket_address(peer, self._port)
        for _ in range(DIAL_TRIES):
            self._attempts += 1
            port = source_port(path, self._attempts, *self._range, npaths) if self._by_path else 0
            _, here = socket_address(local, port)
            sock = self._make_socket(family, socket.SOCK_STREAM)
            try:
                sock.setblocking(False)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                set_buffers(sock, self._settings)
                sock.bind(here)
                sock.connect(there)
            except BlockingIOError:
                return sock
            except OSError as problem:
                sock.close()
                if problem.errno in {errno.EADDRINUSE, errno.EADDRNOTAVAIL} and port:
                    continue
                raise
            return sock
        raise OSError(errno.EADDRINUSE, "no free source port that tells the path")
