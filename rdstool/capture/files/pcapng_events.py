"""The blocks of a pcapng file that hold no packet, but are frames to Wireshark: they take a number.

Which these are was seen in tshark 4.0, 4.4 and 4.6; no other type up to 0xFFFF takes one. Sysdig's events with flags
take one since 4.6. Layouts: draft-ietf-opsawg-pcapng for custom blocks and journal entries, whose fields are those of
systemd's Journal Export Format; events of sysdig are as libscap writes them: the processor, perhaps flags, the time.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rdstool.capture.columns import NO_PACKET, NO_TIME
from rdstool.capture.files.pcapng_packets import Packets

_CUSTOM, _CUSTOM_NOT_COPIED = 0x0BAD, 0x4000_0BAD
_JOURNAL_ENTRY = 9
_TIME_AT = {0x204: 10, 0x216: 10, 0x221: 10, 0x208: 14, 0x217: 14, 0x222: 14}
"""Of sysdig's events, without and with flags: where their time is."""
_HEAD_BYTES, _TIME_BYTES, _TRAILER_BYTES = 8, 8, 4
_JOURNAL_TIME = re.compile(rb"^__REALTIME_TIMESTAMP=(\d{1,20})$", re.MULTILINE)
_MAX_TIME = (1 << 63) - 1

EVENTS = frozenset({_CUSTOM, _CUSTOM_NOT_COPIED, _JOURNAL_ENTRY, *_TIME_AT})
"""Types of these blocks."""


@dataclass(frozen=True, slots=True)
class Event:
    """One of these blocks."""

    at: int
    """Packets of the piece that are before it."""
    time: int
    """ns since 1970, or NO_TIME."""


def event_time(kind: int, block: memoryview, order: str) -> int:
    """The time of a block of one of these types, in ns since 1970; NO_TIME where it tells none."""
    if kind == _JOURNAL_ENTRY:
        found = _JOURNAL_TIME.search(block[_HEAD_BYTES:-_TRAILER_BYTES])
        return min(int(found[1]) * 1000, _MAX_TIME) if found else NO_TIME
    at = _TIME_AT.get(kind, len(block))
    if at + _TIME_BYTES + _TRAILER_BYTES > len(block):
        return NO_TIME
    (stamp,) = struct.unpack_from(f"{order}Q", block, at)
    return min(int(stamp), _MAX_TIME)


def with_events(packets: Packets, events: Sequence[Event]) -> Packets:
    """Put frames that hold nothing at the places of the events, up to the first packet that cannot be."""
    events = [event for event in events if event.at <= len(packets.offset)]
    at = np.array([event.at for event in events], np.int64)
    return replace(
        packets,
        offset=np.insert(packets.offset, at, 0),
        captured=np.insert(packets.captured, at, 0),
        wire=np.insert(packets.wire, at, 0),
        time=np.insert(packets.time, at, [event.time for event in events]),
        link=np.insert(packets.link, at, NO_PACKET),
    )
