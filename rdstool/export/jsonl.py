"""JSON lines: one object a message. Keys may be added; none is renamed or dropped without a major version.

A line is put together from text, most of it shared by many messages; ``json.dumps`` sees only what is rare.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import numpy as np

from dissectors.wire.congestion import BITMAP_BYTES, congested_ports
from dissectors.wire.table import Kind, table_of
from rdstool.capture.columns import ChecksumStatus, Ints
from rdstool.capture.events import CmMessage, RdmaOperation
from rdstool.capture.streams import Stream, StreamTable, address_text
from rdstool.export.parts import by_stream, by_value, extension_object, flag_names, seconds_text, seconds_texts, sparse
from rdstool.field_columns import MessageColumns, address16, event_addresses, reject_of
from rdstool.protocol.kinds import MessageKind, Transport

REMEMBERED_BITMAPS = 16
"""Congestion bitmaps whose text is kept: the same one is sent on each path, and text can be 400 kB long."""

_ENCODER = json.JSONEncoder(ensure_ascii=False)


def message_lines(columns: MessageColumns, keep: Ints, more: list[str] | None = None) -> list[str]:
    """The lines of the rows ``keep``, each with its newline; ``more`` is appended inside each object."""
    more_texts = _more_texts(columns, keep)
    if more is not None:
        more_texts = [f"{text}{added}" for text, added in zip(more_texts, more, strict=True)]
    rows = columns.batch.rows.take(keep)
    header = rows["header"]
    path_and_kind = (rows["path"].astype("i4") + 1) * len(MessageKind) + rows["kind"]
    credit_and_checksum = (header["credit"].astype("i8") << 24) + (header["checksum"].astype("i8") << 8)
    return [
        f'{{"number": {number}, "frame": {frame}, "time": {time}, {stream}, {path}, "sequence": {sequence}, '
        f'"ack": {ack}, "length": {length}, "sport": {sport}, "dport": {dport}, "flags": {flags}, {checksum}, '
        f'"extensions": {extensions}, "fragments": {fragments}, "complete": {"true" if complete else "false"}{more}}}\n'
        for (
            number,
            frame,
            time,
            stream,
            path,
            sequence,
            ack,
            length,
            sport,
            dport,
            flags,
            checksum,
            extensions,
            fragments,
            complete,
            more,
        ) in zip(
            rows["number"].tolist(),
            rows["frame"].tolist(),
            seconds_texts(rows["time"]),
            by_stream(columns, keep, _stream_text),
            by_value(path_and_kind, _path_text),
            header["sequence"].tolist(),
            header["ack"].tolist(),
            header["length"].tolist(),
            header["sport"].tolist(),
            header["dport"].tolist(),
            by_value(header["flags"], lambda flags: json.dumps(flag_names(flags))),
            by_value(credit_and_checksum + rows["checksum_status"], _checksum_text),
            _extension_texts(columns, keep),
            rows["fragments"].tolist(),
            rows["complete"].tolist(),
            more_texts,
            strict=True,
        )
    ]


def _stream_text(stream: Stream, direction: int) -> str:
    source, destination = stream.ends(direction)
    return (
        f'"transport": "{stream.transport.label}", "src": "{source.host}", "dst": "{destination.host}", '
        f'"stream": {stream.number}'
    )


def _path_text(code: int) -> str:
    path, kind = divmod(code, len(MessageKind))
    return f'"path": {path - 1 if path else "null"}, "kind": "{MessageKind(kind).label}"'


def _checksum_text(code: int) -> str:
    return (
        f'"credit": {code >> 24}, "checksum": {code >> 8 & 0xFFFF}, '
        f'"checksum_status": "{ChecksumStatus.LABELS[code & 0xFF]}"'
    )


def _extension_texts(columns: MessageColumns, keep: Ints) -> list[str]:
    texts = [
        (row, json.dumps([extension_object(item) for item in parsed.items])) for row, parsed in columns.extensions()
    ]
    return sparse(len(keep), keep, columns.count, texts, "[]")


def _more_texts(columns: MessageColumns, keep: Ints) -> list[str]:
    """Keys that only some messages have, each with a comma in front."""
    batch = columns.batch
    more: dict[int, str] = {row: f', "sha256": "{digest}"' for row, digest in batch.digests.items()}

    def add(row: int, key: str, value: Any) -> None:
        more[row] = f"{more.get(row, '')}, {json.dumps(key)}: {json.dumps(value)}"

    for row in np.flatnonzero(~batch.rows["complete"]).tolist():
        add(row, "seen", int(batch.rows["seen"][row]))
    for row in np.flatnonzero(batch.rows["inferred"]).tolist():
        add(row, "inferred", True)
    for row, parsed in columns.extensions():
        if parsed.problem:
            add(row, "extensions_problem", parsed.problem)
    kept = set(keep.tolist())
    for row, payload in batch.payloads.items():
        if row in kept and len(payload) == BITMAP_BYTES and batch.rows["kind"][row] == MessageKind.CONGESTION:
            more[row] = f'{more.get(row, "")}, "congested": {_ports_text(payload)}'
    for row, operations in batch.rdma.items():
        add(row, "rdma", [_operation(operation) for operation in operations])
    return sparse(len(keep), keep, columns.count, list(more.items()), "")


@lru_cache(maxsize=REMEMBERED_BITMAPS)
def _ports_text(bitmap: bytes) -> str:
    return json.dumps(congested_ports(bitmap))


def _operation(event: RdmaOperation) -> dict[str, Any]:
    return {
        "kind": event.kind.value,
        "va": event.va,
        "rkey": event.rkey,
        "length": event.length,
        "seen": event.seen,
        "status": event.status,
        **({"operands": list(event.operands)} if event.operands else {}),
    }


def event_line(event: CmMessage | RdmaOperation, streams: StreamTable, more: str = "") -> str:
    """An RDMA-CM message or RDMA operation as a line of its own; ``more`` is appended inside the object."""
    source, destination = event_addresses(event, streams)
    path = streams[event.stream].path if event.stream >= 0 else -1
    common = {
        "transport": Transport.IB.label,
        "src": address_text(source),
        "dst": address_text(destination),
        "stream": event.stream if event.stream >= 0 else None,
        "path": path if path >= 0 else None,
    }
    own = _cm_object(event) if isinstance(event, CmMessage) else _operation(event)
    rest = _ENCODER.encode({**common, **own})
    # Times keep all their digits, which a float would not.
    return f'{{"number": null, "frame": {event.frame}, "time": {seconds_text(event.time)}, {rest[1:-1]}{more}}}\n'


def _cm_object(event: CmMessage) -> dict[str, Any]:
    ip = _fields(event.ip)
    if event.ip is not None and event.ip.ip_version == 4 and ip is not None:
        ip["saddr"], ip["daddr"] = (
            address_text(address16(address[12:])) for address in (event.ip.saddr, event.ip.daddr)
        )
    return {
        "kind": "cm",
        "message": event.name,
        "transaction_id": event.transaction_id,
        "fields": _fields(event.body),
        "ip": ip,
        "private": _fields(event.private if event.private is not None else reject_of(event)),
        "problem": event.problem,
    }


def _fields(header: Any) -> dict[str, Any] | None:
    """A header's fields with addresses as text; reserved ones and undecoded private data are left out."""
    if header is None:
        return None
    values: dict[str, Any] = {}
    for name, address in _shown(header.__class__):
        value = getattr(header, name)
        if address:
            value = address_text(address16(value))
        values[name] = value.hex() if isinstance(value, bytes) else value
    return values


@lru_cache
def _shown(header: type[Any]) -> tuple[tuple[str, bool], ...]:
    """The fields of a header that are shown, and whether each is an address."""
    return tuple(
        (row.name, row.kind in {Kind.IPV4, Kind.IPV6})
        for row in table_of(header).fields
        if not row.name.startswith(("reserved", "private", "tail"))
    )
