"""The values of fields in a batch of messages, or in a list of events, as columns.

A column knows the row of each of its values, so a field may be absent from a row, or occur in it several times.
Addresses, texts and byte strings are numbers into a table of distinct values: what is asked of them is asked once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dissectors.wire.congestion import BITMAP_BYTES
from dissectors.wire.extensions import TYPE_OF, ParsedExtensions, Unknown, parse_extensions
from rdstool.capture.columns import ChecksumStatus, Ints, MessageBatch
from rdstool.capture.events import CmMessage, Event, RdmaKind, RdmaOperation
from rdstool.capture.streams import V4_PREFIX, StreamTable
from rdstool.fields import FieldInfo, FieldType, Part
from rdstool.protocol.kinds import MessageKind, Transport

if TYPE_CHECKING:
    from dissectors.wire.cm import RdsReject

_RDMA_KINDS = [kind.value for kind in RdmaKind]
WORDS: dict[str, Sequence[str]] = {
    "rds.kind": [*(kind.label for kind in MessageKind), "cm", *_RDMA_KINDS],
    "rds.transport": [transport.label for transport in Transport],
    "rds.checksum.status": ChecksumStatus.LABELS,
    "rds.rdma.kind": _RDMA_KINDS,
}
"""Texts that can be nothing else."""
PARSED_LIMIT = 1 << 16
"""Distinct extension headers that are remembered."""


@dataclass(slots=True)
class Column:
    """The values of one field."""

    values: NDArray[Any]
    """Numbers, or where there is a table, indices into it."""
    rows: Ints | None = None
    """Row of each value, ascending; None: each row has exactly one."""
    table: Sequence[Any] | None = None
    """Distinct values: str, or bytes (addresses have 16)."""

    def item(self, index: int) -> Any:
        """One value as plain Python."""
        value = self.values[index].item()
        return value if self.table is None else self.table[value]


def address16(address: bytes) -> bytes:
    """Any address in 16 bytes, IPv4 as ::ffff:a.b.c.d."""
    return V4_PREFIX + address if len(address) == 4 else address


_parsed: dict[bytes, ParsedExtensions] = {}


def extensions_of(data: bytes) -> ParsedExtensions:
    """:func:`parse_extensions`, remembering what the same 16 bytes gave before."""
    parsed = _parsed.get(data)
    if parsed is None:
        if len(_parsed) >= PARSED_LIMIT:
            _parsed.clear()
        parsed = _parsed[data] = parse_extensions(data)
    return parsed


class MessageColumns:
    """The fields of the messages of one batch; columns are made when asked for, and kept."""

    def __init__(self, batch: MessageBatch, streams: StreamTable) -> None:
        self.batch = batch
        self.streams = streams
        self.count = len(batch)
        self._columns: dict[str, Column | None] = {}
        self._extensions: list[tuple[int, ParsedExtensions]] | None = None

    def column(self, info: FieldInfo) -> Column | None:
        """The values of a field; None where messages do not have it."""
        if info.name not in self._columns:
            self._columns[info.name] = self._make(info)
        return self._columns[info.name]

    def extensions(self) -> list[tuple[int, ParsedExtensions]]:
        """Rows that have extension headers, with what these hold."""
        if self._extensions is None:
            data = np.ascontiguousarray(self.batch.rows["header"]["exthdr"])
            rows = np.flatnonzero(data.view("u8").reshape(-1, 2).any(axis=1))
            self._extensions = [(row, extensions_of(data[row].tobytes())) for row in rows.tolist()]
        return self._extensions

    def _make(self, info: FieldInfo) -> Column | None:
        if info.part is Part.HEADER:
            return self._header(info)
        if info.part is Part.EXTENSION:
            return self._extension(info)
        maker = _MESSAGE_COLUMNS.get(info.name)
        return maker(self) if maker else None

    def _header(self, info: FieldInfo) -> Column:
        if info.type is FieldType.NONE:
            return Column(np.ones(self.count, dtype="u1"))
        values = self.batch.rows["header"][info.attribute]
        if info.type is FieldType.BYTES:
            texts = [value.tobytes() for value in values]
            return Column(np.arange(len(texts)), table=texts)
        if info.mask:
            return Column((values & info.mask != 0).astype("u1"))
        return Column(values.astype(f"u{values.dtype.itemsize}"))

    def _extension(self, info: FieldInfo) -> Column:
        found = (
            (row, getattr(item, info.attribute) if info.attribute else 1)
            for row, parsed in self.extensions()
            for item in parsed.items
            if type(item) is info.owner
        )
        return _column(found, info)


def _column(found: Iterable[tuple[int, Any]], info: FieldInfo) -> Column:
    pairs = list(found)
    rows = np.array([row for row, _ in pairs], dtype="i8")
    if info.type in {FieldType.UINT, FieldType.BOOL, FieldType.NONE}:
        numbers = [value if not info.mask else int(value & info.mask != 0) for _, value in pairs]
        return Column(np.array(numbers, dtype="u8"), rows)
    if info.type is FieldType.TIME:
        return Column(np.array([value for _, value in pairs], dtype="i8"), rows)
    table = [address16(value) if info.type is FieldType.ADDRESS else value for _, value in pairs]
    return Column(np.arange(len(table)), rows, table)


def _plain(name: str) -> Callable[[MessageColumns], Column]:
    return lambda columns: Column(columns.batch.rows[name])


def _labels(name: str, labels: Sequence[str]) -> Callable[[MessageColumns], Column]:
    return lambda columns: Column(columns.batch.rows[name], table=labels)


def _address(*, back: bool) -> Callable[[MessageColumns], Column]:
    def make(columns: MessageColumns) -> Column:
        rows = columns.batch.rows
        ends, codes = np.unique(rows["stream"].astype("i8") * 2 + rows["direction"], return_inverse=True)
        table = [columns.streams[end >> 1].ends(end & 1)[back].address for end in ends.tolist()]
        return Column(codes.reshape(-1), table=table)

    return make


def _both(first: str, second: str) -> Callable[[MessageColumns], Column]:
    def make(columns: MessageColumns) -> Column:
        one, two = _MESSAGE_COLUMNS[first](columns), _MESSAGE_COLUMNS[second](columns)
        table = None if one.table is None or two.table is None else [*one.table, *two.table]
        shift = 0 if one.table is None else len(one.table)
        values = np.stack([one.values, two.values + shift], axis=1).reshape(-1)
        return Column(values, np.repeat(np.arange(columns.count), 2), table)

    return make


def _tcp_ports(*backs: bool) -> Callable[[MessageColumns], Column]:
    """Ports of the ends: False for the source, True for the destination. Messages over InfiniBand have none."""

    def make(columns: MessageColumns) -> Column:
        rows = columns.batch.rows
        own = np.flatnonzero(rows["transport"] == Transport.TCP)
        ends, codes = np.unique(rows["stream"][own].astype("i8") * 2 + rows["direction"][own], return_inverse=True)
        pairs = (columns.streams[end >> 1].ends(end & 1) for end in ends.tolist())
        ports = np.array([[pair[back].port for back in backs] for pair in pairs], "u2").reshape(-1, len(backs))
        return Column(ports[codes.reshape(-1)].reshape(-1), np.repeat(own, len(backs)))

    return make


def _path(columns: MessageColumns) -> Column:
    paths = columns.batch.rows["path"]
    rows = np.flatnonzero(paths >= 0)
    return Column(paths[rows].astype("u1"), rows)


def _exthdr_types(columns: MessageColumns) -> Column:
    pairs = [
        (row, item.type if isinstance(item, Unknown) else int(TYPE_OF[type(item)]))
        for row, parsed in columns.extensions()
        for item in parsed.items
    ]
    return Column(np.array([kind for _, kind in pairs], dtype="u1"), np.array([row for row, _ in pairs], dtype="i8"))


def _exthdr_problem(columns: MessageColumns) -> Column:
    pairs = [(row, parsed.problem) for row, parsed in columns.extensions() if parsed.problem]
    return Column(np.arange(len(pairs)), np.array([row for row, _ in pairs], dtype="i8"), [text for _, text in pairs])


def _by_row(values: Mapping[int, Any]) -> Column:
    rows = sorted(values)
    return Column(np.arange(len(rows)), np.array(rows, dtype="i8"), [values[row] for row in rows])


def _congested(columns: MessageColumns) -> Column:
    kinds = columns.batch.rows["kind"]
    rows = [np.empty(0, dtype="i8")]
    ports = [np.empty(0, dtype="u2")]
    for row, payload in sorted(columns.batch.payloads.items()):
        if kinds[row] == MessageKind.CONGESTION and len(payload) == BITMAP_BYTES:
            bits = np.unpackbits(np.frombuffer(payload, dtype="u1"), bitorder="little")
            ports.append(np.flatnonzero(bits).astype("u2"))
            rows.append(np.full(len(ports[-1]), row, dtype="i8"))
    return Column(np.concatenate(ports), np.concatenate(rows))


_KINDS = [kind.label for kind in MessageKind]
_TRANSPORTS = [next((t.label for t in Transport if t == number), "") for number in range(max(Transport) + 1)]

_MESSAGE_COLUMNS: dict[str, Callable[[MessageColumns], Column]] = {
    "frame.number": _plain("frame"),
    "frame.time_epoch": _plain("time"),
    "frame.time_relative": lambda columns: Column(columns.batch.rows["time"] - (columns.streams.began or 0)),
    "rds.number": _plain("number"),
    "rds.kind": _labels("kind", _KINDS),
    "rds.transport": _labels("transport", _TRANSPORTS),
    "rds.src": _address(back=False),
    "rds.dst": _address(back=True),
    "rds.addr": _both("rds.src", "rds.dst"),
    "rds.sport": lambda columns: Column(columns.batch.rows["header"]["sport"].astype("u2")),
    "rds.dport": lambda columns: Column(columns.batch.rows["header"]["dport"].astype("u2")),
    "rds.port": _both("rds.sport", "rds.dport"),
    "tcp.srcport": _tcp_ports(False),
    "tcp.dstport": _tcp_ports(True),
    "tcp.port": _tcp_ports(False, True),
    "rds.stream": _plain("stream"),
    "rds.path": _path,
    "rds.fragments": _plain("fragments"),
    "rds.seen": _plain("seen"),
    "rds.complete": lambda columns: Column(columns.batch.rows["complete"].view("u1")),
    "rds.inferred": lambda columns: Column(columns.batch.rows["inferred"].view("u1")),
    "rds.checksum.status": _labels("checksum_status", ChecksumStatus.LABELS),
    "rds.exthdr.type": _exthdr_types,
    "rds.exthdr.problem": _exthdr_problem,
    "rds.congested": _congested,
    "rds.payload": lambda columns: _by_row(columns.batch.payloads),
    "rds.sha256": lambda columns: _by_row(columns.batch.digests),
}


class EventColumns:
    """The same for RDMA-CM messages and RDMA operations, which are rare enough to go one by one."""

    def __init__(self, events: Sequence[Event], streams: StreamTable) -> None:
        self.events = events
        self.streams = streams
        self.count = len(events)

    def column(self, info: FieldInfo) -> Column:
        """The values of a field; rows without it are left out."""
        found = ((row, value) for row, event in enumerate(self.events) for value in self._values(event, info))
        return _column(found, info)

    def _values(self, event: Event, info: FieldInfo) -> list[Any]:
        if info.name in {"rds.src", "rds.dst", "rds.addr"}:
            source, destination = event_addresses(event, self.streams)
            return {"rds.src": [source], "rds.dst": [destination]}.get(info.name, [source, destination])
        if info.name == "frame.time_relative":
            return [event.time - (self.streams.began or 0)]
        if info.name in _COMMON:
            return _COMMON[info.name](event)
        if isinstance(event, CmMessage):
            return _cm_values(event, info)
        return _rdma_values(event, info) if isinstance(event, RdmaOperation) else []


_COMMON: dict[str, Callable[[Event], list[Any]]] = {
    "frame.number": lambda event: [event.frame],
    "frame.time_epoch": lambda event: [event.time],
    "rds.transport": lambda event: [Transport.IB.label],
    "rds.stream": lambda event: [event.stream] if event.stream >= 0 else [],
}


def event_addresses(event: Event, streams: StreamTable) -> tuple[bytes, bytes]:
    """Source and destination of an RDMA-CM message or RDMA operation, 16 bytes each."""
    if isinstance(event, CmMessage):
        return address16(event.src), address16(event.dst)
    source, destination = streams[event.stream].ends(getattr(event, "direction", 0))
    return source.address, destination.address


def reject_of(event: CmMessage) -> RdsReject | None:
    """RDS's own data in a REJ, where there are any."""
    from dissectors.wire.cm import RdsReject, reject_code  # noqa: PLC0415 - most captures have no RDMA-CM

    private = getattr(event.body, "private", b"")
    return RdsReject(reject_code(private)) if event.name == "REJ" and any(private[:4]) else None


