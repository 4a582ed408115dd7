"""The forms in which ``decode`` shows messages. Each takes the rows of one piece and gives their text."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from rdstool.capture.columns import Ints
from rdstool.capture.events import CmMessage, RdmaOperation
from rdstool.capture.streams import StreamTable
from rdstool.export import csv, jsonl
from rdstool.field_columns import EventColumns, MessageColumns

if TYPE_CHECKING:
    from rdstool.cli.hexdump import HexDump
    from rdstool.cli.lines import LineWriter
    from rdstool.cli.tree import TreeWriter
    from rdstool.export.selected import Selected

Shown = CmMessage | RdmaOperation
FrameLabel = Callable[[int], tuple[str, int]]
"""Frame of the whole capture -> its file and its number within that."""


class View(Protocol):
    """One form of output."""

    heading: str
    """Text in front of all lines."""
    timed: bool
    """Whether it uses the times that it is given."""

    def messages(self, columns: MessageColumns, keep: Ints, times: list[str]) -> list[str]:
        """The text of each of the rows ``keep``."""

    def event(self, event: Shown, streams: StreamTable, time: str) -> str:
        """The text of one RDMA-CM message or RDMA operation."""


class TextView:
    """One line a message; or its whole tree; with a hex dump behind it where asked for."""

    heading = ""
    timed = True

    def __init__(
        self, lines: LineWriter, tree: TreeWriter | None, dump: HexDump | None, label: FrameLabel | None
    ) -> None:
        self.lines = lines
        self.tree = tree
        self.dump = dump
        self.label = label

    def messages(self, columns: MessageColumns, keep: Ints, times: list[str]) -> list[str]:
        """Lines or trees of messages."""
        texts = self._trees(columns, keep, times) if self.tree else self.lines.messages(columns, keep, times)
        if self.dump is not None:
            from rdstool.capture.message import header_bytes_at  # noqa: PLC0415 - not for lines alone

            for place, row in enumerate(keep.tolist()):
                header = header_bytes_at(columns.batch, row)
                texts[place] += self.dump.message(header, columns.batch.payloads.get(row))
        return texts

    def event(self, event: Shown, streams: StreamTable, time: str) -> str:
        """A line or a tree."""
        return self.tree.event(event, streams, time) if self.tree else self.lines.event(event, streams, time)

    def _trees(self, columns: MessageColumns, keep: Ints, times: list[str]) -> list[str]:
        from rdstool.capture.message import message_at  # noqa: PLC0415 - not for lines alone

        assert self.tree is not None
        texts = []
        for row, time in zip(keep.tolist(), times, strict=True):
            message = message_at(columns.batch, row, columns.streams)
            label = self.label(message.frame) if self.label else None
            where = f"{label[0]}, frame {label[1]}" if label else None
            texts.append(self.tree.message(message, columns.streams[message.stream], time, where))
        return texts


class JsonView:
    """JSON lines; with several files, each line names its own."""

    heading = ""
    timed = False

    def __init__(self, label: FrameLabel | None) -> None:
        self.label = label

    def messages(self, columns: MessageColumns, keep: Ints, times: list[str]) -> list[str]:
        """One object for each message."""
        if self.label is None:
            return jsonl.message_lines(columns, keep)
        more = map(self._where, columns.batch.rows["frame"][keep].tolist())
        return jsonl.message_lines(columns, keep, list(more))

    def event(self, event: Shown, streams: StreamTable, time: str) -> str:
        """One object for an event."""
        return jsonl.event_line(event, streams, "" if self.label is None else self._where(event.frame))

    def _where(self, frame: int) -> str:
        assert self.label is not None
        file, number = self.label(frame)
        return f', "file": {json.dumps(file)}, "file_frame": {number}'


class CsvView:
    """CSV with a heading; with several files, each row names its own."""

    timed = True

    def __init__(self, label: FrameLabel | None) -> None:
        self.label = label
        self.heading = csv.HEADER if label is None else csv.HEADER_OF_SEVERAL

    def messages(self, columns: MessageColumns, keep: Ints, times: list[str]) -> list[str]:
        """One row for each message."""
        rows = csv.message_lines(columns, keep, times)
        if self.label is None:
            return rows
        frames = columns.batch.rows["frame"][keep].tolist()
        return [csv.of_file(row, *self.label(frame)) for row, frame in zip(rows, frames, strict=True)]

    def event(self, event: Shown, streams: StreamTable, time: str) -> str:
        """One row for an event."""
        row = csv.event_line(event, streams, time)
        return row if self.label is None else csv.of_file(row, *self.label(event.frame))


class FieldsView:
    """Only the fields that were asked for: JSON where there is no separator."""

    timed = False

    def __init__(self, fields: Sequence[Selected], separator: str | None) -> None:
        self.fields = fields
        self.separator = separator
        self.heading = ",".join(field.name for field in fields) + "\n" if separator == "," else ""

    def messages(self, columns: MessageColumns, keep: Ints, times: list[str]) -> list[str]:
        """One line for each message."""
        return self._lines(columns, keep)

    def event(self, event: Shown, streams: StreamTable, time: str) -> str:
        """One line for an event."""
        return self._lines(EventColumns([event], streams), np.zeros(1, dtype=np.int64))[0]

    def _lines(self, columns: MessageColumns | EventColumns, keep: Ints) -> list[str]:
        from rdstool.export import selected  # noqa: PLC0415 - with it comes the filter language

        if self.separator is None:
            return selected.json_lines(columns, keep, self.fields)
        return selected.text_lines(columns, keep, self.fields, self.separator)
