"""What the kernel tells of its RDS through ``getsockopt`` (protocol.md §11.3): all that rds-info shows."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

from rdstool.afrds.numbers import SOL_RDS, Info

_TRIES = 16
"""Attempts before a table that keeps growing is given up."""

_SPARE_BYTES = 4096
"""Room for records that come up between the question for the size and the question itself."""

Record = dict[str, Any]


def read_table(sock: socket.socket, table: Info) -> list[bytes]:
    """The raw records of a table. Raises ``OSError``: ENOPROTOOPT where the transport is not loaded."""
    libc = ctypes.CDLL(None, use_errno=True)
    length = ctypes.c_uint(0)
    for _ in range(_TRIES):
        buffer = ctypes.create_string_buffer(max(length.value, 1))
        room = length.value
        each = libc.getsockopt(sock.fileno(), SOL_RDS, int(table), buffer, ctypes.byref(length))
        if each > 0 and length.value <= room:
            data = buffer.raw[: length.value]
            return [data[start : start + each] for start in range(0, len(data) - each + 1, each)]
        if each > 0 or each == 0:
            return []
        code = ctypes.get_errno()
        if code != errno.ENOSPC:
            raise OSError(code, os.strerror(code))
        length.value += _SPARE_BYTES
    raise OSError(errno.ENOSPC, f"the table {table.name} grows faster than it can be read")


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("ascii", "replace")


def _host(field: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(field) == 4 else socket.AF_INET6, field)


def _counter(raw: bytes) -> Record:
    return {"name": _text(raw[:32]), "value": struct.unpack_from("=Q", raw, 32)[0]}


def _connection(raw: bytes, size: int) -> Record:
    next_tx, next_rx = struct.unpack_from("=QQ", raw)
    at = 16 + 2 * size
    return {
        "local": _host(raw[16 : 16 + size]),
        "peer": _host(raw[16 + size : at]),
        "tos": raw[at + 17] if len(raw) > at + 17 else 0,
        "transport": _text(raw[at : at + 16]),
        "flags": raw[at + 16],
        "next_tx": next_tx,
        "next_rx": next_rx,
    }


def _message(raw: bytes, size: int) -> Record:
    sequence, length = struct.unpack_from("=QI", raw)
    at = 12 + 2 * size
    local_port, peer_port = struct.unpack_from(">HH", raw, at)
    return {
        "local": _host(raw[12 : 12 + size]),
        "local_port": local_port,
        "peer": _host(raw[12 + size : at]),
        "peer_port": peer_port,
        "sequence": sequence,
        "length": length,
        "flags": raw[at + 4],
        "tos": raw[at + 5] if len(raw) > at + 5 else 0,
    }


def _socket(raw: bytes, size: int) -> Record:
    at = 4 + 2 * size
    port, peer_port = struct.unpack_from(">HH", raw, at)
    rcvbuf, inode = struct.unpack_from("=IQ", raw, at + 4)
    return {
        "address": _host(raw[4 : 4 + size]),
        "port": port,
        "peer": _host(raw[4 + size : at]),
        "peer_port": peer_port,
        "sndbuf": struct.unpack_from("=I", raw)[0],
        "rcvbuf": rcvbuf,
        "inode": inode,
    }


def _tcp(raw: bytes, size: int) -> Record:
    local_port = struct.unpack_from(">H", raw, size)[0]
    peer = raw[size + 2 : 2 * size + 2]
    at = 2 * size + 2
    peer_port = struct.unpack_from(">H", raw, at)[0]
    header, data, sent, expected, seen = struct.unpack_from("=QQIII", raw, at + 2)
    return {
        "local": _host(raw[:size]),
        "local_port": local_port,
        "peer": _host(peer),
        "peer_port": peer_port,
        "header_remaining": header,
        "data_remaining": data,
        "last_sent_nxt": sent,
        "last_expected_una": expected,
        "last_seen_una": seen,
    }


def _ib(raw: bytes, size: int) -> Record:
    at = 2 * size
    names = ("max_send_wr", "max_recv_wr", "max_send_sge", "mr_max", "mr_size")
    return {
        "local": _host(raw[:size]),
        "peer": _host(raw[size:at]),
        "local_gid": _host(raw[at : at + 16]),
        "peer_gid": _host(raw[at + 16 : at + 32]),
        **dict(zip(names, struct.unpack_from("=5I", raw, at + 32), strict=True)),
        "tos": raw[at + 52] if len(raw) > at + 52 else 0,
    }


_DECODERS: dict[str, tuple[Info, Info, Callable[[bytes, int], Record]]] = {
    "connections": (Info.CONNECTIONS, Info.CONNECTIONS6, _connection),
    "send_messages": (Info.SEND_MESSAGES, Info.SEND_MESSAGES6, _message),
    "retransmit_messages": (Info.RETRANS_MESSAGES, Info.RETRANS_MESSAGES6, _message),
    "receive_messages": (Info.RECV_MESSAGES, Info.RECV_MESSAGES6, _message),
    "sockets": (Info.SOCKETS, Info.SOCKETS6, _socket),
    "tcp_sockets": (Info.TCP_SOCKETS, Info.TCP_SOCKETS6, _tcp),
    "ib_connections": (Info.IB_CONNECTIONS, Info.IB_CONNECTIONS6, _ib),
}

TABLES = tuple(_DECODERS)
"""Names of the tables with addresses."""


def counters(sock: socket.socket) -> dict[str, int]:
    """All counters by their names: of the core, then of each registered transport. They belong to the whole kernel."""
    found: dict[str, int] = {}
    for raw in read_table(sock, Info.COUNTERS):
        record = _counter(raw)
        found[record["name"]] = record["value"]
    return found


def table(sock: socket.socket, name: str, *, ipv6: bool = False) -> list[Record]:
    """A table's records, all their fields by name. ``ipv6`` has those of IPv4 too, as ``::ffff:a.b.c.d``.

    Raises ``KeyError`` for a name that is not in ``TABLES``, ``OSError`` as the kernel does.
    """
    old, new, decode = _DECODERS[name]
    size = 16 if ipv6 else 4
    return [decode(raw, size) for raw in read_table(sock, new if ipv6 else old)]
