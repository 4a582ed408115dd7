"""RDMA by the kernel's RDS: control messages that name memory (``include/uapi/linux/rds.h``; protocol.md §8)."""

from __future__ import annotations

import ctypes
import struct
from dataclasses import dataclass, field

from rdstool.afrds.numbers import SOL_RDS, Control
from rdstool.protocol.ib.memory import RdmaFlags

_ARGS = struct.Struct("=QQQQQQQ")
"""``rds_rdma_args``: cookie, remote offset and length, where the local vectors are and how many, flags, token."""
_VECTOR = struct.Struct("=QQ")
"""``rds_iovec``: address, length."""
_NOTIFY = struct.Struct("=Qi")
"""``rds_rdma_notify``: token, status."""


@dataclass(slots=True)
class RdmaWrite:
    """A write of ``data`` to the beginning of a peer's memory. It has to live until the kernel has told its end."""

    cookie: int
    data: bytes
    token: int = 1
    _memory: ctypes.Array[ctypes.c_char] = field(init=False)
    _vector: ctypes.Array[ctypes.c_char] = field(init=False)

    def __post_init__(self) -> None:
        self._memory = ctypes.create_string_buffer(self.data, len(self.data))
        self._vector = ctypes.create_string_buffer(_VECTOR.pack(ctypes.addressof(self._memory), len(self.data)))

    def control(self) -> tuple[int, int, bytes]:
        """For ``sendmsg``: the write is done before the message is sent, and its end is told."""
        flags = RdmaFlags.READWRITE | RdmaFlags.NOTIFY_ME
        where = ctypes.addressof(self._vector)
        return SOL_RDS, Control.RDMA_ARGS, _ARGS.pack(self.cookie, 0, len(self.data), where, 1, flags, self.token)

    def status(self, control: list[tuple[int, int, bytes]]) -> int | None:
        """What ``recvmsg`` gave beside a message: 0 or an ``RDS_RDMA_*`` status, or None where it is not of this."""
        for level, kind, value in control:
            if (level, kind) == (SOL_RDS, Control.RDMA_STATUS):
                token, status = _NOTIFY.unpack_from(value)
                if token == self.token:
                    return int(status)
        return None
