"""What is special about a message, in plain words. An ordinary data message has none."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dissectors.wire.congestion import BITMAP_BYTES, congested_ports
from dissectors.wire.extensions import (
    CapBits,
    GenNum,
    NPaths,
    ParsedExtensions,
    PayloadChecksum,
    Rdma,
    RdmaBytes,
    RdmaDest,
    RdmaDirection,
    Version,
)
from dissectors.wire.rds import Flags
from rdstool.capture.columns import ChecksumStatus, Ints
from rdstool.capture.events import CmMessage, RdmaKind, RdmaOperation
from rdstool.field_columns import MessageColumns, reject_of
from rdstool.protocol.kinds import MessageKind
from rdstool.words import plural

NAMED_PORTS = 8
"""Congested ports that are named; of more, the number is told."""
_VERBS = {
    RdmaKind.READ: "RDMA read",
    RdmaKind.WRITE: "RDMA write",
    RdmaKind.COMPARE_SWAP: "compare and swap",
    RdmaKind.FETCH_ADD: "fetch and add",
}
_MOVED: dict[int, str] = {RdmaDirection.WRITE: "RDMA write", RdmaDirection.READ: "RDMA read"}


def summaries(columns: MessageColumns, keep: Ints) -> list[str]:
    """The words for the rows ``keep``, empty where there is nothing to say."""
    rows = columns.batch.rows
    extensions = dict(columns.extensions())
    special = (
        (rows["kind"] != MessageKind.DATA)
        | (rows["header"]["flags"] & Flags.RETRANSMITTED != 0)
        | ~rows["complete"]
        | rows["inferred"]
        | (rows["checksum_status"] == ChecksumStatus.BAD)
        | (rows["header"]["credit"] != 0)
    )
    special[list(extensions)] = True
    words = [""] * len(keep)
    for place in np.flatnonzero(special[keep]).tolist():
        row = int(keep[place])
        words[place] = ", ".join(_words(columns, row, extensions.get(row)))
    return words


def _words(columns: MessageColumns, row: int, parsed: ParsedExtensions | None) -> Iterator[str]:
    record = columns.batch.rows[row]
    header = record["header"]
    if header["flags"] & Flags.RETRANSMITTED:
        yield "resent"
    kind = record["kind"]
    if kind == MessageKind.CONGESTION:
        yield _congestion(columns.batch.payloads.get(row))
    elif kind in {MessageKind.PROBE, MessageKind.PROBE_REPLY}:
        yield _handshake(parsed)
    elif kind == MessageKind.ACK:
        yield f"acknowledges up to {header['ack']}"
    if parsed is not None:
        yield from _announced(columns, row, parsed)
    if header["credit"]:
        yield f"grants {plural(int(header['credit']), 'credit')}"
    if not record["complete"] and kind != MessageKind.ACK:
        yield f"incomplete: {record['seen']} of {header['length']} bytes captured"
    if record["checksum_status"] == ChecksumStatus.BAD:
        yield "header checksum wrong"
    if record["inferred"]:
        yield "found by search"


def _congestion(payload: bytes | None) -> str:
    if payload is None or len(payload) != BITMAP_BYTES:
        return "bitmap not seen whole"
    ports = congested_ports(payload)
    if not ports:
        return "no port congested"
    named = ", ".join(map(str, ports[:NAMED_PORTS]))
    more = f" and {len(ports) - NAMED_PORTS} more" if len(ports) > NAMED_PORTS else ""
    return f"port{'s' if len(ports) > 1 else ''} {named}{more} congested"


def _handshake(parsed: ParsedExtensions | None) -> str:
    items = parsed.items if parsed else ()
    paths = next((item.npaths for item in items if isinstance(item, NPaths)), None)
    generation = next((item.gen_num for item in items if isinstance(item, GenNum)), None)
    words = "single path" if paths is None else f"supports {plural(paths, 'path')}"
    return words if generation is None else f"{words}, generation {generation:#x}"


def _announced(columns: MessageColumns, row: int, parsed: ParsedExtensions) -> Iterator[str]:
    """What the extension headers say, but for those of the handshake."""
    moved = next((item for item in parsed.items if isinstance(item, RdmaBytes)), None)
    for item in parsed.items:
        if isinstance(item, Rdma):
            yield _follows(item, moved, columns.batch.rdma.get(row, ()))
        elif isinstance(item, RdmaDest):
            yield f"offers memory with key {item.rkey:#x}" + (f", offset {item.offset}" if item.offset else "")
        elif isinstance(item, Version):
            yield f"version {item.version}"
        elif isinstance(item, CapBits):
            yield f"capabilities {item.cap_bits:#x}"
        elif isinstance(item, PayloadChecksum):
            yield f"payload checksum {item.checksum:#x}"
    if parsed.problem:
        yield f"extension headers: {parsed.problem}"


def _follows(announced: Rdma, moved: RdmaBytes | None, operations: tuple[RdmaOperation, ...]) -> str:
    verb, length = "RDMA", None
    if moved is not None:
        verb, length = _MOVED.get(moved.direction, verb), moved.length
    elif operations:
        verb = _VERBS[operations[0].kind]
        length = sum(operation.length for operation in operations)
    size = "" if length is None else f" of {plural(length, 'byte')}"
    return f"message follows {verb}{size} with key {announced.rkey:#x}"


def rdma_words(event: RdmaOperation) -> str:
    """An RDMA operation in words."""
    words = f"{_VERBS[event.kind]} of {plural(event.length, 'byte')} at {event.va:#x} with key {event.rkey:#x}"
    if event.operands:
        words += f", operands {', '.join(map(hex, event.operands))}"
    return words if event.status == "ok" else f"{words}: {event.status}"


def cm_words(event: CmMessage) -> str:
    """An RDMA-CM message in words, without its name."""
    words: list[str] = []
    private = event.private
    if private is not None:
        words.append(f"RDS {private.major}.{private.minor}")
        if private.tos:
            words.append(f"TOS {private.tos}")
        if private.ack_seq:
            words.append(f"received up to {private.ack_seq}")
        if private.credit:
            words.append(plural(private.credit, "credit"))
    qpn = getattr(event.body, "local_qpn", None)
    if qpn is not None:
        words.append(f"queue pair {qpn:#x}")
    refused = reject_of(event)
    reason = getattr(event.body, "reason", None)
    if reason is not None:
        words.append(f"reason {reason}" + (f", code {refused.code:#x}" if refused else ""))
    if event.problem:
        words.append(event.problem)
    return ", ".join(words)
