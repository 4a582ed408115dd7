"""The columns of one batch as rules use them: native integers, converted once, and rows grouped by flow.

A *flow* is one direction of a stream; its key is ``2 * stream + direction``.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from dissectors.wire.rds import Flags
from rdstool.capture.columns import Ints
from rdstool.capture.gather import ascending
from rdstool.capture.pipeline import Decoded
from rdstool.protocol.kinds import MessageKind, Transport

Mask = NDArray[np.bool_]
REORDER_FRAMES = 64
"""Frames by which a capture may show what came first behind what followed it: adapters have several queues."""
BIGGEST = 1 << 62
"""Sequence numbers and acknowledgements above this are taken as this."""
_UNNUMBERED = (MessageKind.CONGESTION, MessageKind.ACK, MessageKind.HEARTBEAT)
Scalar = TypeVar("Scalar", bound=np.generic)


class PerFlow(Generic[Scalar]):
    """One value for each flow, kept from batch to batch."""

    def __init__(self, dtype: type[Scalar], default: int) -> None:
        self._default = default
        self._values: NDArray[Scalar] = np.full(64, default, dtype)

    def __getitem__(self, flows: Ints) -> NDArray[Scalar]:
        self._reach(flows)
        return self._values[flows]

    def __setitem__(self, flows: Ints, values: Any) -> None:
        self._reach(flows)
        self._values[flows] = values

    def one(self, flow: int) -> int:
        """The value of one flow."""
        return int(self._values[flow]) if flow < len(self._values) else self._default

    def both(self, stream: int) -> tuple[int, int]:
        """The values of both directions of a stream."""
        there: list[int] = self._values[2 * stream : 2 * stream + 2].tolist()
        return (there[0], there[1]) if there else (self._default, self._default)

    def put(self, flow: int, value: int) -> None:
        """Set the value of one flow."""
        self[np.array([flow])] = value

    def _reach(self, flows: Ints) -> None:
        top = int(flows.max()) // 2 * 2 + 2 if len(flows) else 0  # both directions of the stream
        if top > len(self._values):
            # There are many of these columns, and perhaps very many flows: no more room than is soon used.
            more = np.full(max(top, len(self._values) * 5 // 4), self._default, self._values.dtype)
            more[: len(self._values)] = self._values
            self._values = more


class View:
    """One batch. Arrays have a value for each row of the batch unless they say otherwise."""

    def __init__(self, decoded: Decoded) -> None:
        self.decoded = decoded
        rows = decoded.messages.rows
        self.rows = rows
        self.count = len(rows)
        header = np.ascontiguousarray(rows["header"])
        self.header = header
        self.number: Ints = rows["number"].copy()
        self.frame: Ints = rows["frame"].copy()
        self.first_frame: Ints = rows["first_frame"].copy()
        self.time: Ints = rows["time"].copy()
        self.stream: Ints = rows["stream"].astype(np.int64)
        self.flow: Ints = self.stream * 2 + rows["direction"]
        self.kind: NDArray[np.uint8] = rows["kind"].copy()
        self.flags: NDArray[np.uint8] = header["flags"].copy()
        self.credit: NDArray[np.uint8] = header["credit"].copy()
        self.padding: NDArray[np.void] = np.ascontiguousarray(header["padding"])
        self.exthdr: NDArray[np.void] = np.ascontiguousarray(header["exthdr"])
        self.length: Ints = header["length"].astype(np.int64)
        self.sport: Ints = header["sport"].astype(np.int64)
        self.dport: Ints = header["dport"].astype(np.int64)
        self.sequence: Ints = np.minimum(header["sequence"].astype(np.uint64), BIGGEST).astype(np.int64)
        self.ack: Ints = np.minimum(header["ack"].astype(np.uint64), BIGGEST).astype(np.int64)
        self.position: Ints = rows["position"].copy()
        self.end: Ints = rows["end"].copy()
        self.tcp: Mask = np.asarray(rows["transport"] == Transport.TCP)
        self.ib: Mask = ~self.tcp
        self.extended: Mask = _any_bits(self.exthdr)
        """The row has extension headers."""

    @cached_property
    def all_tcp(self) -> bool:
        """No row is of InfiniBand."""
        return bool(self.tcp.all())

    @cached_property
    def any_ib(self) -> bool:
        """Some row is of InfiniBand."""
        return not self.all_tcp

    @cached_property
    def numbered(self) -> Mask:
        """Rows that take a sequence number: all but bitmaps, ack-only frames and heartbeats."""
        kind = self.kind
        mask: Mask = np.equal(self.flags & Flags.CONG_BITMAP, 0)
        for other in _UNNUMBERED:
            mask &= kind != other
        return mask

    @cached_property
    def flagged(self) -> Mask:
        """Rows that have RETRANSMITTED."""
        return np.asarray((self.flags & Flags.RETRANSMITTED) != 0)

    @cached_property
    def order(self) -> Ints:
        """Rows by flow, in the order of the flow."""
        return ascending(self.flow, int(self.flow.max(initial=0)))

    def port_text(self, index: int) -> str:
        """Such as ``4001 to 4002``."""
        return f"{int(self.sport[index])} to {int(self.dport[index])}"

    @cached_property
    def padded(self) -> Mask:
        """Rows whose padding is not all zeros."""
        return _any_bits(self.padding)


def _any_bits(fields: NDArray[np.void]) -> Mask:
    """Which of the fields, whole numbers of 32 bits long, have a bit set."""
    words = fields.view(np.uint32).reshape(len(fields), fields.itemsize // 4)
    return np.asarray(words.any(axis=1))


def first_of_each(keys: Ints, rows: Ints) -> Iterator[tuple[int, int]]:
    """Each key that occurs, ascending, and the first of the ``rows`` that have it."""
    values, first = np.unique(keys, return_index=True)
    yield from zip(values.tolist(), rows[first].tolist(), strict=True)
