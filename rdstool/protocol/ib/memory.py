"""Memory that peers may read and write, and the cookies by which they are told of it (protocol.md §8.1)."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from enum import IntFlag
from typing import TYPE_CHECKING, Protocol

from rdstool.protocol.errors import SocketError

if TYPE_CHECKING:
    from rdstool.protocol.counters import Counters

MAX_REGION_BYTES = 1 << 20
"""Longest memory region: 256 pages (``RDS_MAX_MSG_SIZE``)."""
SMALL_REGION_BYTES = 8 << 10
"""Up to here a region counts as one of 8 KiB, beyond as one of 1 MiB (kernel ``rds_ib_alloc_frmr``)."""
_KEY_BITS = 32
_KEY_MASK = (1 << _KEY_BITS) - 1

Memory = bytearray | memoryview


class Access(IntFlag):
    """What may be done with a region, as libibverbs numbers it (``ibv_access_flags``)."""

    LOCAL_WRITE = 1
    REMOTE_WRITE = 2
    REMOTE_READ = 4
    REMOTE_ATOMIC = 8


class RdmaFlags(IntFlag):
    """``RDS_RDMA_*`` (§8.2). DONTWAIT does nothing, as in the kernel."""

    READWRITE = 0x01
    """An operation with it writes to the peer; a region with it may be written to by the peer."""
    FENCE = 0x02
    INVALIDATE = 0x04
    USE_ONCE = 0x08
    DONTWAIT = 0x10
    NOTIFY_ME = 0x20
    SILENT = 0x40


class Region(Protocol):
    """Registered memory. A peer that knows ``rkey`` may do with it what it was registered for, and nothing else."""

    @property
    def address(self) -> int:
        """Where it begins, as peers and local requests count: 0 where regions are zero-based."""

    @property
    def length(self) -> int:
        """Length of the memory in bytes."""

    @property
    def lkey(self) -> int:
        """Key for local use."""

    @property
    def rkey(self) -> int:
        """The key that peers use."""


class Registrar(Protocol):
    """Where regions come from: the adapter, or what stands for one."""

    def register(self, memory: Memory, access: Access) -> Region:
        """Make memory known. Raises ``RdsError`` where it will not do."""

    def deregister(self, region: Region) -> None:
        """Its keys are void from now on."""


def make_cookie(rkey: int, offset: int) -> int:
    """What a program knows of memory that a peer offers: key, and where it begins."""
    return offset << _KEY_BITS | rkey


def split_cookie(cookie: int) -> tuple[int, int]:
    """The key and the offset that a cookie consists of."""
    return cookie & _KEY_MASK, cookie >> _KEY_BITS


@dataclass(slots=True)
class Offered:
    """A region that a socket offers."""

    region: Region
    use_once: bool
    """Void after the first message that says it was used."""


class SocketMemory:
    """The regions of one socket, by key (kernel ``rs_rdma_keys``)."""

    __slots__ = ("_by_key", "_counters", "_registrar")

    def __init__(self, registrar: Registrar, counters: Counters) -> None:
        self._registrar = registrar
        self._counters = counters
        self._by_key: dict[int, Offered] = {}

    def __len__(self) -> int:
        return len(self._by_key)

    def __contains__(self, cookie: int) -> bool:
        return split_cookie(cookie)[0] in self._by_key

    def offer(self, memory: Memory, flags: RdmaFlags) -> int:
        """Register memory for peers; returns its cookie. Raises ``SocketError``: EMSGSIZE, EINVAL.

        Peers may read it, and with READWRITE write and do atomics: what the kernel gives where it maps on demand. Its
        ordinary regions, which are tied to a connection, refuse atomics.
        """
        size = memoryview(memory).nbytes
        if size > MAX_REGION_BYTES:
            raise SocketError(errno.EMSGSIZE, f"a region of {size} bytes, {MAX_REGION_BYTES} are allowed")
        if not size:
            raise SocketError(errno.EINVAL, "a region needs memory")
        access = Access.LOCAL_WRITE | Access.REMOTE_READ
        if flags & RdmaFlags.READWRITE:
            access |= Access.REMOTE_WRITE | Access.REMOTE_ATOMIC
        region = self._registrar.register(memory, access)
        self._by_key[region.rkey] = Offered(region, bool(flags & RdmaFlags.USE_ONCE))
        if size <= SMALL_REGION_BYTES:
            self._counters.ib_rdma_mr_8k_alloc += 1
            self._counters.ib_rdma_mr_8k_used += 1
        else:
            self._counters.ib_rdma_mr_1m_alloc += 1
            self._counters.ib_rdma_mr_1m_used += 1
        return make_cookie(region.rkey, region.address)

    def free(self, cookie: int) -> None:
        """RDS_FREE_MR: the key is void at once, whether INVALIDATE was asked for or not. Cookie 0 does nothing more.

        Raises ``SocketError`` (EINVAL) where the socket has no such region.
        """
        if not cookie:
            return
        offered = self._by_key.pop(split_cookie(cookie)[0], None)
        if offered is None:
            raise SocketError(errno.EINVAL, f"{cookie:#x} is no memory of this socket")
        self._release(offered.region)

    def used(self, rkey: int) -> None:
        """A message says that RDMA has used this key."""
        offered = self._by_key.get(rkey)
        if offered is not None and offered.use_once:
            del self._by_key[rkey]
            self._release(offered.region)

    def close(self) -> None:
        """Free all of them."""
        for offered in self._by_key.values():
            self._release(offered.region)
        self._by_key.clear()

    def _release(self, region: Region) -> None:
        if region.length <= SMALL_REGION_BYTES:
            self._counters.ib_rdma_mr_8k_free += 1
        else:
            self._counters.ib_rdma_mr_1m_free += 1
        self._registrar.deregister(region)
