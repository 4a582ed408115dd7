"""What paths went through: one record for each change of state.

As a dictionary (``Record.as_dict``) a record is a line of the trace format: ``time`` in seconds on the node's
clock, ``local`` and ``peer`` addresses, ``path``, ``old`` and ``new`` state, ``input``, all names in lower case.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from rdstool.protocol.states import PathInput, PathState


class Record(NamedTuple):
    """One change of state."""

    now: float
    local: str
    peer: str
    path: int
    old: PathState
    given: PathInput
    new: PathState

    def as_dict(self) -> dict[str, str | int | float]:
        """The record in the trace format."""
        return {
            "time": self.now,
            "local": self.local,
            "peer": self.peer,
            "path": self.path,
            "old": self.old.name.lower(),
            "input": self.given.name.lower(),
            "new": self.new.name.lower(),
        }


class Trace:
    """The last records, oldest first."""

    def __init__(self, limit: int) -> None:
        self._records: deque[Record] = deque(maxlen=limit)

    def add(self, record: Record) -> None:
        """Remember a change; the oldest is forgotten where there are too many."""
        self._records.append(record)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)
