"""Work requests: what the engine has a connection's queue pair do. ``id`` comes back with the completion."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from rdstool.protocol.ib.memory import Region


class WorkStatus(IntEnum):
    """How a work request ended, as libibverbs numbers it (``ibv_wc_status``); others are failures all the same."""

    SUCCESS = 0
    LOCAL_LENGTH_ERROR = 1
    """A message was longer than the receive that was posted for it."""
    LOCAL_OPERATION_ERROR = 2
    LOCAL_PROTECTION_ERROR = 4
    """The local memory of the request is no registered region, or not all of it."""
    FLUSHED = 5
    """The connection ended before the request did."""
    BAD_RESPONSE = 7
    """The peer answered what was not asked."""
    REMOTE_INVALID_REQUEST = 9
    """The peer cannot take the request: too long for its receive, or not allowed on the connection."""
    REMOTE_ACCESS_ERROR = 10
    """Wrong key, bounds or access rights of remote memory."""
    REMOTE_OPERATION_ERROR = 11
    """The peer failed while it executed the request."""
    RETRIES_EXCEEDED = 12
    """The peer did not answer."""
    RECEIVER_NOT_READY = 13
    """The peer posted no receive in time."""

    @classmethod
    def words(cls, status: int) -> str:
        """A status in words, whether or not it is one of these."""
        try:
            return cls(status).name.replace("_", " ").lower()
        except ValueError:
            return f"status {status}"


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
    """RDMA WRITE of some bytes."""

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
