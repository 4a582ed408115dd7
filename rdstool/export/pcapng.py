"""Writes pcapng files: one section, one Ethernet interface, times in nanoseconds (draft-ietf-opsawg-pcapng)."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

LINKTYPE_ETHERNET = 1
SNAP_BYTES = 262_144
"""Longest frame that the file announces."""

_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_MAGIC = 0x1A2B3C4D
_UNKNOWN_LENGTH = 0xFFFF_FFFF_FFFF_FFFF
_OPTION_USERAPPL, _OPTION_IF_NAME, _OPTION_TSRESOL = 4, 2, 9
_NANOSECONDS = 9
_PACKET_HEAD = struct.Struct("<IIIIIII")


def file_head(application: str) -> bytes:
    """What a file begins with: its section, with the program that wrote it, and its interface, the program itself."""
    section = struct.pack("<IHHQ", _MAGIC, 1, 0, _UNKNOWN_LENGTH) + _option(_OPTION_USERAPPL, application.encode())
    named = _option(_OPTION_IF_NAME, application.encode()) + _option(_OPTION_TSRESOL, bytes([_NANOSECONDS]))
    interface = struct.pack("<HHI", LINKTYPE_ETHERNET, 0, SNAP_BYTES) + named
    return _block(_SECTION, section + bytes(4)) + _block(_INTERFACE, interface + bytes(4))


def frame_block(time_ns: int, data: bytes) -> bytes:
    """An Ethernet frame; ``time_ns`` since 1970."""
    size = len(data)
    padding = -size % 4
    total = 32 + size + padding
    head = _PACKET_HEAD.pack(_PACKET, total, 0, time_ns >> 32, time_ns & 0xFFFF_FFFF, size, size)
    return b"".join((head, data, bytes(padding), total.to_bytes(4, "little")))


class PcapngWriter:
    """A file that frames are added to. What was added is in the file after ``flush`` or ``close``."""

    def __init__(self, path: Path, application: str) -> None:
        """Create the file, or empty it. Raises ``OSError``."""
        self._out: BinaryIO = path.open("wb")
        self._out.write(file_head(application))

    def frame(self, time_ns: int, data: bytes) -> None:
        """Add an Ethernet frame; ``time_ns`` since 1970."""
        self._out.write(frame_block(time_ns, data))

    def flush(self) -> None:
        """Hand everything to the system."""
        self._out.flush()

    def close(self) -> None:
        """Complete the file."""
        self._out.close()


def _block(kind: int, body: bytes) -> bytes:
    total = 12 + len(body)
    return struct.pack("<II", kind, total) + body + struct.pack("<I", total)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)
