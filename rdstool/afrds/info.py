"""What the kernel tells of its RDS through ``getsockopt`` (protocol.md §11.3): all that rds-info shows."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from typing import NamedTuple

from rdstool.afrds import records
from rdstool.afrds.numbers import SOL_RDS, Info
from rdstool.afrds.records import Decoder, Record

_TRIES = 16
"""Attempts before a table that keeps growing is given up."""

_SPARE_BYTES = 4096
"""Room for records that come up between the question for the size and the question itself."""


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
        if each >= 0:
            return []
        code = ctypes.get_errno()
        if code != errno.ENOSPC:
            raise OSError(code, os.strerror(code))
        length.value += _SPARE_BYTES
    raise OSError(errno.ENOSPC, f"the table {table.name} grows faster than it can be read")


class _Table(NamedTuple):
    """The two options for a table, and what reads its records."""

    ipv4: Info
    both: Info
    """Of IPv6, and of IPv4 as ``::ffff:a.b.c.d``."""
    decode: Decoder


_TABLES = {
    "connections": _Table(Info.CONNECTIONS, Info.CONNECTIONS6, records.connection),
    "send_messages": _Table(Info.SEND_MESSAGES, Info.SEND_MESSAGES6, records.message),
    "retransmit_messages": _Table(Info.RETRANS_MESSAGES, Info.RETRANS_MESSAGES6, records.message),
    "receive_messages": _Table(Info.RECV_MESSAGES, Info.RECV_MESSAGES6, records.message),
    "sockets": _Table(Info.SOCKETS, Info.SOCKETS6, records.bound_socket),
    "tcp_sockets": _Table(Info.TCP_SOCKETS, Info.TCP_SOCKETS6, records.tcp_socket),
    "ib_connections": _Table(Info.IB_CONNECTIONS, Info.IB_CONNECTIONS6, records.ib_connection),
}

TABLES = tuple(_TABLES)
"""Names of the tables with addresses."""


def counters(sock: socket.socket) -> dict[str, int]:
    """All counters by their names: of the core, then of each registered transport. They belong to the whole kernel."""
    return dict(map(records.counter, read_table(sock, Info.COUNTERS)))


def table(sock: socket.socket, name: str, *, ipv6: bool = False) -> list[Record]:
    """A table's records, all their fields by name. ``ipv6`` has those of IPv4 too, as ``::ffff:a.b.c.d``.

    Raises ``KeyError`` for a name that is not in ``TABLES``, ``OSError`` as the kernel does.
    """
    known = _TABLES[name]
    size = 16 if ipv6 else 4
    return [known.decode(raw, size) for raw in read_table(sock, known.both if ipv6 else known.ipv4)]


def both_families(sock: socket.socket, name: str) -> list[Record]:
    """A table's records of IPv4, which alone all have the type of service, then those of IPv6 but ``sock`` itself.

    Raises as ``table`` does. Kernels before 4.18 have no tables with IPv6.
    """
    found = table(sock, name)
    try:
        longer = table(sock, name, ipv6=True)
    except OSError as problem:
        if problem.errno != errno.ENOPROTOOPT:
            raise
        return found
    own = os.fstat(sock.fileno()).st_ino
    return found + [each for each in longer if not _is_mapped(each) and each.get("inode") != own]


def _is_mapped(record: Record) -> bool:
    return str(record.get("local") or record.get("address")).startswith("::ffff:")
