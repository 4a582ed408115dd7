"""Collects what the flows of one batch give, and makes the columns of it at the batch's end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dissectors.wire.rds import HEADER_BYTES
from rdstool.capture.columns import ACK, FRAGMENT, MESSAGE, RDS_DTYPE
from rdstool.capture.events import Event, RdmaOperation
from rdstool.capture.gather import joined
from rdstool.capture.headers import kinds_of
from rdstool.capture.ib.rdma import Pending
from rdstool.capture.part import Part
from rdstool.protocol.kinds import Transport

ANSWER_FRAMES = 1024
"""Frames that a message waits for the answers to the RDMA operations that it announces."""
INT64_MAX = (1 << 63) - 1
FragmentTuple = tuple[int, int, int, int, int, int, bool, bool, int, int, int, int, int]
"""Values of a row of ``FRAGMENT``."""


@dataclass(slots=True)
class Finished:
    """A message that did not lie whole in one run of packets."""

    stream: int
    direction: int
    frame: int
    first_frame: int
    time: int
    position: int
    seen: int
    complete: bool
    inferred: bool
    checksum_status: int
    header: bytes
    fragments: int
    frames: list[NDArray[Any]]
    """Rows of ``FRAGMENT``."""
    singles: list[FragmentTuple]
    """Rows of ``FRAGMENT`` that came singly, as tuples."""
    payload: bytes | None = None
    digest: str | None = None
    operations: tuple[Pending, ...] = ()


@dataclass(slots=True)
class Output:
    """The growing :class:`Part` of a batch. Messages that wait for RDMA answers stay for later batches."""

    events: list[Event] = field(default_factory=list)
    _rows: list[NDArray[Any]] = field(default_factory=list)
    _singles: list[Finished] = field(default_factory=list)
    _count: int = 0
    _fragments: list[NDArray[Any]] = field(default_factory=list)
    _acks: list[NDArray[Any]] = field(default_factory=list)
    _ack_rows: list[tuple[int, int, int, int, int]] = field(default_factory=list)
    _singly: list[FragmentTuple] = field(default_factory=list)
    _payloads: dict[int, bytes] = field(default_factory=dict)
    _digests: dict[int, str] = field(default_factory=dict)
    _rdma: dict[int, tuple[RdmaOperation, ...]] = field(default_factory=dict)
    _unanswered: list[Finished] = field(default_factory=list)

    def rows(
        self,
        rows: NDArray[Any],
        fragments: NDArray[Any],
        payloads: dict[int, bytes],
        digests: dict[int, str],
    ) -> None:
        """Many messages; ``message`` of the fragments and the keys count from the first of ``rows``."""
        self._flush()
        base = self._count
        fragments["message"] += base
        self._fragments.append(fragments)
        self._rows.append(rows)
        self._count += len(rows)
        for index, payload in payloads.items():
            self._payloads[base + index] = payload
        for index, digest in digests.items():
            self._digests[base + index] = digest

    def message(self, message: Finished) -> None:
        """One message; it waits where its RDMA operations are not answered yet."""
        if any(not operation.settled for operation in message.operations):
            self._unanswered.append(message)
        else:
            self._add(message)

    def ack(self, stream: int, direction: int, position: int, frame: int, time: int) -> None:
        """An advance of the acknowledged position."""
        self._ack_rows.append((stream, direction, position, frame, time))

    def acks(self, acks: NDArray[Any]) -> None:
        """Take many acknowledgements at once."""
        self._acks.append(acks)

    def loose(self, fragment: FragmentTuple) -> None:
        """A frame that belongs to no message."""
        self._singly.append(fragment)

    def release(self, frame: int) -> None:
        """Let go of messages whose RDMA operations were answered, or will hardly be any more by ``frame``."""
        if not self._unanswered:
            return
        waiting = []
        for message in self._unanswered:
            late = frame - message.frame > ANSWER_FRAMES
            if late or all(operation.settled for operation in message.operations):
                self._add(message)
            else:
                waiting.append(message)
        self._unanswered = waiting

    @property
    def held_frames(self) -> list[int]:
        """The frames of the messages that wait."""
        return [message.frame for message in self._unanswered]

    def part(self) -> Part:
        """What was collected since the last call."""
        self._flush()
        rows = joined(self._rows, MESSAGE)
        fragments = self._all_fragments()
        if self._ack_rows:
            self._acks.append(np.array(self._ack_rows, ACK))
        acks = joined(self._acks, ACK)
        part = Part(
            rows,
            self._payloads,
            self._digests,
            acks.take(np.lexsort((acks["position"], acks["frame"]))),
            self.events,
            fragments,
            self._rdma,
        )
        self._rows, self._fragments, self._acks, self._count = [], [], [], 0
        self._ack_rows, self._singly, self.events = [], [], []
        self._payloads, self._digests, self._rdma = {}, {}, {}
        return part

    def _add(self, message: Finished) -> None:
        index = self._count + len(self._singles)
        self._singles.append(message)
        for fragments in message.frames:
            fragments["message"] = index
            self._fragments.append(fragments)
        self._singly += [(*single[:3], index, *single[4:]) for single in message.singles]
        if message.payload is not None:
            self._payloads[index] = message.payload
        if message.digest is not None:
            self._digests[index] = message.digest
        if message.operations:
            self._rdma[index] = tuple(operation.event() for operation in message.operations)

    def _all_fragments(self) -> NDArray[Any]:
        if not self._singly:
            return joined(self._fragments, FRAGMENT)
        fragments = joined([*self._fragments, np.array(self._singly, FRAGMENT)], FRAGMENT)
        return fragments.take(np.lexsort((fragments["index"], fragments["message"])))

    def _flush(self) -> None:
        """Make columns of the single messages, to keep the order of rows."""
        if not self._singles:
            return
        singles, self._singles = self._singles, []
        rows = message_rows(b"".join(message.header for message in singles))
        for name in (
            "stream",
            "direction",
            "frame",
            "first_frame",
            "time",
            "position",
            "seen",
            "complete",
            "inferred",
            "checksum_status",
            "fragments",
        ):
            rows[name] = [getattr(message, name) for message in singles]
        self._rows.append(rows)
        self._count += len(rows)


def message_rows(headers: bytes | NDArray[np.uint8]) -> NDArray[Any]:
    """Rows of ``MESSAGE`` with what the headers tell."""
    raw = np.frombuffer(headers, RDS_DTYPE) if isinstance(headers, bytes) else headers.reshape(-1).view(RDS_DTYPE)
    rows = np.zeros(len(raw), MESSAGE)
    rows["header"] = raw
    rows["transport"] = Transport.IB
    rows["kind"] = kinds_of(raw, Transport.IB)
    rows["path"] = -1
    rows["end"] = np.minimum(raw["sequence"], INT64_MAX).astype(np.int64)
    return rows


assert RDS_DTYPE.itemsize == HEADER_BYTES
