"""Work requests, and what a queue pair reports about them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from rdstool.transport.ib.provider import Operation, Status

MAX_WORK_REQUESTS = 16_384
"""Requests that may be posted to one side of a queue pair at a time; rxe allows 16,384 too (``max_qp_wr``)."""


@dataclass(slots=True)
class WorkRequest:
    """One request of the sending side. Packets are counted from 0 without wrapping; see ``numbers.nearest``."""

    wr_id: int
    operation: Operation
    data: bytes | memoryview
    """What to send or write."""
    into: memoryview | None = field(default=None, kw_only=True)
    """Where to put what is read."""
    length: int
    """Bytes of ``data``."""
    address: int = 0
    """Remote."""
    rkey: int = 0
    swap: int = 0
    """Value to swap in, or to add."""
    compare: int = 0
    solicited: bool = False
    fence: bool = False
    first: int = -1
    """Its first packet; -1 before it has been begun."""
    last: int = -1
    """Its last packet, or the last one of the response."""
    signaled: bool = True
    """Its success is reported."""
    responds: bool = False
    """Done by a response that carries data, not by an acknowledgement: READs and atomics."""


class Receive(NamedTuple):
    """One request of the receiving side."""

    wr_id: int
    size: int


class Report(Protocol):
    """Told of each finished request: its ``wr_id`` and the rest of ``provider.Completed``."""

    def __call__(
        self,
        wr_id: int,
        operation: Operation,
        status: Status,
        data: bytes = b"",
        original: int = 0,
        solicited: bool = False,
        /,
    ) -> None:
        """Tell how the request ended."""
