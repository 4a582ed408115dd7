"""Registered memory: what peers may use, and what frames are sent from and received into."""

from __future__ import annotations

import ctypes
import mmap
from dataclasses import dataclass
from typing import Any, NamedTuple

from pyverbs.mr import MR
from pyverbs.pyverbs_error import PyverbsError

from rdstool.errors import UsageError
from rdstool.protocol.ib.memory import Access
from rdstool.transport.ib.provider import Buffer
from rdstool.transport.ib.verbs import rdmacm

SLOT_BYTES = 4_160
"""Size of a slot of the pool: a frame of RDS (protocol.md §7.4), rounded up to a cache line."""
SLAB_SLOTS = 256
"""Slots that are registered at a time: 1 MiB of memory that stays where it is."""


@dataclass(frozen=True, slots=True, eq=False)
class VerbsRegion:
    """Memory that a peer may use. ``address`` counts from the beginning of its page, as with the kernel's RDS."""

    address: int
    length: int
    lkey: int
    rkey: int
    access: Access
    registration: rdmacm.Registration
    held: Any
    """Keeps the owner's buffer from being resized or freed."""


def make_region(domain: int, memory: bytearray | memoryview, access: Access) -> VerbsRegion:
    """Register memory. Raises ``UsageError`` where it will not do, ``TransportError`` where the device refuses."""
    view = memoryview(memory)
    if view.readonly:
        raise UsageError("a region needs memory that can be written: a bytearray, not bytes")
    if access & (Access.REMOTE_WRITE | Access.REMOTE_ATOMIC) and not access & Access.LOCAL_WRITE:
        raise UsageError("a region that a peer may write needs LOCAL_WRITE too")
    view = view.cast("B")
    if not len(view):
        raise UsageError("a region needs memory")
    held = (ctypes.c_char * len(view)).from_buffer(view)
    place = ctypes.addressof(held)
    address = place % mmap.PAGESIZE
    made = rdmacm.register(domain, place, len(view), address, int(access))
    return VerbsRegion(address, len(view), made.lkey, made.rkey, access, made, held)


class Slot(NamedTuple):
    """Registered memory for one work request."""

    mr: MR
    offset: int
    address: int
    lkey: int
    pooled: bool

    def write(self, data: Buffer) -> None:
        """Put data into it."""
        self.mr.write(data if type(data) is bytes else bytes(data), len(data), self.offset)

    def read(self, length: int) -> bytes:
        """What is in it."""
        data: bytes = self.mr.read(length, self.offset)
        return data


class Pool:
    """Slots of registered memory. Small ones are kept and used again; a large one is registered for one request."""

    def __init__(self, domain: Any) -> None:
        self._domain = domain
        self._slabs: list[MR] = []
        self._free: list[Slot] = []

    def take(self, size: int) -> Slot:
        """Memory for ``size`` bytes. Raises ``TransportError`` where no more can be registered."""
        if size > SLOT_BYTES:
            mr = self._register(size)
            return Slot(mr, 0, mr.buf, mr.lkey, False)
        if not self._free:
            mr = self._register(SLOT_BYTES * SLAB_SLOTS)
            self._slabs.append(mr)
            offsets = range(0, SLOT_BYTES * SLAB_SLOTS, SLOT_BYTES)
            self._free.extend(Slot(mr, offset, mr.buf + offset, mr.lkey, True) for offset in offsets)
        return self._free.pop()

    def give(self, slot: Slot) -> None:
        """The device is done with it."""
        if slot.pooled:
            self._free.append(slot)
        else:
            slot.mr.close()

    def close(self) -> None:
        """Give all of it back to the system, after the queue pairs that use it."""
        self._free.clear()
        for mr in self._slabs:
            mr.close()
        self._slabs.clear()

    def _register(self, size: int) -> MR:
        try:
            return MR(self._domain, size, int(Access.LOCAL_WRITE))
        except PyverbsError as problem:
            raise rdmacm.pinning_failed(size, getattr(problem, "error_code", 0)) from None
