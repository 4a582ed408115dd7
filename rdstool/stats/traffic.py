"""Counts of messages and bytes: by lane, and by socket as sender and as receiver."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dissectors.wire.rds import Flags
from rdstool.capture.columns import Ints
from rdstool.protocol.kinds import MessageKind
from rdstool.stats.batch import Columns
from rdstool.stats.groups import Lanes, count
from rdstool.stats.histogram import Histograms

KINDS = len(MessageKind)


class Tally:
    """Messages, payload bytes, and the time of the first and last message, for each group."""

    def __init__(self) -> None:
        self.messages: NDArray[np.int64] = np.zeros(0, np.int64)
        self.bytes: NDArray[np.int64] = np.zeros(0, np.int64)
        self.first: NDArray[np.int64] = np.zeros(0, np.int64)
        """ns since 1970; 0 where there was no message."""
        self.last: NDArray[np.int64] = np.zeros(0, np.int64)

    def add(self, groups: NDArray[np.intp], lengths: Ints, times: Ints) -> None:
        """Count messages in capture order."""
        if not len(groups):
            return
        self._grow(int(groups.max()) + 1)
        count = len(self.messages)
        fresh = np.bincount(groups, minlength=count)
        new = (self.messages == 0) & (fresh > 0)
        # Assignment through repeated indices keeps the last value: of the reversed order, the first one.
        first = self.first.copy()
        first[groups[::-1]] = times[::-1]
        self.first = np.where(new, first, self.first)
        self.last[groups] = times
        self.messages += fresh
        self.bytes += np.bincount(groups, lengths, minlength=count).astype(np.int64)

    def _grow(self, count: int) -> None:
        if count > len(self.messages):
            more = np.zeros(max(count, 2 * len(self.messages)) - len(self.messages), np.int64)
            self.messages, self.bytes, self.first, self.last = (
                np.concatenate((column, more)) for column in (self.messages, self.bytes, self.first, self.last)
            )


class Traffic:
    """Accumulates counts over batches."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self.data = Tally()
        """Data messages by lane."""
        self.all = Tally()
        """Messages of all kinds by lane."""
        self.sent = Tally()
        """What each socket sent."""
        self.received = Tally()
        """What each socket received."""
        self.sizes = Histograms()
        """Payload bytes of data messages, by the lanes' histogram rows."""
        self.kinds: NDArray[np.int64] = np.zeros((0, KINDS), np.int64)
        """Messages by lane and kind."""
        self.flagged: NDArray[np.int64] = np.zeros(0, np.int64)
        """Messages with RETRANSMITTED by lane."""
        self.incomplete: NDArray[np.int64] = np.zeros(0, np.int64)
        """Messages of which bytes are missing, by lane."""

    def add(self, columns: Columns) -> None:
        """Count one batch."""
        self._grow()
        lanes = len(self.flagged)
        lane = columns.lane
        count(self.kinds, lane, columns.kind)
        self.flagged += np.bincount(lane[columns.flags & Flags.RETRANSMITTED != 0], minlength=lanes)
        self.incomplete += np.bincount(lane[~columns.complete], minlength=lanes)
        self.all.add(lane, columns.length, columns.time)
        is_data = columns.kind == MessageKind.DATA
        data = slice(None) if is_data.all() else np.flatnonzero(is_data)
        self.data.add(lane[data], columns.length[data], columns.time[data])
        self.sizes.add(self._lanes.histogram[lane[data]], columns.length[data])
        self.sent.add(columns.sender, columns.length, columns.time)
        self.received.add(columns.receiver, columns.length, columns.time)

    def _grow(self) -> None:
        lanes = len(self._lanes)
        if lanes > len(self.flagged):
            # In place, as a copy of the counts of very many lanes is large. Nothing else refers to them.
            self.kinds.resize((lanes, KINDS), refcheck=False)
            self.flagged.resize(lanes, refcheck=False)
            self.incomplete.resize(lanes, refcheck=False)
