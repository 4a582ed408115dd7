"""When streams began and ended: the first word of each, in columns, as there can be a hundred thousand of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rdstool.capture.events import Closing, StreamClosed, StreamOpened
from rdstool.validate.view import PerFlow

_HOW = (None, *Closing)


class Moment(NamedTuple):
    """Where in the capture a stream, or a direction of one, began or ended."""

    frame: int
    time: int
    """ns since 1970."""
    direction: int
    """Which side began or ended it."""
    how: Closing | None
    """None where it began."""

    @property
    def word(self) -> str:
        """What the capture shows of it, such as ``FIN``."""
        return self.how.value if self.how else "opened"


class Moments:
    """The first moment of each of many streams, or flows, known by number."""

    def __init__(self) -> None:
        self._frame = PerFlow(np.int64, 0)
        """0: there is none."""
        self._time = PerFlow(np.int64, 0)
        self._direction = PerFlow(np.int8, 0)
        self._how = PerFlow(np.int8, 0)
        """Place in ``_HOW``."""

    def note(self, numbers: Sequence[int], events: Sequence[StreamOpened | StreamClosed]) -> None:
        """Take what happened to these, in the order in which it did."""
        if not events:
            return
        # Of several values that are assigned to one place the last one stays.
        at, latest_first = np.array(numbers[::-1], np.int64), events[::-1]
        known = self._frame[at] > 0
        columns = (
            (self._time, [event.time for event in latest_first]),
            (self._direction, [event.direction for event in latest_first]),
            (self._how, [_HOW.index(getattr(event, "how", None)) for event in latest_first]),
            (self._frame, [event.frame for event in latest_first]),
        )
        for column, values in columns:
            column[at] = np.where(known, column[at], values)

    def frame(self, number: int) -> int:
        """The frame of that moment; 0 where it was not seen."""
        return self._frame.one(number)

    def get(self, number: int) -> Moment | None:
        """The moment of one; None where it was not seen."""
        frame = self.frame(number)
        if not frame:
            return None
        return Moment(frame, self._time.one(number), self._direction.one(number), _HOW[self._how.one(number)])

    def __contains__(self, number: int) -> bool:
        return self.frame(number) > 0
