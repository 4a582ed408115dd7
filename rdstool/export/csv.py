"""CSV with a header line and one row a message; the columns are the keys of the JSON lines, and words."""

from __future__ import annotations

import json

from rdstool.capture.columns import ChecksumStatus, Ints
from rdstool.capture.events import CmMessage, RdmaOperation
from rdstool.capture.streams import StreamTable, address_text
from rdstool.export.parts import by_stream, by_value, extension_object, flag_names, sparse
from rdstool.export.summary import cm_words, rdma_words, summaries
from rdstool.field_columns import MessageColumns, event_addresses
from rdstool.protocol.kinds import MessageKind, Transport

COLUMNS = (
    "number", "frame", "time", "transport", "src", "dst", "stream", "path", "kind", "sequence", "ack", "length",
    "sport", "dport", "flags", "credit", "checksum", "checksum_status", "extensions", "fragments", "complete",
    "sha256", "summary",
)  # fmt: skip
"""In the order of the rows. Several flags are joined by ``|``; extensions are JSON."""
HEADER = ",".join(COLUMNS) + "\n"
HEADER_OF_SEVERAL = ",".join((*COLUMNS, "file", "file_frame")) + "\n"
"""Where the rows are from several files."""
_OF_STREAM = 4
"""Columns from ``transport`` to ``stream``: one text for all messages of a stream that go the same way."""
_ROW = ",".join(["%s"] * (len(COLUMNS) - _OF_STREAM + 1)) + "\n"
"""One format for the whole row: the fastest way to join mixed columns."""


def quoted(text: str) -> str:
    """One field, in quotes where it needs them (RFC 4180)."""
    return '"' + text.replace('"', '""') + '"' if any(sign in text for sign in ',"\r\n') else text


def of_file(row: str, file: str, frame: int) -> str:
    """A row of several files' messages: with the one that has the frame, and the frame's number there."""
    return f"{row[:-1]},{quoted(file)},{frame}\n"


def message_lines(columns: MessageColumns, keep: Ints, times: list[str]) -> list[str]:
    """The rows of ``keep`` with their times as text."""
    batch = columns.batch
    rows = batch.rows.take(keep)
    header = rows["header"]
    extensions = [
        (row, quoted(json.dumps([extension_object(item) for item in parsed.items])))
        for row, parsed in columns.extensions()
    ]
    fields = zip(
        rows["number"].tolist(),
        rows["frame"].tolist(),
        times,
        by_stream(
            columns,
            keep,
            lambda stream, direction: (
                f"{stream.transport.label},{stream.ends(direction)[0].host},"
                f"{stream.ends(direction)[1].host},{stream.number}"
            ),
        ),
        by_value(rows["path"], lambda path: str(path) if path >= 0 else ""),
        by_value(rows["kind"], lambda kind: MessageKind(kind).label),
        header["sequence"].tolist(),
        header["ack"].tolist(),
        header["length"].tolist(),
        header["sport"].tolist(),
        header["dport"].tolist(),
        by_value(header["flags"], lambda flags: "|".join(flag_names(flags))),
        header["credit"].tolist(),
        header["checksum"].tolist(),
        by_value(rows["checksum_status"], lambda status: ChecksumStatus.LABELS[status]),
        sparse(len(keep), keep, columns.count, extensions, "[]"),
        rows["fragments"].tolist(),
        by_value(rows["complete"], lambda complete: "true" if complete else "false"),
        sparse(len(keep), keep, columns.count, list(batch.digests.items()), ""),
        map(quoted, summaries(columns, keep)),
        strict=True,
    )
    return [_ROW % row for row in fields]


def event_line(event: CmMessage | RdmaOperation, streams: StreamTable, time: str) -> str:
    """A row for an RDMA-CM message or an RDMA operation; most columns stay empty."""
    source, destination = event_addresses(event, streams)
    if isinstance(event, CmMessage):
        kind, length, words = "cm", "", f"{event.name} {cm_words(event)}".rstrip()
    else:
        kind, length, words = event.kind.value, str(event.length), rdma_words(event)
    values = {
        "frame": str(event.frame),
        "time": time,
        "transport": Transport.IB.label,
        "src": address_text(source),
        "dst": address_text(destination),
        "stream": str(event.stream) if event.stream >= 0 else "",
        "kind": kind,
        "length": length,
        "summary": quoted(words),
    }
    return ",".join(values.get(name, "") for name in COLUMNS) + "\n"
