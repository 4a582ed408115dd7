"""What the plugin tells of a capture, as the rows and events that native decoding gives."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from ipaddress import ip_address
from typing import Any, Protocol

import numpy as np

from dissectors.wire.cm import CM_MESSAGES, Attribute, IpCm, RdsPrivateV4, RdsPrivateV6
from dissectors.wire.rds import HEADER_BYTES, RDS_HEADER, RdsHeader
from dissectors.wire.table import Kind, table_of
from rdstool.capture.columns import MESSAGE, RDS_DTYPE, ChecksumStatus
from rdstool.capture.events import Closing, CmMessage, Event, RdmaKind, RdmaOperation, StreamClosed, StreamOpened
from rdstool.capture.part import Part
from rdstool.capture.streams import V4_PREFIX, Endpoint, StreamTable, lid_bytes
from rdstool.errors import TsharkError
from rdstool.protocol.kinds import MessageKind, Transport

MAX_MESSAGES = 2_000_000
"""Messages of one capture that are read through tshark: all are kept until its end."""
LAYERS = ("rds", "rds_part", "rds_cm", "rds_rdma")
"""Protocols of the plugin that carry what is read here."""
EXPERT_TEXT = "_ws.expert.message"
"""Field with the words of an expert item."""
_INT64_MAX = (1 << 63) - 1
_KINDS = {kind.label: kind for kind in MessageKind}
_STATUS = {label: number for number, label in enumerate(ChecksumStatus.LABELS)}


class Shown(Protocol):
    """One field as pyshark has it."""

    show: str
    raw_value: str | None
    size: str | None
    """Bytes, in decimal."""


Values = Mapping[str, Sequence[Shown]]
"""The fields of one protocol in one frame, by name."""


@dataclass(slots=True)
class _Message:
    """A message that was read, until the times of all frames are known."""

    row: Any
    payload: bytes
    announced: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Opened:
    """A stream, as the plugin tells of it."""

    transport: Transport
    a: Endpoint
    b: Endpoint
    first_frame: int
    from_start: bool


@dataclass(slots=True)
class Records:
    """Collects what the plugin shows, frame by frame."""

    streams: StreamTable
    payloads: bool = False
    digests: bool = False
    times: dict[int, int] = field(default_factory=dict)
    """Frame -> its time, ns since 1970."""
    wanted: set[int] = field(default_factory=set)
    """Frames whose time is needed."""
    findings: Counter[tuple[int, str]] = field(default_factory=Counter)
    """(frame, rule) -> how often the plugin tells that it is broken there."""
    _opened: dict[int, _Opened] = field(default_factory=dict)
    """By the plugin's number: it tells of a stream in its first frame, and may know of it later than of others."""
    _messages: list[_Message] = field(default_factory=list)
    _events: list[Event] = field(default_factory=list)
    _operations: dict[int, RdmaOperation] = field(default_factory=dict)

    def add(self, layer: str, values: Values, frame: int) -> None:
        """Take one protocol of a frame. Raises ``TsharkError`` where it is not as this rdstool's plugin shows it."""
        try:
            if layer == "rds":
                self._message(values)
            elif layer == "rds_part":
                self._part(values, frame)
            elif layer == "rds_cm":
                self._cm(values, frame)
            else:
                self._operation(values)
            self._tell(values, frame)
        except (KeyError, ValueError, IndexError) as problem:
            raise TsharkError(
                f"frame {frame}: the plugin shows {layer} without {problem}; is it of another version? "
                "Look with: rdstool lua status"
            ) from problem

    def part(self) -> Part:
        """Everything, in capture order where frames tell it; the streams are entered into the table.

        Raises ``TsharkError`` where the plugin has told of a message and not of its stream.
        """
        numbers = {number: self._stream(self._opened[number]) for number in sorted(self._opened)}
        rows = np.zeros(len(self._messages), MESSAGE)
        payloads: dict[int, bytes] = {}
        digests: dict[int, str] = {}
        rdma: dict[int, tuple[RdmaOperation, ...]] = {}
        for index, message in enumerate(self._messages):
            rows[index] = message.row
            number = int(message.row["stream"])
            if number not in numbers:
                raise TsharkError(f"frame {message.row['frame']}: the plugin told nothing of stream {number}")
            rows[index]["stream"] = numbers[number]
            bitmap = message.row["kind"] == MessageKind.CONGESTION
            if self.payloads or bitmap:
                payloads[index] = message.payload
            if self.digests and message.row["complete"]:
                digests[index] = hashlib.sha256(message.payload).hexdigest()
            known = [self._operations[number] for number in message.announced if number in self._operations]
            if known:
                rdma[index] = tuple(self._timed(operation, numbers) for operation in known)
        if len(rows):
            rows["time"] = [self.times[int(frame)] for frame in rows["frame"]]
        events = [self._timed(event, numbers) for event in (*self._events, *self._operations.values())]
        part = Part.empty()
        return replace(part, rows=rows, payloads=payloads, digests=digests, events=events, rdma=rdma)

    def _tell(self, values: Values, frame: int) -> None:
        """Take the expert items: each begins with the rule that is broken. Those of a message belong to its frame."""
        texts = [value.show for value in values.get(EXPERT_TEXT, ())]
        rules = [text.partition(":")[0] for text in texts if text.startswith("RDS-")]
        if rules:
            frame = _number(values, "rds.frame", frame)
            self.findings.update((frame, rule) for rule in rules)

    def _timed(self, event: Any, numbers: Mapping[int, int]) -> Any:
        return replace(event, time=self.times[event.frame], stream=numbers.get(event.stream, -1))

    def _stream(self, opened: _Opened) -> int:
        stream = self.streams.add(
            opened.transport,
            opened.a,
            opened.b,
            initiator_known=opened.from_start,
            first_frame=opened.first_frame,
            from_start=opened.from_start,
        )
        if stream is None:
            raise TsharkError(f"more than {len(self.streams)} streams; read larger captures without --engine tshark")
        return stream.number

    def _message(self, values: Values) -> None:
        if len(self._messages) >= MAX_MESSAGES:
            raise TsharkError(f"more than {MAX_MESSAGES} messages; read larger captures without --engine tshark")
        header = _structure(RdsHeader, "rds", values)
        row = np.zeros((), MESSAGE)
        raw = RDS_HEADER.pack(header)
        row["header"] = np.frombuffer(raw, RDS_DTYPE)[0]
        transport = Transport[_text(values, "rds.transport").upper()]
        frame = _number(values, "rds.frame")
        row["frame"], row["first_frame"] = frame, _number(values, "rds.first_frame", frame)
        row["stream"], row["direction"] = _number(values, "rds.stream"), _number(values, "rds.direction")
        row["transport"], row["kind"] = transport, _KINDS[_text(values, "rds.kind")]
        row["path"] = -1
        row["fragments"], row["seen"] = _number(values, "rds.fragments"), _number(values, "rds.seen")
        row["complete"], row["inferred"] = _truth(values, "rds.complete"), _truth(values, "rds.inferred")
        row["checksum_status"] = _STATUS[_text(values, "rds.checksum.status")]
        position = _number(values, "rds.position")
        row["position"] = position
        tcp = transport is Transport.TCP
        row["end"] = position + HEADER_BYTES + header.length if tcp else min(header.sequence, _INT64_MAX)
        payload = _octets(values, "rds.payload") if "rds.payload" in values else b""
        announced = tuple(int(item.show) for item in values.get("rds.rdma.announced", ()))
        self.wanted.add(frame)
        self._messages.append(_Message(row, payload, announced))

    def _part(self, values: Values, frame: int) -> None:
        if "rds.stream.event" not in values:
            return
        number, direction = _number(values, "rds.stream"), _number(values, "rds.direction")
        event = _text(values, "rds.stream.event")
        self.wanted.add(frame)
        if event != "opened":
            self._events.append(StreamClosed(frame, 0, number, direction, Closing[event], 0))
            return
        from_start = _truth(values, "rds.stream.from_start")
        transport = Transport[_text(values, "rds.transport").upper()]
        a, b = (_endpoint(_text(values, f"rds.stream.{end}")) for end in ("a", "b"))
        self._opened[number] = _Opened(transport, a, b, frame, from_start)
        if from_start:
            self._events.append(StreamOpened(frame, 0, number, direction))

    def _operation(self, values: Values) -> None:
        frame = _number(values, "rds.frame")
        self.wanted.add(frame)
        self._operations[_number(values, "rds.rdma.id")] = RdmaOperation(
            frame,
            0,
            _number(values, "rds.stream"),
            _number(values, "rds.direction"),
            RdmaKind(_text(values, "rds.rdma.kind")),
            _number(values, "rds.rdma.va"),
            _number(values, "rds.rdma.rkey"),
            _number(values, "rds.rdma.length"),
            _number(values, "rds.rdma.seen"),
            _number(values, "rds.first_frame"),
            _number(values, "rds.rdma.psn"),
            _text(values, "rds.rdma.status"),
            tuple(int(_raw(item), 16) for item in values.get("rds.rdma.operand", ())),
        )

    def _cm(self, values: Values, frame: int) -> None:
        name = _text(values, "rds.cm.message")
        body = CM_MESSAGES[Attribute[name]].unpack_from(_octets(values, "rds.cm.bytes"))
        ip = _structure(IpCm, "rds.cm.ip", values) if "rds.cm.ip" in values else None
        private: RdsPrivateV4 | RdsPrivateV6 | None = None
        if "rds.cm" in values:
            v4 = int(values["rds.cm"][0].size or 0) == table_of(RdsPrivateV4).size
            private = _structure(RdsPrivateV4 if v4 else RdsPrivateV6, "rds.cm", values)
        self.wanted.add(frame)
        self._events.append(
            CmMessage(
                frame,
                0,
                _number(values, "rds.stream", -1),
                _address(_text(values, "rds.src")),
                _address(_text(values, "rds.dst")),
                int.from_bytes(_octets(values, "rds.cm.transaction"), "big"),
                body,
                ip,
                private,
                _text(values, "rds.cm.problem") if "rds.cm.problem" in values else None,
            )
        )


