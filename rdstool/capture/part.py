"""What a stream stage hands on for one batch, the same for TCP and InfiniBand."""

from __future__ import annotations

from dataclasses import dataclass, field
from pickle import PickleBuffer
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdstool.capture.columns import ACK, FRAGMENT, MESSAGE
from rdstool.capture.events import Event, RdmaOperation


@dataclass(frozen=True, slots=True)
class PayloadOptions:
    """What is wanted of payloads besides those of congestion bitmaps, which are always kept."""

    keep_payloads: bool = False
    digests: bool = False


@dataclass(slots=True)
class Part:
    """Messages that one batch completed, in no order but that within a direction, not yet numbered."""

    rows: NDArray[Any]
    """:data:`MESSAGE`; ``number`` is 0."""
    payloads: dict[int, bytes] = field(default_factory=dict)
    """Row index -> payload bytes seen."""
    digests: dict[int, str] = field(default_factory=dict)
    """Row index -> SHA-256 of the payload, for complete messages."""
    acks: NDArray[Any] = field(default_factory=lambda: np.zeros(0, ACK))
    """:data:`ACK`."""
    events: list[Event] = field(default_factory=list)
    fragments: NDArray[Any] = field(default_factory=lambda: np.zeros(0, FRAGMENT))
    """:data:`FRAGMENT`: the InfiniBand frames of ``rows``, message after message, and frames of no message."""
    rdma: dict[int, tuple[RdmaOperation, ...]] = field(default_factory=dict)
    """Row index -> the RDMA operations that the message announces."""

    @classmethod
    def empty(cls) -> Part:
        """A part that holds nothing."""
        return cls(np.zeros(0, MESSAGE))

    def __reduce__(self) -> tuple[Any, ...]:
        # Without the dtypes, which take longer to hand on than the rows.
        columns = (_buffer(rows) for rows in (self.rows, self.acks, self.fragments))
        return _part, (*columns, self.payloads, self.digests, self.events, self.rdma)


def _buffer(rows: NDArray[Any]) -> PickleBuffer:
    return PickleBuffer(np.ascontiguousarray(rows).view(np.uint8).data)


def _part(rows: Any, acks: Any, fragments: Any, payloads: Any, digests: Any, events: Any, rdma: Any) -> Part:
    return Part(
        np.frombuffer(rows, MESSAGE),
        payloads,
        digests,
        np.frombuffer(acks, ACK),
        events,
        np.frombuffer(fragments, FRAGMENT),
        rdma,
    )
