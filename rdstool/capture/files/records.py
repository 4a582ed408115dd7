"""What one look at a piece of a capture file brings, whatever the file's format."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rdstool.capture.columns import Bytes, Ints

MAX_RECORD_BYTES = 32 << 20
"""The largest frame or block that is believed; greater lengths are taken for damage."""
MAX_FRAMES = 1 << 16
"""The most frames of one look: each takes much more memory than the few bytes that it may have in the file."""


@dataclass(slots=True)
class Records:
    """Whole frames in a piece of a file, as columns; meanings are those of ``FrameBatch``."""

    offset: Ints
    captured: Ints
    wire: Ints
    time: Ints
    link: NDArray[np.uint16]
    end: int
    """Where the first thing begins that is not whole yet."""
    wanted: int
    """Bytes that it takes from there, as far as is known."""
    problem: str | None = None
    """What is wrong at ``end``, so that nothing can be read behind it."""
    more: bool = False
    """These are as many as one look brings: go on at ``end`` before more of the file is read."""

    def __len__(self) -> int:
        return len(self.offset)


class Format(Protocol):
    """A format of capture files, in the middle of a file."""

    @property
    def name(self) -> str:
        """Name of the format."""

    def scan(self, data: Bytes, start: int, end: int, /) -> Records:
        """Return the frames of ``data[start:end]``, or the first of them; ``start`` is where the last scan ended."""
