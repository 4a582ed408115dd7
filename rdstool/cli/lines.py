"""One line a message, for people: number, time, addresses, kind, ports, sequence, length, flags, words."""

from __future__ import annotations

import numpy as np

from rdstool.capture.columns import Ints
from rdstool.capture.events import CmMessage, RdmaOperation
from rdstool.capture.streams import StreamTable, address_text
from rdstool.export.parts import by_stream, by_value, flag_names
from rdstool.export.summary import cm_words, rdma_words, summaries
from rdstool.field_columns import MessageColumns, event_addresses
from rdstool.protocol.kinds import MessageKind

_RESET = "\x1b[0m"
_COLOURS = {
    MessageKind.CONGESTION: "\x1b[33m",
    MessageKind.PING: "\x1b[36m",
    MessageKind.PONG: "\x1b[36m",
    MessageKind.PROBE: "\x1b[35m",
    MessageKind.PROBE_REPLY: "\x1b[35m",
    MessageKind.ACK: "\x1b[2m",
    MessageKind.HEARTBEAT: "\x1b[2m",
}
_EVENT_COLOUR = "\x1b[34m"
_KIND_WIDTH = 12


class LineWriter:
    """Writes lines; ``arrow`` stands between source and destination."""

    def __init__(self, *, colour: bool, unicode: bool) -> None:
        self.colour = colour
        self.arrow = "→" if unicode else "->"

    def messages(self, columns: MessageColumns, keep: Ints, times: list[str]) -> list[str]:
        """The lines of the rows ``keep``, with their times as text."""
        rows = columns.batch.rows[keep]
        header = rows["header"]
        arrow = self.arrow
        ends = by_stream(columns, keep, lambda stream, way: self._ends(*(end.host for end in stream.ends(way))))
        kinds = by_value(rows["kind"], lambda kind: f"{MessageKind(kind).label:<{_KIND_WIDTH}}")
        flags = by_value(header["flags"], lambda value: f"  [{', '.join(flag_names(value))}]" if value else "")
        words = [f"  {text}" if text else "" for text in summaries(columns, keep)]
        digests = columns.batch.digests
        if digests:
            words = [
                f"{text}  sha256 {digests[row]}" if row in digests else text
                for text, row in zip(words, keep.tolist(), strict=True)
            ]
        lines = [
            f"{number:>6} {time:>11}  {end}  {kind} {sport:>5} {arrow} {dport:<5}  seq {sequence:<5}  "
            f"len {length}{flag}{word}\n"
            for number, time, end, kind, sport, dport, sequence, length, flag, word in zip(
                rows["number"].tolist(),
                times,
                ends,
                kinds,
                header["sport"].tolist(),
                header["dport"].tolist(),
                header["sequence"].tolist(),
                header["length"].tolist(),
                flags,
                words,
                strict=True,
            )
        ]
        return self._painted(lines, rows["kind"]) if self.colour else lines

    def event(self, event: CmMessage | RdmaOperation, streams: StreamTable, time: str) -> str:
        """The line of an RDMA-CM message or an RDMA operation."""
        source, destination = event_addresses(event, streams)
        ends = self._ends(address_text(source), address_text(destination))
        if isinstance(event, CmMessage):
            kind, words = "cm", f"{event.name}  {cm_words(event)}".rstrip()
        else:
            kind, words = event.kind.value, rdma_words(event)
        line = f"{'':>6} {time:>11}  {ends}  {kind:<{_KIND_WIDTH}} {words}\n"
        return f"{_EVENT_COLOUR}{line[:-1]}{_RESET}\n" if self.colour else line

    def _ends(self, source: str, destination: str) -> str:
        return f"{source:>12} {self.arrow} {destination:<12}"

    def _painted(self, lines: list[str], kinds: Ints) -> list[str]:
        for place in np.flatnonzero(kinds != MessageKind.DATA).tolist():
            lines[place] = f"{_COLOURS[MessageKind(int(kinds[place]))]}{lines[place][:-1]}{_RESET}\n"
        return lines
