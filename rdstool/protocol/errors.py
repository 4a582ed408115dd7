"""Errors of the engine: the caller's, the peer's, and those that a socket call gives, with the kernel's errno."""

from __future__ import annotations

import errno
from enum import Enum

from rdstool.errors import RdsError
from rdstool.protocol.reasons import DropReason, SendStatus


class LocalProtocolError(RdsError):
    """The engine was driven wrongly: an input that is not possible in this state, or a clock that went back."""


class RemoteProtocolError(RdsError):
    """The peer sent what cannot be: its TCP connection is of no more use."""

    def __init__(self, message: str, reason: DropReason) -> None:
        super().__init__(message)
        self.reason = reason


class SocketError(RdsError, OSError):
    """A socket call that fails as the kernel's would: ``errno`` says how (protocol.md §9.5)."""

    def __init__(self, number: int, message: str) -> None:
        OSError.__init__(self, number, message)

    def __str__(self) -> str:
        return f"{self.strerror} ({errno.errorcode.get(self.errno or 0, self.errno)})"


class RdmaError(RdsError):
    """RDMA or an atomic that did not succeed."""

    def __init__(self, status: SendStatus) -> None:
        self.status = status
        super().__init__(_RDMA_FAILED.get(status, "the operation failed"))


_RDMA_FAILED = {
    SendStatus.REMOTE_ERROR: "the peer's memory refused: wrong key, beyond its end, or not allowed",
    SendStatus.CANCELED: "the operation was cancelled",
    SendStatus.DROPPED: "the connection was lost, and it is not known whether the operation was done",
}


class Wait(Enum):
    """What a call that would block waits for."""

    SEND_ROOM = "room in the send buffer"
    CONGESTION = "the destination port to be no longer congested"
    HANDSHAKE = "the peer's number of paths"
    MESSAGE = "a message"


class WouldBlock(SocketError, BlockingIOError):  # noqa: N818
    """A call that cannot be done now. A non-blocking caller passes it on, a blocking one waits and calls again."""

    def __init__(self, number: int, message: str, waiting_for: Wait) -> None:
        SocketError.__init__(self, number, message)
        self.waiting_for = waiting_for
