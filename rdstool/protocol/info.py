"""A node's state as rds-info shows a kernel's (protocol.md §11.3): one record a line of each of its tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntFlag

from dissectors.wire.rds import TCP_PORT
from rdstool.protocol.addresses import parsed
from rdstool.protocol.base_connection import BaseConnection
from rdstool.protocol.ib.connection import IbConnection
from rdstool.protocol.lane import Lane
from rdstool.protocol.link import Link
from rdstool.protocol.loopback import LoopbackConnection
from rdstool.protocol.node import Node
from rdstool.protocol.outgoing import Outgoing
from rdstool.protocol.states import PathState

IPV4 = 4
SERVICE_LEVELS = 0xF
"""Bits of the type of service that make the service level (§7.7)."""


class ConnectionFlag(IntFlag):
    """Values of ``RDS_INFO_CONNECTION_FLAG_*``."""

    SENDING = 1
    CONNECTING = 2
    CONNECTED = 4


@dataclass(frozen=True, slots=True)
class ConnectionInfo:
    """``rds-info -n``. The kernel shows path 0 alone; here each path has its record."""

    local: str
    peer: str
    tos: int
    transport: str
    path: int
    npaths: int
    """Paths that both sides use; 1 until the handshake."""
    state: str
    """``up``, ``down``, ``connecting`` …"""
    flags: ConnectionFlag
    next_tx: int
    """Sequence number of the next message that will be sent."""
    next_rx: int
    """One above the sequence number received last."""


@dataclass(frozen=True, slots=True)
class SocketInfo:
    """What ``rds-info -k`` shows of a socket."""

    address: str
    port: int
    peer: str
    """Default destination; empty where there is none."""
    peer_port: int
    sndbuf: int
    """Bytes."""
    rcvbuf: int
    """Bytes."""
    congested: bool
    send_bytes: int
    """Queued or unacknowledged."""
    receive_bytes: int
    """Not read yet."""


@dataclass(frozen=True, slots=True)
class MessageInfo:
    """``rds-info -s``, ``-t`` and ``-r``: a message to be sent, to be acknowledged, or to be read."""

    local: str
    local_port: int
    peer: str
    peer_port: int
    sequence: int
    """0 where it has none yet, and for messages to be read."""
    length: int
    """Payload bytes."""
    tos: int


@dataclass(frozen=True, slots=True)
class TcpInfo:
    """``rds-info -T``: one TCP connection."""

    local: str
    local_port: int
    """0 while it is being connected."""
    peer: str
    peer_port: int
    path: int
    header_remaining: int
    """Bytes until the header of the message that has begun is complete."""
    data_remaining: int
    """Bytes until its payload is."""
    sent: int
    """Bytes given to TCP."""
    acked: int
    """Bytes that the peer's TCP has acknowledged."""


@dataclass(frozen=True, slots=True)
class IbInfo:
    """``rds-info -I``: one connection over InfiniBand."""

    local: str
    peer: str
    tos: int
    sl: int
    """Service level."""
    local_gid: str
    peer_gid: str
    max_send_wr: int
    max_recv_wr: int
    version: str
    """Protocol version, such as 3.1."""
    state: str


def connections(node: Node) -> Iterator[ConnectionInfo]:
    """All connections, path by path; of paths that were never used only path 0."""
    for connection in node.connections.values():
        ends = connection.local, connection.peer, connection.tos, connection.transport
        if isinstance(connection, LoopbackConnection):
            numbers = connection.next_tx, connection.next_rx
            yield ConnectionInfo(*ends, 0, 1, "up", ConnectionFlag.CONNECTED, *numbers)
            continue
        for path in connection.lanes()[: connection.npaths]:
            flags = ConnectionFlag(0)
            if path.state is PathState.UP:
                flags = ConnectionFlag.CONNECTED
            elif path.state in {PathState.CONNECTING, PathState.RESETTING}:
                flags = ConnectionFlag.CONNECTING
            if path.queue or path.retry or path.control:
                flags |= ConnectionFlag.SENDING
            name = path.state.name.lower()
            yield ConnectionInfo(*ends, path.index, connection.npaths, name, flags, path.next_tx, path.next_rx)


def sockets(node: Node) -> Iterator[SocketInfo]:
    """All bound sockets."""
    for ports in node.ports.values():
        for socket in ports.values():
            yield SocketInfo(
                socket.address,
                socket.port,
                *(socket.peer or ("", 0)),
                socket.sndbuf,
                socket.rcvbuf,
                socket.congested,
                socket.send_bytes,
                socket.receive_bytes,
            )


def send_messages(node: Node) -> Iterator[MessageInfo]:
    """Messages that wait to be sent, those to be sent again first."""
    for connection, path in _lanes(node):
        for message in (*path.retry, *path.control, *path.queue):
            yield _info(connection, message)


def retransmit_messages(node: Node) -> Iterator[MessageInfo]:
    """Messages that are sent and not acknowledged."""
    for connection, path in _lanes(node):
        for message in path.unacked:
            yield _info(connection, message)


def waits(node: Node, local: str, peer: str) -> bool:
    """Messages of sockets wait to be sent to a peer, or to be acknowledged by it."""
    return any(
        message.socket is not None
        for connection, path in _lanes(node)
        if (connection.local, connection.peer) == (local, peer)
        for queue in path.queues()
        for message in queue
    )


def receive_messages(node: Node) -> Iterator[MessageInfo]:
    """Messages that wait to be read."""
    for ports in node.ports.values():
        for socket in ports.values():
            for payload, address, port, *_ in socket.received:
                yield MessageInfo(socket.address, socket.port, address, port, 0, len(payload), socket.tos)


def tcp_connections(node: Node) -> Iterator[TcpInfo]:
    """TCP connections that serve a path."""
    for connection, path in _lanes(node):
        link = path.current_link()
        if not isinstance(link, Link):
            continue
        # The header counts as missing whole while no message has begun, as the kernel's counter does.
        header, data = link.deframer.remaining
        ports = (TCP_PORT, link.peer_port or 0) if link.incoming else (link.local_port, TCP_PORT)
        yield TcpInfo(
            connection.local, ports[0], connection.peer, ports[1], path.index, header, data, link.sent, link.acked
        )


def ib_connections(node: Node) -> Iterator[IbInfo]:
    """Connections over InfiniBand; work requests are those that the settings allow."""
    settings = node.settings
    for connection in node.connections.values():
        if isinstance(connection, IbConnection):
            yield IbInfo(
                connection.local,
                connection.peer,
                connection.tos,
                connection.tos & SERVICE_LEVELS,
                _gid(connection.local),
                _gid(connection.peer),
                settings.ib_max_send_wr,
                settings.ib_max_recv_wr,
                "{}.{}".format(*connection.version),
                connection.lane.state.name.lower(),
            )


def _gid(address: str) -> str:
    value = parsed(address)
    return f"::ffff:{value}" if value.version == IPV4 else str(value)  # as RoCE makes it of an IP address


def counters(node: Node) -> dict[str, int]:
    """``rds-info -c``: all counters by the kernel's names, then rdstool's own."""
    return node.counters.as_dict()


def _lanes(node: Node) -> Iterator[tuple[BaseConnection, Lane]]:
    for connection in node.connections.values():
        if isinstance(connection, BaseConnection):
            for lane in connection.lanes():
                yield connection, lane


def _info(connection: BaseConnection, message: Outgoing) -> MessageInfo:
    return MessageInfo(
        connection.local,
        message.sport,
        connection.peer,
        message.dport,
        message.sequence,
        len(message.payload),
        connection.tos,
    )
