"""pcapng files (draft-ietf-opsawg-pcapng): sections, interfaces and packet blocks.

Custom blocks and events are frames without packet, as in Wireshark; other blocks are passed over.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any

import numpy as np

from rdstool.capture.columns import Bytes
from rdstool.capture.files.pcapng_events import EVENTS, Event, event_time, with_events
from rdstool.capture.files.pcapng_packets import (
    ENHANCED_PACKET,
    MICROSECONDS,
    OLD_PACKET,
    SIMPLE_PACKET,
    Interface,
    Mark,
    lengths_differ,
    read_packets,
)
from rdstool.capture.files.records import MAX_FRAMES, MAX_RECORD_BYTES, Records

SECTION = 0x0A0D0D0A
INTERFACE = 1
MAX_INTERFACES = 1 << 16
"""Most interfaces of a section."""

_BYTE_ORDER_MAGIC = 0x1A2B3C4D
_MAJOR_VERSION = 1
_BLOCK_OVERHEAD = 12
"""Type and length in front, length behind."""
_MIN_BYTES = {SECTION: 28, INTERFACE: 20, OLD_PACKET: 32, SIMPLE_PACKET: 16, ENHANCED_PACKET: 32}
_OPTION_TSRESOL = 9
_OPTION_TSOFFSET = 14


@dataclass(slots=True)
class PcapngFormat:
    """The state of a pcapng file between two scans: the current section."""

    name: str = "pcapng"
    order: str = ""
    """Of the current section, ``<`` or ``>``; none before the first."""
    interfaces: list[Interface] = field(default_factory=list)

    def scan(self, data: Bytes, start: int, end: int) -> Records:
        """Return the whole frames of ``data[start:end]``; blocks that cannot be are a problem, not an exception."""
        walk = _Walk(self, data, start, end)
        walk.run()
        records = walk.records()
        self.order, self.interfaces = walk.order, walk.interfaces[walk.first :]
        return records


def is_pcapng(head: bytes) -> bool:
    """Tell whether a file begins as a pcapng file does (12 bytes are enough)."""
    return len(head) >= 12 and head[:4] == SECTION.to_bytes(4, "big") and _order_of(head, 0) is not None


def _order_of(data: Any, position: int) -> str | None:
    """The byte order of the section whose header is at ``position``."""
    for order in "<>":
        if struct.unpack_from(order + "I", data, position + 8)[0] == _BYTE_ORDER_MAGIC:
            return order
    return None


class _Walk:
    """One pass over blocks: notes where packets and events are, and what interfaces there are when."""

    def __init__(self, form: PcapngFormat, data: Bytes, start: int, end: int) -> None:
        self.data = data
        self.position = start
        self.end = end
        self.order = form.order
        self.interfaces = list(form.interfaces)
        self.first = 0
        self.wanted = _BLOCK_OVERHEAD
        self.problem: str | None = None
        self.more = False
        self.packets: list[int] = []
        self.events: list[Event] = []
        self.marks: list[Mark] = []
        self._mark()

    def run(self) -> None:
        """Go from block to block until one is not whole or cannot be."""
        while self._run_of_order():
            pass

    def _run_of_order(self) -> bool:
        """Walk while the byte order stays the same; False at the end."""
        view = self.data.data
        head = struct.Struct(f"{self.order or '<'}II").unpack_from
        position, end = self.position, self.end
        last = end - _BLOCK_OVERHEAD
        add = self.packets.append
        enhanced_min = _MIN_BYTES[ENHANCED_PACKET]
        for _ in repeat(None, MAX_FRAMES - len(self.packets) - len(self.events)):
            if position > last:
                break
            kind, size = head(view, position)
            if kind == ENHANCED_PACKET and enhanced_min <= size <= end - position and not size & 3:
                add(position)
                position += size
                continue
            if kind == SECTION:
                self.position = position
                return self._section()
            following = position + size
            if size & 3 or size < _MIN_BYTES.get(kind, _BLOCK_OVERHEAD) or size > MAX_RECORD_BYTES:
                self.problem = f"a block of {size} bytes is not possible"
                break
            if following > end:
                self.wanted = size
                break
            if kind in (SIMPLE_PACKET, OLD_PACKET):
                add(position)
            elif head(view, following - 8)[1] != size:
                self.problem = lengths_differ(size, head(view, following - 8)[1])
                break
            elif kind == INTERFACE:
                self._interface(position, size)
                if self.problem:
                    break
            elif kind in EVENTS:
                self.events.append(Event(len(self.packets), event_time(kind, view[position:following], self.order)))
            position = following
        else:
            self.more = True
        self.position = position
        return False

    def _section(self) -> bool:
        """Begin a section; False if its header is not whole or cannot be."""
        position = self.position
        order = _order_of(self.data.data, position)
        if order is None:
            self.problem = "a section header without byte order"
            return False
        if position + _MIN_BYTES[SECTION] > self.end:
            self.wanted = _MIN_BYTES[SECTION]
            return False
        size, _magic, major, minor = struct.unpack_from(f"{order}IIHH", self.data.data, position + 4)
        if size & 3 or size < _MIN_BYTES[SECTION] or size > MAX_RECORD_BYTES:
            self.problem = f"a section header of {size} bytes is not possible"
        elif major != _MAJOR_VERSION:
            self.problem = f"version {major}.{minor} of pcapng is not known"
        elif position + size > self.end:
            self.wanted = size
        else:
            (trailer,) = struct.unpack_from(f"{order}I", self.data.data, position + size - 4)
            if trailer == size:
                self.order = order
                self.first = len(self.interfaces)
                self._mark()
                self.position = position + size
                return True
            self.problem = lengths_differ(size, trailer)
        return False

    def _interface(self, position: int, size: int) -> None:
        view = self.data.data
        if len(self.interfaces) - self.first >= MAX_INTERFACES:
            self.problem = f"more than {MAX_INTERFACES} interfaces"
            return
        link, _reserved, snaplen = struct.unpack_from(f"{self.order}HHI", view, position + 8)
        resolution, offset = MICROSECONDS, 0
        option, options_end = position + 16, position + size - 4
        while option + 4 <= options_end:
            code, length = struct.unpack_from(f"{self.order}HH", view, option)
            value = option + 4
            if code == 0 or value + length > options_end:
                break
            if code == _OPTION_TSRESOL and length == 1:
                resolution = view[value]
            elif code == _OPTION_TSOFFSET and length == 8:
                (offset,) = struct.unpack_from(f"{self.order}q", view, value)
            option = value + (length + 3 & ~3)
        self.interfaces.append(Interface(link, snaplen, resolution, offset))
        self._mark()

    def _mark(self) -> None:
        mark = Mark(len(self.packets), self.order, self.first, len(self.interfaces) - self.first)
        if self.marks and self.marks[-1].at == mark.at:
            self.marks[-1] = mark
        else:
            self.marks.append(mark)

    def records(self) -> Records:
        """The packets and events that were found, up to the first packet that cannot be."""
        packets = read_packets(self.data, np.array(self.packets, np.int64), self.marks, self.interfaces)
        if packets.problem is not None:
            self.position, self.problem = self.packets[len(packets.offset)], packets.problem
        if self.events:
            packets = with_events(packets, self.events)
        return Records(
            packets.offset, packets.captured, packets.wire, packets.time, packets.link,
            end=self.position, wanted=self.wanted, problem=self.problem, more=self.more,
        )  # fmt: skip
