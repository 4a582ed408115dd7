"""One TCP connection, and what its segments tell of where it begins and may end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rdstool.capture.columns import Ints, Segments
from rdstool.capture.streams import Stream
from rdstool.capture.tcp.half import Half

FIN, SYN, RST, ACK_FLAG = 0x01, 0x02, 0x04, 0x10
SEQUENCE_SPACE = 1 << 32
REORDER_FRAMES = 64
"""An acknowledgement may stand this many frames before the data it covers: captures reorder a little."""


@dataclass(slots=True)
class Connection:
    """State of one TCP connection. ``halves[0]`` carries what ``stream.a`` sends."""

    stream: Stream
    flipped: bool
    """``stream.a`` is the larger end of the key."""
    halves: tuple[Half, Half]
    reset: bool = False

    def half(self, backward: np.bool_) -> Half:
        """The direction of a segment; ``backward``: it goes from the key's larger end to the smaller one."""
        return self.halves[int(backward) ^ self.flipped]

    @property
    def over(self) -> bool:
        """Nothing more is to come."""
        return self.reset or all(half.ended for half in self.halves)


def may_begin(connection: Connection, segments: Segments, row: int) -> bool:
    """A SYN of a direction of which nothing was seen may be that of the connection, not of another one."""
    stream = connection.stream
    if stream.from_start:
        return True
    late = int(segments.frame[row]) - stream.first_frame
    return late <= REORDER_FRAMES and not any(half.ended for half in connection.halves)


def has_begun(segments: Segments, rows: Ints, backward: NDArray[np.bool_], syn: int, own: np.bool_) -> bool:
    """The SYN in row ``syn``, which goes the way of ``own``, comes late: its peer, or either long ago, said more."""
    telling = np.flatnonzero((segments.length[rows] > 0) | (segments.flags[rows] & (FIN | RST) != 0))
    if not len(telling):
        return False
    ago = int(segments.frame[syn]) - int(segments.frame[rows[telling[0]]])
    return ago > REORDER_FRAMES or bool((backward[telling] != own).any())


def may_end(flags: NDArray[np.uint8]) -> bool:
    """Some of these segments end a direction, or the connection."""
    return bool((flags & (FIN | RST)).any())


def has_said(segments: Segments, rows: Ints, own: NDArray[np.bool_]) -> bool:
    """Some of these segments bring payload of a direction, those of ``own``."""
    return bool((segments.length[rows[own]] > 0).any())
