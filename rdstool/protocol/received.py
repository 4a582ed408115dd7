"""What an application gets from a socket: messages, and what comes beside them (protocol.md §9)."""

from __future__ import annotations

from enum import IntFlag
from typing import NamedTuple

from rdstool.protocol.control import RdmaDest
from rdstool.protocol.reasons import SendStatus

ZCOPY_BATCH = 8
"""``RDS_MAX_ZCOOKIES``."""


class Poll(IntFlag):
    """What ``poll`` answers, with Linux's numbers."""

    IN = 0x1
    OUT = 0x4
    WRBAND = 0x200


class CongestionUpdate(NamedTuple):
    """RDS_CMSG_CONG_UPDATE: destinations to which a send failed may be free again."""

    mask: int
    """Bit ``port % 64`` for each."""


class Notification(NamedTuple):
    """RDS_CMSG_RDMA_STATUS: how a message that was sent with a token ended."""

    token: int
    status: SendStatus


class ZerocopyCompletion(NamedTuple):
    """RDS_CMSG_ZCOPY_COMPLETION: messages sent with zerocopy whose buffers are the caller's own again."""

    cookies: tuple[int, ...]
    """Their numbers, ``ZCOPY_BATCH`` at most; what is left comes with the next call."""


class Latency(NamedTuple):
    """RDS_CMSG_RXPATH_LATENCY: nanoseconds on the way from the wire to the reader."""

    points: tuple[int, ...]
    """0: header to reassembly, 1: reassembly to socket, 2: socket to reader."""
    nanoseconds: tuple[int, ...]


class Timestamp(NamedTuple):
    """SCM_TIMESTAMP: when a message came to its socket."""

    time: float
    """Seconds: of the engine's clock where the engine gives it, since 1970 (UTC) where a program gets it."""


ReceivedControl = CongestionUpdate | Notification | ZerocopyCompletion | Timestamp | Latency | RdmaDest
"""Control messages that ``recvmsg`` gives."""


class ReceivedMessage(NamedTuple):
    """What ``recvmsg`` gives. ``address`` is empty where only control messages are delivered."""

    data: bytes
    address: str
    """The sender's address."""
    port: int
    """The sender's port; 0 for a pong."""
    length: int
    """What recvmsg(2) would return: with MSG_TRUNC the full length of the message, else that of ``data``."""
    flags: int = 0
    """MSG_TRUNC where part of the message was discarded."""
    control: tuple[ReceivedControl, ...] = ()