def _cm_values(event: CmMessage, info: FieldInfo) -> list[Any]:
    if info.name == "rds.kind":
        return ["cm"]
    if info.name == "rds.cm.message":
        return [event.name]
    from dissectors.wire.cm import RdsPrivateV4, RdsPrivateV6, RdsReject  # noqa: PLC0415

    sources: dict[Part, Any] = {Part.CM: event.body, Part.CM_IP: event.ip, Part.CM_PRIVATE: event.private}
    source = sources.get(info.part)
    if info.owner is RdsReject:
        source = reject_of(event)
    if source is None:
        return []
    # The IPv4 and IPv6 forms of the private data share their names, and the registry holds those of the first.
    same = isinstance(source, info.owner or ()) or {type(source), info.owner} == {RdsPrivateV4, RdsPrivateV6}
    if not same:
        return []
    if not info.attribute:
        return [1]
    value = getattr(source, info.attribute)
    if info.part is Part.CM_IP and info.type is FieldType.ADDRESS and source.ip_version == 4:
        value = value[12:]
    return [value]


def _rdma_values(event: RdmaOperation, info: FieldInfo) -> list[Any]:
    values: dict[str, Any] = {
        "rds.kind": event.kind.value,
        "rds.rdma.kind": event.kind.value,
        "rds.rdma.va": event.va,
        "rds.rdma.rkey": event.rkey,
        "rds.rdma.length": event.length,
        "rds.rdma.status": event.status,
    }
    return [values[info.name]] if info.name in values else []
