"""Work requests: what the engine has a connection's queue pair do. ``id`` comes back with the completion."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from rdstool.protocol.ib.memory import Region


class WorkStatus(IntEnum):
    """How a work request ended, as libibverbs numbers it (``ibv_wc_status``); others are failures all the same."""

    SUCCESS = 0
    FLUSHED = 5
    REMOTE_ACCESS_ERROR = 10


class Send(NamedTuple):
    """SEND one frame."""

    id: int
    frame: bytes
    solicited: bool
    """Wakes the receiver: the last fragment of a message, or the last one for a while (§7.4)."""
    fence: bool
    """Waits until RDMA READs and atomics before it have ended."""
    signaled: bool
    """Its end is to be told though it is good; that tells the end of all work before it, too."""


class Write(NamedTuple):
    """RDMA WRITE."""

    id: int
    data: bytes | memoryview
    address: int
    rkey: int
    fence: bool


class Read(NamedTuple):
    """RDMA READ that fills a local region."""

    id: int
    into: Region
    address: int
    rkey: int
    fence: bool


class CompareSwapWork(NamedTuple):
    """Atomic compare and swap of 64 bits."""

    id: int
    address: int
    rkey: int
    compare: int
    swap: int
    fence: bool


class FetchAddWork(NamedTuple):
    """Atomic fetch and add of 64 bits."""

    id: int
    address: int
    rkey: int
    add: int
    fence: bool


Work = Send | Write | Read | CompareSwapWork | FetchAddWork
