"""The tables of a node as records that JSON can carry, under the names that ``rdstool info`` knows them by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from itertools import islice
from typing import Any

from rdstool.protocol import info
from rdstool.protocol.node import Node

RECORDS = 2_000
"""Records of one table. Making and writing more would keep the node from its work."""

TABLES: dict[str, Callable[[Node], Iterable[Any]]] = {
    "connections": info.connections,
    "send_messages": info.send_messages,
    "retransmit_messages": info.retransmit_messages,
    "receive_messages": info.receive_messages,
    "sockets": info.sockets,
    "tcp_sockets": info.tcp_connections,
    "ib_connections": info.ib_connections,
}
"""The tables that have records. Counters are names and values instead."""
COUNTERS = "counters"
SECTIONS = (COUNTERS, *TABLES)


def snapshot(node: Node, sections: Sequence[str], limit: int = RECORDS) -> tuple[dict[str, Any], list[str]]:
    """The tables at one moment, and the names of those that have more than ``limit`` records.

    Raises ``KeyError`` for a name that is not in ``SECTIONS``.
    """
    tables: dict[str, Any] = {}
    cut: list[str] = []
    for name in sections:
        if name == COUNTERS:
            tables[name] = info.counters(node)
            continue
        records = list(islice(TABLES[name](node), limit + 1))
        if len(records) > limit:
            cut.append(name)
        tables[name] = [_as_dict(record) for record in records[:limit]]
    return tables, cut


def _as_dict(record: Any) -> dict[str, Any]:
    return {each.name: getattr(record, each.name) for each in fields(record)}
