"""ERF records (Endace extensible record format) as a file of their own, without a file header."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import repeat

import numpy as np

from rdstool.capture.columns import Bytes
from rdstool.capture.files.records import MAX_FRAMES, Records
from rdstool.capture.gather import gather
from rdstool.capture.packets.links import LINKTYPE_ERF

HEADER_BYTES = 16
DETECTION_RECORDS = 3
"""So many records in a row must be plausible, since there is no magic number; fewer if the file has no more."""

_TYPE_MASK = 0x7F
_PAD = 48
"""What fills a buffer of the card: of an ERF file, no frame to Wireshark [seen in tshark 4.0, 4.4 and 4.6]."""
_KNOWN_TYPES = frozenset(range(1, 28)) | {_PAD}
_MAX_SECONDS_APART = 7 * 24 * 3600
_SIZE = struct.Struct(">H").unpack_from
_SIZE_OFFSET = 10
_HEADER = np.dtype({
    "names": ["fraction", "seconds", "type", "size", "wire"],
    "formats": ["<u4", "<u4", "u1", ">u2", ">u2"],
    "offsets": [0, 4, 8, 10, 14],
    "itemsize": HEADER_BYTES,
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class ErfFormat:
    """Records back to back. Frames are whole records, as in a pcap file of LINKTYPE_ERF, where pads are frames too."""

    name: str = "ERF"

    def scan(self, data: Bytes, start: int, end: int) -> Records:
        """Return the whole records of ``data[start:end]``; one that cannot be is a problem, not an exception."""
        view = data.data
        last = end - HEADER_BYTES
        position = start
        starts: list[int] = []
        wanted = HEADER_BYTES
        problem = None
        for _ in repeat(None, MAX_FRAMES):
            if position > last:
                break
            (size,) = _SIZE(view, position + _SIZE_OFFSET)
            if size < HEADER_BYTES:
                problem = f"a record of {size} bytes is not possible"
                break
            if position + size > end:
                wanted = size
                break
            starts.append(position)
            position += size
        offset = np.array(starts, np.int64)
        headers = gather(data, offset, _HEADER)
        # Extension headers make a frame of a pad.
        frames = headers["type"] != _PAD
        if not frames.all():
            offset, headers = offset[frames], headers[frames]
        captured = headers["size"].astype(np.int64)
        # Seconds, and 2**-32 seconds.
        fraction = (headers["fraction"].astype(np.uint64) * np.uint64(1_000_000_000)) >> np.uint64(32)
        return Records(
            offset=offset,
            captured=captured,
            wire=np.maximum(captured, HEADER_BYTES + headers["wire"].astype(np.int64)),
            time=headers["seconds"].astype(np.int64) * 1_000_000_000 + fraction.astype(np.int64),
            link=np.full(len(offset), LINKTYPE_ERF, np.uint16),
            end=position,
            wanted=wanted,
            problem=problem,
            more=len(starts) == MAX_FRAMES,
        )


def is_erf(head: bytes, whole: bool) -> bool | None:
    """Tell whether a file begins with ERF records; None: more of it must be seen. ``whole``: ``head`` is all of it."""
    position = 0
    earlier: int | None = None
    for _ in range(DETECTION_RECORDS):
        if position + HEADER_BYTES > len(head):
            return (position == len(head) and position > 0) if whole else None
        _fraction, seconds, kind, _flags, size = struct.unpack_from("<IIBB", head, position) + _SIZE(
            head, position + _SIZE_OFFSET
        )
        if kind & _TYPE_MASK not in _KNOWN_TYPES or size < HEADER_BYTES or not seconds:
            return False
        if earlier is not None and abs(seconds - earlier) > _MAX_SECONDS_APART:
            return False
        earlier = seconds
        position += size
    return True
