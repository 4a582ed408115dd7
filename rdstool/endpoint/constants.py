"""Numbers of the kernel's socket interface (``include/uapi/linux/rds.h``; protocol.md §9)."""

from __future__ import annotations

from rdstool.afrds.numbers import AF_RDS, SOL_RDS, Option, Transport
from rdstool.protocol.inbox import MSG_DONTWAIT, MSG_OOB, MSG_PEEK, MSG_TRUNC
from rdstool.protocol.received import Poll
from rdstool.protocol.zerocopy import MSG_ZEROCOPY

# Plain integers, as the standard library's socket module has them.
PF_RDS = AF_RDS

RDS_CANCEL_SENT_TO = int(Option.CANCEL_SENT_TO)
RDS_RECVERR = int(Option.RECVERR)
RDS_CONG_MONITOR = int(Option.CONG_MONITOR)
SO_RDS_TRANSPORT = int(Option.TRANSPORT)
SO_RDS_MSG_RXPATH_LATENCY = int(Option.RXPATH_LATENCY)

RDS_TRANS_IB = int(Transport.IB)
RDS_TRANS_TCP = int(Transport.TCP)
RDS_TRANS_NONE = int(Transport.NONE)

# Level SOL_SOCKET, Linux's numbers on every system.
SOL_SOCKET = 1
SO_TYPE = 3
SO_ERROR = 4
SO_SNDBUF = 7
SO_RCVBUF = 8
SO_RCVTIMEO = 20
SO_SNDTIMEO = 21
SO_TIMESTAMP = 29
SO_ACCEPTCONN = 30
SO_PROTOCOL = 38
SO_DOMAIN = 39
SO_ZEROCOPY = 60
SO_TIMESTAMP_NEW = 63

SOCK_SEQPACKET = 5
LEAST_SNDBUF = 2304
"""Bytes that SO_SNDBUF gives at least, and SO_RCVBUF [seen: 6.1, 6.12, 7.3]."""
LEAST_RCVBUF = 1152

__all__ = [
    "AF_RDS",
    "LEAST_RCVBUF",
    "LEAST_SNDBUF",
    "MSG_DONTWAIT",
    "MSG_OOB",
    "MSG_PEEK",
    "MSG_TRUNC",
    "MSG_ZEROCOPY",
    "PF_RDS",
    "RDS_CANCEL_SENT_TO",
    "RDS_CONG_MONITOR",
    "RDS_RECVERR",
    "RDS_TRANS_IB",
    "RDS_TRANS_NONE",
    "RDS_TRANS_TCP",
    "SOCK_SEQPACKET",
    "SOL_RDS",
    "SOL_SOCKET",
    "SO_ACCEPTCONN",
    "SO_DOMAIN",
    "SO_ERROR",
    "SO_PROTOCOL",
    "SO_RCVBUF",
    "SO_RCVTIMEO",
    "SO_RDS_MSG_RXPATH_LATENCY",
    "SO_RDS_TRANSPORT",
    "SO_SNDBUF",
    "SO_SNDTIMEO",
    "SO_TIMESTAMP",
    "SO_TIMESTAMP_NEW",
    "SO_TYPE",
    "SO_ZEROCOPY",
    "Poll",
]
