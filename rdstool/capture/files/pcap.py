"""Classic pcap files (draft-ietf-opsawg-pcap): both byte orders, micro- and nanoseconds, and Kuznetzov's variant."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from rdstool.capture.columns import Bytes
from rdstool.capture.files.boundaries import RecordHeader, boundaries
from rdstool.capture.files.records import MAX_FRAMES, MAX_RECORD_BYTES, Records
from rdstool.capture.gather import gather

FILE_HEADER_BYTES = 24
_RECORD_HEADER_BYTES = 16
_KUZNETZOV_RECORD_HEADER_BYTES = 24
_LINKTYPE_MASK = 0xFFFF
"""Above it, the field tells of frame check sequences."""
_MAGICS = {
    # magic as a number: nanoseconds of one unit of the fraction, bytes of a record's header
    0xA1B2C3D4: (1000, _RECORD_HEADER_BYTES),
    0xA1B23C4D: (1, _RECORD_HEADER_BYTES),
    0xA1B2CD34: (1000, _KUZNETZOV_RECORD_HEADER_BYTES),  # as libpcap reads it: interface, protocol, packet type, pad
}


@dataclass(frozen=True, slots=True)
class PcapFormat:
    """What the header of a pcap file tells. It is all that is needed to read on at any boundary between records."""

    order: str
    """``<`` or ``>``."""
    unit_ns: int
    header_bytes: int
    link: int
    snaplen: int
    name: str = "pcap"

    def scan(self, data: Bytes, start: int, end: int) -> Records:
        """Return the whole frames of ``data[start:end]``; a length that cannot be is a problem, not an exception."""
        form = RecordHeader(self.order, self.header_bytes)
        offsets, position = boundaries(data, start, end, form, MAX_FRAMES)
        wanted = form.size
        problem = None
        if position > end and len(offsets):
            cut = int(offsets[-1])
            offsets = offsets[:-1]
            wanted = position - cut
            if wanted - form.size > MAX_RECORD_BYTES:
                problem = f"a frame of {wanted - form.size} bytes is not possible"
                # The header of a file, read as that of a frame, is one of no bytes.
                if len(offsets) and struct.unpack_from(f"{self.order}I", data.data, int(offsets[-1]))[0] in _MAGICS:
                    cut, offsets = int(offsets[-1]), offsets[:-1]
                    problem = "another pcap file begins here: give files one by one, or join them with mergecap"
            position = cut
        headers = gather(data, offsets, form.dtype)
        captured = headers["captured"].astype(np.int64)
        return Records(
            offset=offsets + form.size,
            captured=captured,
            wire=np.maximum(captured, headers["wire"]),
            time=headers["seconds"].astype(np.int64) * 1_000_000_000
            + headers["fraction"].astype(np.int64) * self.unit_ns,
            link=np.full(len(offsets), self.link, np.uint16),
            end=position,
            wanted=wanted,
            problem=problem,
            more=len(offsets) == MAX_FRAMES,
        )


def is_pcap(head: bytes) -> bool:
    """Tell whether a file begins as a pcap file does (4 bytes are enough)."""
    return len(head) >= 4 and any(struct.unpack_from(order + "I", head)[0] in _MAGICS for order in "<>")


def parse_header(header: bytes) -> PcapFormat:
    """Read the 24 bytes at the start of a pcap file, for which :func:`is_pcap` holds."""
    order = "<" if struct.unpack_from("<I", header)[0] in _MAGICS else ">"
    magic, _major, _minor, _zone, _digits, snaplen, link = struct.unpack_from(order + "IHHiIII", header)
    unit_ns, header_bytes = _MAGICS[magic]
    return PcapFormat(order, unit_ns, header_bytes, link & _LINKTYPE_MASK, snaplen)
