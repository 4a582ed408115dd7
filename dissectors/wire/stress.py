"""rds-stress, the load generator of rds-tools 2.0.7: its control channel and its messages (protocol.md §12).

All numbers are big-endian. Over the control channel (TCP) goes ``StressOptions``; where a type of service is set,
``StressVersion`` goes before it and ``StressMore`` behind it, and nothing but the version string tells the two forms
apart. Every RDS payload begins with ``StressMessage``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from dissectors.wire.codec import Codec
from dissectors.wire.table import Kind, header, octets, u8, u16, u32, u64

CONTROL_PORT = 4000
"""TCP port of the control channel, and the RDS port below that of the first task, unless the user chooses another."""
VERSION = "2.0.7"
"""What the version field of the longer form holds, up to a zero."""
_SOURCE = "rds-tools 2.0.7, rds-stress.c"


class Op(IntEnum):
    """What a message is."""

    REQUEST = 1
    ACK = 2


class RdmaOp(IntEnum):
    """RDMA that a request asks its receiver to do."""

    NONE = 0
    READ = 1
    WRITE = 2


class RdmaMode(IntEnum):
    """Which RDMA operations a run asks for."""

    BOTH = 0
    READ_ONLY = 1
    WRITE_ONLY = 2


_OPS = {item.value: item.name.lower() for item in Op}
_RDMA_OPS = {item.value: item.name.lower() for item in RdmaOp}
_RDMA_MODES = {item.value: item.name.lower().replace("_", " ") for item in RdmaMode}


@header("rds.stress", size=63, title="rds-stress message", source=f"{_SOURCE} struct header; protocol.md §12.2")
@dataclass(slots=True)
class StressMessage:
    """Begins the payload of every message of rds-stress."""

    seq: int = u32(0, "Number of the message between two tasks, requests and acks together, from 0")
    from_addr: bytes = octets(4, 4, "Sender's address", kind=Kind.IPV4)
    to_addr: bytes = octets(8, 4, "Receiver's address", kind=Kind.IPV4)
    from_port: int = u16(12, "Sender's RDS port")
    to_port: int = u16(14, "Receiver's RDS port")
    index: int = u16(16, "Which of the requests that may be outstanding, from 0")
    op: int = u8(18, "What the message is", values=_OPS)
    rdma_op: int = u8(19, "RDMA that the receiver of a request is to do", values=_RDMA_OPS)
    rdma_addr: int = u64(20, "Address of the requester's memory", kind=Kind.HEX)
    rdma_phyaddr: int = u64(28, "Offset of that memory in its region", kind=Kind.HEX)
    rdma_pattern: int = u64(36, "What the memory is filled with: seq, then the process number", kind=Kind.HEX)
    rdma_key: int = u64(44, "Cookie of the memory region", kind=Kind.HEX)
    rdma_size: int = u32(52, "Bytes of each buffer")
    rdma_vector: int = u32(56, "Number of buffers")
    retry: int = u8(60, "The request is sent again after a failed RDMA")
    rdma_remote_err: int = u8(61, "RDMA failed at the receiver")
    pending: int = u8(62, "Sends that are not completed")


@header(
    "rds.stress.options", size=59, title="rds-stress options", source=f"{_SOURCE} struct options; protocol.md §12.1"
)
@dataclass(slots=True)
class StressOptions:
    """What the active side tells the passive one over the control channel."""

    req_depth: int = u32(0, "Requests that are outstanding between two tasks", default=1)
    req_size: int = u32(4, "Bytes of a request", default=1024)
    ack_size: int = u32(8, "Bytes of an ack", default=63)
    rdma_size: int = u32(12, "Bytes of each RDMA buffer; 0 = no RDMA")
    send_addr: bytes = octets(16, 4, "The passive side's address", kind=Kind.IPV4)
    receive_addr: bytes = octets(20, 4, "The active side's address", kind=Kind.IPV4)
    starting_port: int = u16(24, "Port of the control channel; the first task has the next one", default=CONTROL_PORT)
    nr_tasks: int = u16(26, "Tasks of each side", default=1)
    run_time: int = u32(28, "Seconds; 0 = until it is stopped")
    summary_only: int = u8(32, "Print a summary only")
    rtprio: int = u8(33, "Run at real-time priority")
    tracing: int = u8(34, "Trace execution")
    verify: int = u8(35, "Fill messages with a pattern, and compare")
    show_params: int = u8(36, "Print the parameters")
    show_perfdata: int = u8(37, "Print figures for scripts")
    use_cong_monitor: int = u8(38, "Use RDS_CONG_MONITOR", default=1)
    rdma_use_once: int = u8(39, "Register memory for one use")
    rdma_use_get_mr: int = u8(40, "Register memory with RDS_GET_MR")
    rdma_use_fence: int = u8(41, "Fence RDMA reads", default=1)
    rdma_cache_mrs: int = u8(42, "Keep memory registered")
    rdma_key_o_meter: int = u8(43, "Look for keys that come again")
    suppress_warnings: int = u8(44, "Set before the tasks are told; 255 as it is sent", default=0xFF)
    simplex: int = u8(45, "Only the active side sends requests")
    rw_mode: int = u8(46, "RDMA operations", values=_RDMA_MODES)
    rdma_vector: int = u32(47, "RDMA buffers of each request", default=1)
    rdma_alignment: int = u32(51, "Offset of RDMA buffers from a page")
    connect_retries: int = u32(55, "Attempts to connect after the first")


@header(
    "rds.stress.options", size=16, title="rds-stress version", source=f"{_SOURCE} struct options; protocol.md §12.1"
)
@dataclass(slots=True)
class StressVersion:
    """Before the options, in their longer form."""

    version: bytes = octets(0, 16, "Version of rds-tools as text, which a zero ends")


@header("rds.stress.options", size=2, title="rds-stress more options", source=f"{_SOURCE}; protocol.md §12.1")
@dataclass(slots=True)
class StressMore:
    """Behind the options, in their longer form."""

    tos: int = u8(0, "Type of service")
    asynchronous: int = u8(1, "Asynchronous sends (UEK only)")


STRESS_MESSAGE = Codec(StressMessage)
STRESS_OPTIONS = Codec(StressOptions)
STRESS_VERSION = Codec(StressVersion)
STRESS_MORE = Codec(StressMore)
MESSAGE_BYTES = STRESS_MESSAGE.size
"""The shortest request or ack."""


def pattern(size: int) -> bytes:
    """The first ``size`` bytes that a verified message has behind its header (protocol.md §12.2).

    Each byte follows from the one before, and every 256 of them from their number too, so that blocks that changed
    places are told.
    """
    made = bytearray(size)
    state = 11
    for at in range(size):
        made[at] = state & 0xFF
        state = (41 * (state + 3) + ((at + 1) >> 8)) & 0xFFFFFFFF
    return bytes(made)


def likely_message(payload: bytes, sport: int, dport: int) -> bool:
    """True where the payload of a message between two RDS ports begins as those of rds-stress do."""
    if len(payload) < MESSAGE_BYTES:
        return False
    message = STRESS_MESSAGE.unpack_from(payload)
    return (message.from_port, message.to_port) == (sport, dport) and sport > 1 and message.op in _OPS
