"""The tables of ``rdstool info`` in the columns of rds-info (rds-tools 2.0.7, as seen in captures/*/counters.txt)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from rdstool.protocol.addresses import canonical

Record = dict[str, Any]
ADDRESS_WIDTH = 15
"""Width of a column of addresses. It fits IPv4; longer addresses widen it."""
FLAGS = "scCE"
"""Sending, connecting, connected, and on UEK error: bits 1, 2, 4, 8."""
_TCP_SEQUENCES = 1 << 32


@dataclass(frozen=True, slots=True)
class Column:
    """A heading, the width, and what stands under it."""

    heading: str
    width: int
    value: Callable[[Record], object]


@dataclass(frozen=True, slots=True)
class Table:
    """One section of the output."""

    option: str
    """Letter by which rds-info knows it; sections are shown in the order of these letters."""
    summary: str
    title: str
    columns: tuple[Column, ...]
    more: tuple[tuple[str, str], ...] = ()
    """What ``-v`` adds to a line: names, and the keys of a record; those that it lacks are left out."""


def _number(heading: str, width: int, *keys: str, modulo: int = 0) -> Column:
    def value(record: Record) -> object:
        found = next((record[key] for key in keys if key in record), 0)
        return found % modulo if modulo and isinstance(found, int) else found

    return Column(heading, width, value)


def _address(heading: str, key: str) -> Column:
    return Column(heading, 0, lambda record: _host(record.get(key)))


def _host(text: object) -> str:
    """IPv4-mapped addresses as IPv4, and 0.0.0.0 where there is none, as rds-info has it."""
    if text in {None, "", "::"}:
        return "0.0.0.0"  # noqa: S104 - shown, not bound
    try:
        return canonical(str(text))
    except ValueError:
        return str(text)


def _flags(record: Record) -> str:
    bits = record.get("flags", 0)
    return "".join(letter if bits & 1 << place else "-" for place, letter in enumerate(FLAGS))


_ENDS = (
    _address("LocalAddr", "local"),
    _number("LPort", 5, "local_port"),
    _address("RemoteAddr", "peer"),
    _number("RPort", 5, "peer_port"),
)
_QUEUE = (*_ENDS, _number("Tos", 4, "tos"), _number("Seq", 16, "sequence"), _number("Bytes", 10, "length"))

COUNTERS = "counters"
TABLES = {
    "ib_connections": Table(
        "I",
        "InfiniBand connections.",
        "RDS IB Connections",
        (
            _address("LocalAddr", "local"),
            _address("RemoteAddr", "peer"),
            _number("Tos", 4, "tos"),
            _number("SL", 3, "sl"),
            Column("LocalDev", 32, lambda record: record.get("local_gid", "")),
            Column("RemoteDev", 32, lambda record: record.get("peer_gid", "")),
        ),
        (
            ("send_wr", "max_send_wr"),
            ("recv_wr", "max_recv_wr"),
            ("send_sge", "max_send_sge"),
            ("rdma_mr_max", "mr_max"),
            ("rdma_mr_size", "mr_size"),
            ("cache_allocs", "cache_allocs"),
        ),
    ),
    "tcp_sockets": Table(
        "T",
        "TCP connections.",
        "TCP Connections",
        (
            *_ENDS,
            _number("HdrRemain", 10, "header_remaining"),
            _number("DataRemain", 10, "data_remaining"),
            _number("SentNxt", 10, "last_sent_nxt", "sent", modulo=_TCP_SEQUENCES),
            _number("ExpectUna", 10, "last_expected_una", "sent", modulo=_TCP_SEQUENCES),
            _number("SeenUna", 10, "last_seen_una", "acked", modulo=_TCP_SEQUENCES),
        ),
        (("path", "path"),),
    ),
    COUNTERS: Table(
        "c",
        "Counters; with NAME only these.",
        "Counters",
        (_number("CounterName", 25, "name"), _number("Value", 16, "value")),
    ),
    "sockets": Table(
        "k",
        "Sockets.",
        "RDS Sockets",
        (
            _address("BoundAddr", "address"),
            _number("BPort", 5, "port"),
            _address("ConnAddr", "peer"),
            _number("CPort", 5, "peer_port"),
            _number("SndBuf", 10, "sndbuf"),
            _number("RcvBuf", 10, "rcvbuf"),
            _number("Inode", 8, "inode"),
        ),
        (("unacked_bytes", "send_bytes"), ("unread_bytes", "receive_bytes"), ("congested", "congested")),
    ),
    "connections": Table(
        "n",
        "Connections.",
        "RDS Connections",
        (
            _address("LocalAddr", "local"),
            _address("RemoteAddr", "peer"),
            _number("Tos", 4, "tos"),
            _number("NextTX", 16, "next_tx"),
            _number("NextRX", 16, "next_rx"),
            Column("Flgs", 4, _flags),
        ),
        (("transport", "transport"), ("path", "path"), ("paths", "npaths"), ("state", "state")),
    ),
    "receive_messages": Table("r", "Messages that were not read yet.", "Receive Message Queue", _QUEUE),
    "send_messages": Table("s", "Messages that were not sent yet.", "Send Message Queue", _QUEUE),
    "retransmit_messages": Table("t", "Messages that were not acknowledged yet.", "Retransmit Message Queue", _QUEUE),
}
"""All sections, in the order in which they are shown."""


def counters(values: dict[str, int], names: Iterable[str]) -> list[Record]:
    """The counters as records; with ``names``, which may have ``*`` and ``?``, only those."""
    wanted = tuple(names)
    return [
        {"name": name, "value": value}
        for name, value in values.items()
        if not wanted or any(fnmatchcase(name, each) for each in wanted)
    ]


def table_lines(section: str, records: list[Record], *, verbose: bool) -> list[str]:
    """A section with its heading. Without ``verbose`` a connection is its path 0, as in the kernel."""
    table = TABLES[section]
    if section == "connections" and not verbose:
        records = [record for record in records if not record.get("path")]
    rows = [[str(column.value(record)) for column in table.columns] for record in records]
    addresses = [place for place, column in enumerate(table.columns) if not column.width]
    widest = max((len(row[place]) for row in rows for place in addresses), default=0)
    widths = [column.width or max(ADDRESS_WIDTH, widest) for column in table.columns]
    lines = ["", f"{table.title}:", _row([column.heading for column in table.columns], widths)]
    for record, row in zip(records, rows, strict=True):
        extra = ", ".join(f"{name}={record[key]}" for name, key in table.more if key in record) if verbose else ""
        lines.append(f"{_row(row, widths)}  {extra}" if extra else _row(row, widths))
    return lines


def _row(cells: list[str], widths: list[int]) -> str:
    return " ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
