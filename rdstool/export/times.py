"""The forms in which times are shown."""

from __future__ import annotations

import time
from enum import StrEnum

import numpy as np

from rdstool.capture.columns import NS_PER_S, Ints
from rdstool.export.parts import seconds_texts


class TimeForm(StrEnum):
    """How a time is written."""

    EPOCH = "epoch"
    RELATIVE = "relative"
    DELTA = "delta"
    UTC = "utc"
    LOCAL = "local"


class Clock:
    """Writes times in one form; remembers what relative times and differences count from."""

    def __init__(self, form: TimeForm) -> None:
        self.form = form
        self._first: int | None = None
        self._previous: int | None = None

    def started(self, first: int) -> None:
        """The capture's first time, in ns; later calls change nothing."""
        if self._first is None:
            self._first = first

    def texts(self, times: Ints) -> list[str]:
        """The next lines' times, in ns since 1970, as text."""
        if not len(times):
            return []
        if self.form is TimeForm.RELATIVE:
            self.started(int(times[0]))
            return seconds_texts(times - (self._first or 0))
        if self.form is TimeForm.DELTA:
            before = int(times[0]) if self._previous is None else self._previous
            self._previous = int(times[-1])
            return seconds_texts(np.diff(times, prepend=before))
        if self.form is TimeForm.EPOCH:
            return seconds_texts(times)
        return _calendar(times, local=self.form is TimeForm.LOCAL)


def _calendar(times: Ints, *, local: bool) -> list[str]:
    seconds, rest = np.divmod(times, NS_PER_S)
    digits, unit = (9, 1) if (times % 1000).any() else (6, 1000)
    distinct, codes = np.unique(seconds, return_inverse=True)
    # A second's date is asked for once: the calendar is slow.
    moments = [time.localtime(second) if local else time.gmtime(second) for second in distinct.tolist()]
    dates = [time.strftime("%Y-%m-%dT%H:%M:%S", moment) for moment in moments]
    zones = [time.strftime("%z", moment) if local else "Z" for moment in moments]
    return [
        f"{dates[code]}.{part:0{digits}d}{zones[code]}"
        for code, part in zip(codes.reshape(-1).tolist(), (rest // unit).tolist(), strict=True)
    ]
