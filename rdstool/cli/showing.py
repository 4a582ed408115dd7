"""From decoded batches to output: what passes the filter, in the order of frames, up to a number of lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from rdstool.capture.columns import Ints
from rdstool.capture.events import CmMessage, Event, RdmaOperation
from rdstool.cli.inputs import Reading
from rdstool.cli.output import Results
from rdstool.cli.views import Shown, View
from rdstool.export.pieces import pieces
from rdstool.export.times import Clock
from rdstool.field_columns import EventColumns, MessageColumns

if TYPE_CHECKING:
    from rdstool.filter import Filter


class Show:
    """What of a capture is shown."""

    def __init__(self, accepted: Filter | None, count: int | None, *, rdma: bool) -> None:
        self.accepted = accepted
        self.left = count
        """Lines still to be shown; None: all."""
        self.shown = 0
        self.messages = 0
        """Messages read, shown or not."""
        self.operations_left_out = 0
        """RDMA operations that passed the filter, but were not asked for."""
        self._as_lines: tuple[type[Event], ...] = (CmMessage, RdmaOperation) if rdma else (CmMessage,)

    def to(self, view: View, reading: Reading, results: Results, clock: Clock) -> None:
        """Write everything that is to be shown."""
        results.write(view.heading)
        for decoded in reading.batches():
            self.messages += len(decoded.messages)
            streams = reading.capture.streams
            if streams.began is not None:
                clock.started(streams.began)
            events = self._accepted_events(EventColumns(decoded.events, streams))
            parts = list(pieces(decoded.messages)) or [decoded.messages]
            for place, piece in enumerate(parts):
                last = place == len(parts) - 1
                ready = [e for e in events if last or e.frame <= piece.rows["frame"][-1]]
                events = events[len(ready) :]
                text = self._text(view, MessageColumns(piece, streams), ready, clock)
                if text:
                    results.write(text)
                if self.left == 0:
                    return

    def kept(self, reading: Reading) -> Iterator[tuple[MessageColumns, Ints]]:
        """Messages only: their columns and the rows that are to be shown."""
        for decoded in reading.batches():
            self.messages += len(decoded.messages)
            for piece in pieces(decoded.messages):
                columns = MessageColumns(piece, reading.capture.streams)
                keep = self._rows(columns)
                self._counted(len(keep))
                yield columns, keep
                if self.left == 0:
                    return

    def _rows(self, columns: MessageColumns) -> Ints:
        """The rows that pass the filter, no more than are still to be shown."""
        if self.accepted is None:
            return np.arange(columns.count)[: self.left]
        return np.flatnonzero(self.accepted.mask(columns))[: self.left]

    def _accepted_events(self, columns: EventColumns) -> list[Shown]:
        passed = np.ones(columns.count, dtype=np.bool_) if self.accepted is None else self.accepted.mask(columns)
        accepted = [
            event
            for event, passes in zip(columns.events, passed.tolist(), strict=True)
            if passes and isinstance(event, CmMessage | RdmaOperation)
        ]
        shown = [event for event in accepted if isinstance(event, self._as_lines)]
        self.operations_left_out += len(accepted) - len(shown)
        return shown

    def _text(self, view: View, columns: MessageColumns, events: list[Shown], clock: Clock) -> str:
        """The lines of one piece, those of events behind the messages of the same frame."""
        keep = self._rows(columns)
        rows = columns.batch.rows
        places = np.searchsorted(rows["frame"][keep], [event.frame for event in events], side="right")
        count = len(keep) + len(events)
        times = [""] * count
        if view.timed:
            moments = np.insert(rows["time"][keep], places, [event.time for event in events])
            times = clock.texts(moments)
        own = (places + np.arange(len(events))).tolist()
        event_lines = [
            view.event(event, columns.streams, times[place]) for event, place in zip(events, own, strict=True)
        ]
        for place in reversed(own):
            del times[place]
        lines = view.messages(columns, keep, times)
        for place, line in zip(own, event_lines, strict=True):
            lines.insert(place, line)
        lines = lines[: self.left]
        self._counted(len(lines))
        return "".join(lines)

    def _counted(self, lines: int) -> None:
        self.shown += lines
        if self.left is not None:
            self.left -= lines
