"""All fields of one message with their meaning, taken from the wire tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from dissectors.wire.congestion import PORTS
from dissectors.wire.extensions import Unknown
from dissectors.wire.table import Bit, Field, Kind, table_of
from rdstool.capture.events import CmMessage, RdmaOperation
from rdstool.capture.message import Message
from rdstool.capture.streams import Stream, StreamTable, address_text
from rdstool.export.parts import seconds_text
from rdstool.export.summary import cm_words, rdma_words
from rdstool.export.times import Clock, TimeForm
from rdstool.field_columns import address16, event_addresses, reject_of
from rdstool.fields import find_field
from rdstool.protocol.kinds import MessageKind, Transport
from rdstool.words import plural

_NAME_WIDTH = 41
"""The longest names are those of RDMA-CM's alternate path."""
_VALUE_WIDTH = 28
_INDENT = "    "


class TreeWriter:
    """Writes a message as lines that go from the whole to the part."""

    def __init__(self, *, unicode: bool) -> None:
        self.arrow = "→" if unicode else "->"
        self._utc = Clock(TimeForm.UTC)

    def message(self, message: Message, stream: Stream, time: str, file: str | None) -> str:
        """The tree of one message; ends with an empty line."""
        ends = f"{message.src} port {message.sport} {self.arrow} {message.dst} port {message.dport}"
        lines = [
            f"Message {message.number} at {time}: {message.kind.label}, {ends}, {plural(message.length, 'byte')}",
            *self._capture(message, stream, file),
            *_table(message.header),
        ]
        for item in message.extensions:
            if isinstance(item, Unknown):
                lines.append(f"{_INDENT}Extension header of unknown type {item.type}")
            else:
                lines.extend(_table(item, "Extension header "))
        if message.extensions_problem:
            lines.append(_line("rds.exthdr.problem", message.extensions_problem))
        lines.extend(_payload(message))
        return "\n".join(lines) + "\n\n"

    def event(self, event: CmMessage | RdmaOperation, streams: StreamTable, time: str) -> str:
        """The tree of an RDMA-CM message or an RDMA operation."""
        source, destination = (address_text(address) for address in event_addresses(event, streams))
        ends = f"{source} {self.arrow} {destination}"
        common = [_line("frame.number", event.frame), self._time(event.time)]
        if isinstance(event, RdmaOperation):
            lines = [f"RDMA operation at {time}: {rdma_words(event)}, {ends}", *common]
            fields = ("kind", "va", "rkey", "length", "status")
            lines += [_line(f"rds.rdma.{name}", _plain(getattr(event, name), name)) for name in fields]
            return "\n".join(lines) + "\n\n"
        private = event.private if event.private is not None else reject_of(event)
        lines = [f"RDMA-CM {event.name} at {time}: {ends}, {cm_words(event)}".rstrip(", "), *common]
        lines.append(_line("rds.cm.message", event.name))
        lines.append(f"{_INDENT * 2}transaction {event.transaction_id:#x}")
        for header in (event.body, event.ip, private):
            if header is not None:
                lines.extend(_table(header))
        if event.problem:
            lines.append(f"{_INDENT}Problem: {event.problem}")
        return "\n".join(lines) + "\n\n"

    def _time(self, time: int) -> str:
        return _line("frame.time_epoch", seconds_text(time), self._utc.texts(np.array([time]))[0])

    def _capture(self, message: Message, stream: Stream, file: str | None) -> Iterator[str]:
        yield f"{_INDENT}Capture" + (f" {file}" if file else "")
        source, destination = stream.ends(message.direction)
        port, kind = (
            ("TCP port", "TCP connection") if stream.transport is Transport.TCP else ("queue pair", "queue pairs")
        )
        frames = str(message.frame)
        if message.first_frame != message.frame:
            frames += f" (began in {message.first_frame})"
        yield _line("frame.number", frames)
        yield self._time(message.time_ns)
        yield _line("rds.kind", message.kind.label)
        yield _line("rds.transport", message.transport.label)
        yield _line("rds.src", message.src, f"{port} {source.port}")
        yield _line("rds.dst", message.dst, f"{port} {destination.port}")
        yield _line("rds.stream", message.stream, f"Number of the {kind} in the capture")
        if message.transport is Transport.IB:
            yield _line("rds.path", "none", "Only RDS over TCP has paths")
        elif message.path is None:
            yield _line("rds.path", "not known")
        else:
            yield _line("rds.path", message.path, f"{stream.path_basis}, confidence {stream.path_confidence:.0%}")
        yield _line("rds.fragments", message.fragments)
        yield _line("rds.complete", "yes" if message.complete else "no", f"{message.seen} of {message.length} bytes")
        yield _line("rds.inferred", "yes" if message.inferred else "no")
        yield _line("rds.checksum.status", message.checksum_status)


def _line(name: str, value: Any, meaning: str | None = None) -> str:
    if meaning is None:
        info = find_field(name)
        meaning = info.meaning if info else ""
    return f"{_INDENT * 2}{name:<{_NAME_WIDTH}} {value!s:<{_VALUE_WIDTH}} {meaning}".rstrip()


def _plain(value: Any, name: str) -> Any:
    if name in {"va", "rkey"}:
        return hex(value)
    return getattr(value, "value", value)


def _table(header: Any, title: str = "") -> Iterator[str]:
    """A header's name, then a line for each field and each bit."""
    table = table_of(type(header))
    yield f"{_INDENT}{title}{table.title}"
    for row in table.fields:
        value = getattr(header, row.name)
        if row.name.startswith(("reserved", "private")) and value in {0, bytes(row.size)}:
            continue
        yield _line(f"{table.prefix}.{row.name}", _value(row, value, header), row.meaning)
        for bit in row.bits:
            yield _line(f"{table.prefix}.{row.name}.{bit.name}", _bit(bit, value), bit.meaning)


def _value(row: Field, value: Any, header: Any) -> str:
    if isinstance(value, bytes):
        if row.kind is Kind.BYTES:
            return value.hex() if any(value) else f"{len(value)} zero bytes"
        short = row.kind is Kind.IPV6 and getattr(header, "ip_version", 0) == 4
        return address_text(address16(value[12:] if short else value))
    text = f"{value:#0{row.width // 4 + 2}x}" if row.kind is Kind.HEX else str(value)
    return f"{text} ({row.values[value]})" if value in row.values else text


def _bit(bit: Bit, flags: int) -> str:
    return "set" if flags & bit.mask else "-"


def _payload(message: Message) -> Iterator[str]:
    ports = message.congested
    if message.kind is MessageKind.CONGESTION:
        yield f"{_INDENT}Congestion bitmap"
        if ports is None:
            yield _line("rds.congested", "not seen whole")
        elif len(ports) == PORTS:
            yield _line("rds.congested", "all ports")
        else:
            yield _line("rds.congested", ", ".join(map(str, ports)) or "none")
    elif message.length or message.sha256:
        yield f"{_INDENT}Payload"
        yield _line("rds.seen", message.seen)
    if message.sha256:
        yield f"{_INDENT * 2}{'sha256':<{_NAME_WIDTH}} {message.sha256}"
