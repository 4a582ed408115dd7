"""Memory regions, and the one check that stands before every access to memory (§10.6)."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from rdstool.errors import UsageError
from rdstool.protocol.ib.memory import Access, Region
from rdstool.transport.ib.provider import Segment

MAX_REGIONS = 65_536
"""Regions of one device at a time."""
_KEY_BITS = 32


@dataclass(frozen=True, slots=True)
class MemoryRegion:
    """Memory that peers or local requests may use. It is a view: what is written shows in the owner's buffer."""

    address: int
    length: int
    lkey: int
    rkey: int
    access: Access
    memory: memoryview


class MemoryTable:
    """The regions of a device, by key. Keys are random: a peer cannot know one that it was not told."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._by_lkey: dict[int, MemoryRegion] = {}
        self._by_rkey: dict[int, MemoryRegion] = {}

    def __len__(self) -> int:
        return len(self._by_rkey)

    def register(self, memory: bytearray | memoryview, access: Access, address: int = 0) -> MemoryRegion:
        """Make a region that begins at ``address``. ``UsageError`` where memory or access rights will not do.

        As on real adapters, whoever lets a peer write has to be allowed to write himself.
        """
        if access & (Access.REMOTE_WRITE | Access.REMOTE_ATOMIC) and not access & Access.LOCAL_WRITE:
            raise UsageError("a region that a peer may write needs LOCAL_WRITE too")
        view = memoryview(memory)
        if view.readonly:
            raise UsageError("a region needs memory that can be written: a bytearray, not bytes")
        if len(self) >= MAX_REGIONS:
            raise UsageError(f"{MAX_REGIONS} regions are registered: deregister some first")
        view = view.cast("B")
        region = MemoryRegion(address, len(view), self._key(self._by_lkey), self._key(self._by_rkey), access, view)
        self._by_lkey[region.lkey] = region
        self._by_rkey[region.rkey] = region
        return region

    def deregister(self, region: Region) -> None:
        """Forget a region; its keys are void. Once more does no harm."""
        self._by_lkey.pop(region.lkey, None)
        self._by_rkey.pop(region.rkey, None)

    def remote(self, rkey: int, address: int, length: int, access: Access) -> memoryview | None:
        """The memory that a peer may use in this way, exactly ``length`` bytes; None where it may not."""
        return _piece(self._by_rkey.get(rkey), address, length, access)

    def local(self, segment: Segment, access: Access) -> memoryview | None:
        """The memory of a local work request; None where it is not registered for that."""
        return _piece(self._by_lkey.get(segment.lkey), segment.address, segment.length, access)

    def _key(self, taken: dict[int, MemoryRegion]) -> int:
        while (key := self._random.getrandbits(_KEY_BITS)) in taken or not key:
            pass
        return key


def _piece(region: MemoryRegion | None, address: int, length: int, access: Access) -> memoryview | None:
    """``length`` bytes at ``address`` of a region: all of them, or None."""
    if region is None or access & ~region.access or length < 0:
        return None
    start = address - region.address
    if start < 0 or start + length > region.length:
        return None
    return region.memory[start : start + length]
