"""The records that the kernel's info options give, as bytes to fields by name (protocol.md §11.3).

Numbers are in the machine's order, addresses and ports in that of the network. A kernel that lacks the last fields
gives shorter records: these fields are 0 then. What a longer record has beyond is not known here.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any

Record = dict[str, Any]
Decoder = Callable[[bytes, int], Record]
"""Takes a record and the length of its addresses: 4 or 16 bytes."""

LONGEST_BYTES = 92
"""Longest of the records known here: ``rds6_info_rdma_connection``."""


def whole(decode: Decoder) -> Decoder:
    """A decoder to which fields that are not there are 0."""
    return lambda raw, size: decode(raw.ljust(LONGEST_BYTES, b"\0"), size)


def counter(raw: bytes) -> tuple[str, int]:
    """``rds_info_counter``: name and value."""
    return _text(raw[:32]), struct.unpack_from("=Q", raw.ljust(40, b"\0"), 32)[0]


@whole
def connection(raw: bytes, size: int) -> Record:
    """The record of a connection: ``rds_info_connection``, ``rds6_info_connection``."""
    next_tx, next_rx = struct.unpack_from("=QQ", raw)
    at = 16 + 2 * size
    return {
        "local": _host(raw[16 : 16 + size]),
        "peer": _host(raw[16 + size : at]),
        "tos": raw[at + 17],
        "transport": _text(raw[at : at + 16]),
        "flags": raw[at + 16],
        "next_tx": next_tx,
        "next_rx": next_rx,
    }


@whole
def message(raw: bytes, size: int) -> Record:
    """The record of a message: ``rds_info_message``, ``rds6_info_message``."""
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
        "tos": raw[at + 5],
    }


@whole
def bound_socket(raw: bytes, size: int) -> Record:
    """The record of a socket: ``rds_info_socket``, ``rds6_info_socket``."""
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


@whole
def tcp_socket(raw: bytes, size: int) -> Record:
    """The record of a TCP connection: ``rds_info_tcp_socket``, ``rds6_info_tcp_socket``."""
    at = 2 * size + 2
    local_port = struct.unpack_from(">H", raw, size)[0]
    peer_port = struct.unpack_from(">H", raw, at)[0]
    header, data, sent, expected, seen = struct.unpack_from("=QQIII", raw, at + 2)
    return {
        "local": _host(raw[:size]),
        "local_port": local_port,
        "peer": _host(raw[size + 2 : at]),
        "peer_port": peer_port,
        "header_remaining": header,
        "data_remaining": data,
        "last_sent_nxt": sent,
        "last_expected_una": expected,
        "last_seen_una": seen,
        "tos": raw[at + 30],
    }


@whole
def ib_connection(raw: bytes, size: int) -> Record:
    """``rds_info_rdma_connection``, ``rds6_info_rdma_connection``; the only ones that are not packed."""
    at = 2 * size
    names = ("max_send_wr", "max_recv_wr", "max_send_sge", "mr_max", "mr_size")
    return {
        "local": _host(raw[:size]),
        "peer": _host(raw[size:at]),
        "local_gid": _host(raw[at : at + 16]),
        "peer_gid": _host(raw[at + 16 : at + 32]),
        **dict(zip(names, struct.unpack_from("=5I", raw, at + 32), strict=True)),
        "tos": raw[at + 52],
        "sl": raw[at + 53],
        "cache_allocs": struct.unpack_from("=I", raw, at + 56)[0],
    }


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("ascii", "replace")


def _host(field: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(field) == 4 else socket.AF_INET6, field)
