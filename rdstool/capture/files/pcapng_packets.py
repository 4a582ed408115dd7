"""The packet blocks of a piece of a pcapng file, read as columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdstool.capture.columns import Bytes, Ints
from rdstool.capture.gather import distinct, gather

OLD_PACKET = 2
SIMPLE_PACKET = 3
ENHANCED_PACKET = 6
MICROSECONDS = 6
"""The resolution where an interface does not tell one."""

_NS = 1_000_000_000
_POWER_OF_TWO = 0x80
_MAX_FRACTION_BITS = 34
"""So many bits times 10**9 still fit in 64."""
_PACKET_DATA = 28
_SIMPLE_PACKET_DATA = 12
_TRAILER_BYTES = 4
_COLUMNS = np.dtype([
    ("size", "i8"), ("trailer", "i8"), ("interface", "i8"), ("stamp", "u8"), ("data", "i8"), ("captured", "i8"),
    ("wire", "i8"),
])  # fmt: skip


@dataclass(frozen=True, slots=True)
class Interface:
    """What an interface description block tells."""

    link: int
    snaplen: int
    """0: no limit."""
    resolution: int = MICROSECONDS
    """The option if_tsresol: negative exponent of the time unit, base 2 with the top bit, else base 10."""
    offset: int = 0
    """The option if_tsoffset: seconds to add to all times."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What applies from packet number ``at`` of a piece on."""

    at: int
    order: str
    """``<`` or ``>``."""
    first: int
    """Index of the section's first interface among all that the piece knows."""
    count: int
    """Interfaces of the section so far."""


@dataclass(slots=True)
class Packets:
    """Columns with the meanings of ``FrameBatch``, up to the first packet that cannot be."""

    offset: Ints
    captured: Ints
    wire: Ints
    time: Ints
    link: NDArray[np.uint16]
    problem: str | None
    """What is wrong with that packet."""


def lengths_differ(size: int, trailer: int) -> str:
    """Say that a block does not end as it begins."""
    return f"a block of {size} bytes that ends with the length {trailer}"


def read_packets(data: Bytes, at: Ints, marks: Sequence[Mark], interfaces: Sequence[Interface]) -> Packets:
    """Read the packet blocks that begin ``at``; they lie in ``data`` whole."""
    mark = np.searchsorted([mark.at for mark in marks], np.arange(len(at)), side="right") - 1
    columns = np.zeros(len(at), _COLUMNS)
    for order in "<>":
        rows = np.flatnonzero(np.array([mark.order == order for mark in marks])[mark])
        if len(rows):
            _read(data, at, rows, order, columns)
    known = columns["interface"] < np.array([mark.count for mark in marks])[mark]
    index = columns["interface"] + np.array([mark.first for mark in marks])[mark]
    _limit_simple_packets(columns, np.where(known, index, 0), interfaces)
    room = columns["size"] - _TRAILER_BYTES - (columns["data"] - at)
    good = known & (columns["trailer"] == columns["size"]) & (columns["captured"] <= room)
    problem = None
    if not good.all():
        bad = int(np.argmin(good))
        problem = _problem(columns[bad], bool(known[bad]))
        columns, index = columns[:bad], index[:bad]
    captured = columns["captured"].copy()
    return Packets(
        offset=columns["data"].copy(),
        captured=captured,
        wire=np.maximum(columns["wire"], captured),
        time=_times(columns["stamp"], index, interfaces),
        link=np.array([interface.link for interface in interfaces], np.uint16)[index],
        problem=problem,
    )


def nanoseconds(stamps: NDArray[np.uint64], resolution: int) -> NDArray[np.uint64]:
    """Return time stamps of a resolution (as :class:`Interface` has it) in ns; modulo 2**64 where they are nonsense."""
    if not resolution & _POWER_OF_TWO:
        if resolution <= 9:
            return stamps * np.uint64(10 ** (9 - resolution))
        return stamps // np.uint64(10 ** min(resolution - 9, 19))
    bits = min(resolution & ~_POWER_OF_TWO, 63)
    spare = max(bits - _MAX_FRACTION_BITS, 0)
    fraction = (stamps & np.uint64((1 << bits) - 1)) >> np.uint64(spare)
    return (stamps >> np.uint64(bits)) * np.uint64(_NS) + ((fraction * np.uint64(_NS)) >> np.uint64(bits - spare))


def _read(data: Bytes, at: Ints, rows: Ints, order: str, columns: NDArray[Any]) -> None:
    """Fill ``rows`` of ``columns`` from blocks of one byte order."""
    u2, u4 = f"{order}u2", f"{order}u4"
    head = gather(data, at[rows], np.dtype([("kind", u4), ("size", u4)]))
    columns["size"][rows] = head["size"]
    trailers = at[rows] + head["size"] - _TRAILER_BYTES
    columns["trailer"][rows] = gather(data, trailers, np.dtype([("size", u4)]))["size"]
    is_simple = head["kind"] == SIMPLE_PACKET
    simple = rows[is_simple]
    if len(simple):
        columns["wire"][simple] = gather(data, at[simple] + 8, np.dtype([("wire", u4)]))["wire"]
        columns["data"][simple] = at[simple] + _SIMPLE_PACKET_DATA
        columns["captured"][simple] = -1
        rows, head = rows[~is_simple], head[~is_simple]
    fields = [("interface", u4), ("high", u4), ("low", u4), ("captured", u4), ("wire", u4)]
    packets = gather(data, at[rows] + 8, np.dtype(fields))
    columns["interface"][rows] = packets["interface"]
    columns["stamp"][rows] = packets["high"].astype(np.uint64) << np.uint64(32) | packets["low"]
    columns["data"][rows] = at[rows] + _PACKET_DATA
    columns["captured"][rows] = packets["captured"]
    columns["wire"][rows] = packets["wire"]
    old = rows[head["kind"] == OLD_PACKET]
    if len(old):
        # Two bytes of interface, two of drops.
        columns["interface"][old] = gather(data, at[old] + 8, np.dtype([("interface", u2)]))["interface"]


def _limit_simple_packets(columns: NDArray[Any], index: Ints, interfaces: Sequence[Interface]) -> None:
    """A simple packet block does not tell what was captured: all, but the interface's limit and the block's room."""
    simple = columns["captured"] < 0
    if not simple.any() or not interfaces:
        return
    no_limit = 1 << 32
    limits = np.array([interface.snaplen or no_limit for interface in interfaces], np.int64)[index[simple]]
    room = columns["size"][simple] - _SIMPLE_PACKET_DATA - _TRAILER_BYTES
    columns["captured"][simple] = np.minimum(np.minimum(columns["wire"][simple], limits), room)


def _times(stamps: NDArray[np.uint64], index: Ints, interfaces: Sequence[Interface]) -> Ints:
    resolutions = np.array([interface.resolution for interface in interfaces], np.uint8)[index]
    # Kept modulo 2**64: a nonsensical offset in a broken file must not raise.
    offsets = np.array([interface.offset * _NS % (1 << 64) for interface in interfaces], np.uint64)[index]
    times = np.zeros(len(stamps), np.uint64)
    for resolution in distinct(resolutions).tolist():
        rows = resolutions == resolution
        times[rows] = nanoseconds(stamps[rows], resolution)
    return (times + offsets).view(np.int64)


def _problem(packet: Any, known: bool) -> str:
    if not known:
        return f"a packet of interface {packet['interface']}, which is not described"
    if packet["trailer"] != packet["size"]:
        return lengths_differ(int(packet["size"]), int(packet["trailer"]))
    return f"a packet of {packet['captured']} bytes in a block of {packet['size']}"