def _structure(cls: type[Any], prefix: str, values: Values) -> Any:
    """A header of the wire, each field from the field of that name."""
    made: dict[str, Any] = {}
    rows = {row.name: row for row in table_of(cls).fields}
    for item in fields(cls):
        row, name = rows[item.name], f"{prefix}.{item.name}"
        if row.kind in {Kind.IPV4, Kind.IPV6}:
            packed = ip_address(_text(values, name)).packed
            mapped = cls is RdsPrivateV6 and len(packed) == 4
            made[item.name] = V4_PREFIX + packed if mapped else packed.rjust(row.size, b"\0")
        elif row.kind is Kind.BYTES:
            made[item.name] = _octets(values, name)
        else:
            made[item.name] = _number(values, name)
    return cls(**made)


def _endpoint(text: str) -> Endpoint:
    host, _, port = text.rpartition("/")
    return Endpoint(_address(host), int(port))


def _address(text: str) -> bytes:
    if text.startswith("lid:"):
        return lid_bytes(text)
    packed = ip_address(text).packed
    return packed if len(packed) == 16 else V4_PREFIX + packed


def _text(values: Values, name: str) -> str:
    return values[name][0].show


def _number(values: Values, name: str, default: int | None = None) -> int:
    if default is not None and name not in values:
        return default
    return int(values[name][0].show, 0)


def _truth(values: Values, name: str) -> bool:
    return values[name][0].show in {"1", "True"}


def _raw(item: Shown) -> str:
    return item.raw_value or ""


def _octets(values: Values, name: str) -> bytes:
    return bytes.fromhex(_raw(values[name][0]))
