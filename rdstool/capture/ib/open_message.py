"""A message whose last fragment is still to come: what was seen of it so far."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dissectors.wire.rds import HEADER_BYTES, RdsHeader
from rdstool.capture.columns import FRAGMENT, ChecksumStatus
from rdstool.capture.gather import joined
from rdstool.capture.ib.frames import Frame, Frames
from rdstool.capture.ib.order import Budget
from rdstool.capture.ib.output import Finished, FragmentTuple
from rdstool.capture.ib.rdma import Pending

MAX_FRAGMENTS_TOLD = 4096
"""Fragments of one message that get a row of their own; the longest message has 256."""
MAX_PAYLOAD_BYTES = 4 << 20
"""Payload of one message that is kept: four times what a kernel sends."""
WORST_FIRST = (ChecksumStatus.BAD, ChecksumStatus.ABSENT, ChecksumStatus.GOOD)
"""A message's checksums are as good as the worst of its fragments'."""
RANKS = np.array([WORST_FIRST.index(status) for status in range(3)])
"""The place of each status in ``WORST_FIRST``."""


class Payload:
    """What is wanted of a message's payload: its bytes, within the budget of all, its SHA-256, or both."""

    __slots__ = ("_budget", "_digest", "_pieces", "_size")

    def __init__(self, budget: Budget, *, keep: bool, digest: bool) -> None:
        self._budget = budget
        self._pieces: list[bytes] | None = [] if keep else None
        self._size = 0
        self._digest = hashlib.sha256() if digest else None

    def add(self, piece: bytes | memoryview) -> None:
        """Take the next bytes. Where they are too many, none are kept."""
        if self._digest is not None:
            self._digest.update(piece)
        if self._pieces is None:
            return
        if self._size + len(piece) > MAX_PAYLOAD_BYTES:
            self._give_up(self._size)
        elif not self._budget.take(len(piece)):
            self._give_up(self._size + len(piece))
        else:
            self._size += len(piece)
            self._pieces.append(bytes(piece))

    def end(self) -> tuple[bytes | None, str | None]:
        """The bytes and the digest. Gives back what was taken of the budget."""
        payload = None if self._pieces is None else b"".join(self._pieces)
        self._give_up(self._size)
        return payload, None if self._digest is None else self._digest.hexdigest()

    def _give_up(self, taken: int) -> None:
        self._budget.give(taken)
        self._pieces, self._size = None, 0


@dataclass(slots=True)
class OpenMessage:
    """Grows by its fragments; begun with none."""

    header: bytes
    fields: RdsHeader
    first_frame: int
    position: int
    inferred: bool
    sure: bool
    """Its first fragment was seen."""
    operations: tuple[Pending, ...]
    payload: Payload | None
    """None where it is not wanted."""
    broken: bool = False
    """A gap lies behind its last fragment."""
    fragments: int = 0
    total: int = 0
    """Data bytes on the wire."""
    seen: int = 0
    solicited: bool = False
    """SE bit of its latest fragment."""
    frame: int = 0
    """Frame of its latest fragment."""
    time: int = 0
    _rank: int = len(WORST_FIRST) - 1
    _rows: list[NDArray[Any]] = field(default_factory=list)
    """Fragments as rows of ``FRAGMENT``."""
    _singles: list[FragmentTuple] = field(default_factory=list)
    """Those that came singly."""

    @property
    def whole(self) -> bool:
        """As much data as its header says has gone over the wire."""
        return self.total >= self.fields.length

    def extend(self, frame: Frame, status: int, told: FragmentTuple) -> None:
        """Add a fragment, whatever it is like. ``status`` is that of its checksum, ``told`` its row."""
        if self.fragments < MAX_FRAGMENTS_TOLD:
            self._singles.append(told)
        room = max(0, self.fields.length - self.total)
        self.seen += min(max(0, frame.captured - HEADER_BYTES), room)
        self._rank = min(self._rank, WORST_FIRST.index(status))
        self.extend_unseen(frame)
        if self.payload is not None:
            for piece in frame.payload:
                self.payload.add(piece[:room])
                room -= min(room, len(piece))

    def extend_unseen(self, frame: Frame) -> None:
        """Add a fragment of which the capture has not even the header."""
        self.fragments += 1
        self.total += frame.length - HEADER_BYTES
        self.solicited = frame.solicited
        self.frame, self.time = frame.frame, frame.time

    def extend_many(self, frames: Frames, told: NDArray[Any], start: int, stop: int) -> None:
        """Add regular fragments, frames ``start`` to ``stop``; ``told`` has rows of all ``frames``."""
        if self.fragments + stop - start <= MAX_FRAGMENTS_TOLD:
            self._rows.append(joined([told[start:stop]], FRAGMENT))
        self.fragments += stop - start
        self.total += int(frames.length[start:stop].sum()) - HEADER_BYTES * (stop - start)
        self.seen += int(np.maximum(frames.captured[start:stop] - HEADER_BYTES, 0).sum())
        self.solicited = bool(frames.solicited[stop - 1])
        self._rank = min(self._rank, int(RANKS[told["checksum_status"][start:stop]].min()))
        self.frame, self.time = int(frames.frame[stop - 1]), int(frames.time[stop - 1])
        if self.payload is not None:
            for piece in frames.payload(start, stop):
                self.payload.add(piece)

    def end(self, stream: int, direction: int) -> Finished:
        """The message, whole or not."""
        complete = self.seen == self.fields.length and self.whole
        payload, digest = (None, None) if self.payload is None else self.payload.end()
        return Finished(
            stream,
            direction,
            self.frame,
            self.first_frame,
            self.time,
            self.position,
            self.seen,
            complete,
            self.inferred,
            WORST_FIRST[self._rank],
            self.header,
            self.fragments,
            self._rows,
            self._singles,
            payload,
            digest if complete else None,
            self.operations,
        )
