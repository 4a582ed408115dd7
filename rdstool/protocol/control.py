"""Control messages that a program hands to sendmsg: of RDMA, atomics and zerocopy (protocol.md §8, §9.2).

Here memory is given as a buffer, where the kernel's structures have its address. ``flags`` are
:class:`~rdstool.protocol.ib.memory.RdmaFlags`; a ``token`` comes back in the notification that NOTIFY_ME asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rdstool.protocol.ib.memory import Memory, RdmaFlags
from rdstool.protocol.reasons import SendStatus

ATOMIC_BYTES = 8
NO_FLAGS = RdmaFlags(0)
ALL_BITS = (1 << 64) - 1
"""A mask that leaves nothing out."""


@dataclass(frozen=True, slots=True)
class RdmaArgs:
    """RDS_CMSG_RDMA_ARGS: read the peer's memory, or with READWRITE write to it, before the message is sent."""

    cookie: int
    """Which memory: what the peer's RDMA_DEST told."""
    local: Sequence[Memory | bytes]
    """Where the bytes come from or go to, 1 to 1024 pieces. Not to be changed until the operation has ended."""
    remote_offset: int = 0
    """Where to begin in the peer's memory, in bytes."""
    remote_bytes: int | None = None
    """Room there; None for as much as ``local`` has."""
    flags: RdmaFlags = NO_FLAGS
    token: int = 0
    ended: Callable[[SendStatus], None] | None = None
    """Told of the end instead of the socket, where it is given."""


@dataclass(frozen=True, slots=True)
class RdmaDest:
    """RDS_CMSG_RDMA_DEST: memory that the sender of a message offers to its receiver."""

    cookie: int


@dataclass(slots=True)
class RdmaMap:
    """RDS_CMSG_RDMA_MAP: offer this memory to the receiver of the message. ``cookie`` is set by sendmsg."""

    memory: Memory
    flags: RdmaFlags = RdmaFlags.READWRITE | RdmaFlags.USE_ONCE
    cookie: int = 0


@dataclass(frozen=True, slots=True)
class FetchAdd:
    """RDS_CMSG_ATOMIC_FADD: add to eight bytes of the peer's memory, and get what was there before.

    RDS_CMSG_MASKED_ATOMIC_FADD with ``nocarry_mask``: bits whose carry is not handed on, the last ones of fields that
    are added apart.
    """

    cookie: int
    add: int
    result: Memory = field(default_factory=lambda: bytearray(ATOMIC_BYTES))
    """Eight bytes for the value before, in native order."""
    remote_offset: int = 0
    """A multiple of eight."""
    nocarry_mask: int = 0
    flags: RdmaFlags = NO_FLAGS
    token: int = 0
    ended: Callable[[SendStatus], None] | None = None
    """Told of the end instead of the socket, where it is given."""

    @property
    def masked(self) -> bool:
        """It is not one number of 64 bits that is added to."""
        return bool(self.nocarry_mask & ALL_BITS >> 1)


@dataclass(frozen=True, slots=True)
class CompareSwap:
    """RDS_CMSG_ATOMIC_CSWP: replace eight bytes of the peer's memory where they equal ``compare``.

    RDS_CMSG_MASKED_ATOMIC_CSWP with masks: bits to compare, and bits to replace.
    """

    cookie: int
    compare: int
    swap: int
    result: Memory = field(default_factory=lambda: bytearray(ATOMIC_BYTES))
    """Eight bytes for the value before, in native order."""
    remote_offset: int = 0
    """A multiple of eight."""
    compare_mask: int = ALL_BITS
    swap_mask: int = ALL_BITS
    flags: RdmaFlags = NO_FLAGS
    token: int = 0
    ended: Callable[[SendStatus], None] | None = None
    """Told of the end instead of the socket, where it is given."""

    @property
    def masked(self) -> bool:
        """Not all bits are compared and replaced."""
        return self.compare_mask != ALL_BITS or self.swap_mask != ALL_BITS


@dataclass(frozen=True, slots=True)
class ZerocopyCookie:
    """RDS_CMSG_ZCOPY_COOKIE: the caller's number for a message with MSG_ZEROCOPY, which ZerocopyCompletion tells."""

    cookie: int
    """32 bits."""


Atomic = FetchAdd | CompareSwap
RdmaControl = RdmaArgs | RdmaDest | RdmaMap | FetchAdd | CompareSwap
SendControl = RdmaControl | ZerocopyCookie
