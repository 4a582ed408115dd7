"""Where the parsers of headers stand: for each of many frames, its next header and its ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdstool.capture.columns import Bytes, Ints
from rdstool.capture.counts import FrameCounts
from rdstool.capture.gather import gather

Mask = NDArray[np.bool_]


@dataclass(slots=True)
class Cursor:
    """Positions in ``data``, one row for each frame that is still of interest."""

    data: Bytes
    row: Ints
    """Index of the frame in its batch."""
    at: Ints
    """Offset of the next header."""
    end: Ints
    """Behind the last captured byte; never behind ``wire_end``."""
    wire_end: Ints
    """Behind the last byte that was on the wire."""

    def __len__(self) -> int:
        return len(self.row)

    def pick(self, mask: Mask) -> Cursor:
        """The rows where ``mask`` holds."""
        if mask.all():
            return self
        return Cursor(self.data, self.row[mask], self.at[mask], self.end[mask], self.wire_end[mask])

    def headers(self, dtype: np.dtype[Any], counts: FrameCounts) -> tuple[Cursor, NDArray[Any]]:
        """Read the header that each row stands at; rows that do not hold it whole are counted as cut and left out."""
        whole = self.pick(self.at + dtype.itemsize <= self.end)
        counts.cut += len(self) - len(whole)
        return whole, gather(self.data, whole.at, dtype)

    def behind(self, size: Ints | int) -> Cursor:
        """The same rows, ``size`` bytes further."""
        return Cursor(self.data, self.row, self.at + size, self.end, self.wire_end)

    def ending(self, wire_end: Ints) -> Cursor:
        """The same rows, with the ends that a header tells."""
        return Cursor(self.data, self.row, self.at, np.minimum(self.end, wire_end), wire_end)
