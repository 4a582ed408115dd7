"""Numbers of the kernel's interface (``include/uapi/linux/rds.h``; protocol.md §9.1, §9.2, §11.3)."""

from __future__ import annotations

from enum import IntEnum

AF_RDS = 21
SOL_RDS = 276


class Option(IntEnum):
    """Socket options at level ``SOL_RDS``."""

    CANCEL_SENT_TO = 1
    GET_MR = 2
    FREE_MR = 3
    RECVERR = 5
    CONG_MONITOR = 6
    GET_MR_FOR_DEST = 7
    TRANSPORT = 8
    RXPATH_LATENCY = 10


class Transport(IntEnum):
    """Values of ``SO_RDS_TRANSPORT``."""

    NONE = -1
    IB = 0
    TCP = 2


class Control(IntEnum):
    """Types of control messages at level ``SOL_RDS``."""

    RDMA_ARGS = 1
    RDMA_DEST = 2
    RDMA_MAP = 3
    RDMA_STATUS = 4
    CONG_UPDATE = 5
    ATOMIC_FADD = 6
    ATOMIC_CSWP = 7
    MASKED_ATOMIC_FADD = 8
    MASKED_ATOMIC_CSWP = 9
    RXPATH_LATENCY = 11
    ZCOPY_COOKIE = 12
    ZCOPY_COMPLETION = 13


class Info(IntEnum):
    """Tables that ``getsockopt`` gives at level ``SOL_RDS``; those with a 6 have IPv6 addresses."""

    COUNTERS = 10000
    CONNECTIONS = 10001
    SEND_MESSAGES = 10003
    RETRANS_MESSAGES = 10004
    RECV_MESSAGES = 10005
    SOCKETS = 10006
    TCP_SOCKETS = 10007
    IB_CONNECTIONS = 10008
    CONNECTIONS6 = 10011
    SEND_MESSAGES6 = 10012
    RETRANS_MESSAGES6 = 10013
    RECV_MESSAGES6 = 10014
    SOCKETS6 = 10015
    TCP_SOCKETS6 = 10016
    IB_CONNECTIONS6 = 10017
