"""Parts of one file, so that several processes can read it at the same time."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rdstool.capture import pcap
from rdstool.capture.columns import FrameBatch
from rdstool.capture.files import STANDARD_INPUT, Input, open_input
from rdstool.capture.frames import CHUNK_BYTES, scan_window
from rdstool.capture.window import Window

MIN_PART_BYTES = 1 << 20
"""Files are not cut into smaller parts."""
SEARCH_BYTES = 1 << 20
"""How much is looked at to find where a record begins."""
CHAIN_RECORDS = 16
"""So many headers must follow each other before the first is taken for one."""
MAX_SECONDS_APART = 30 * 24 * 3600
"""Between the first frame of the file and any other, for the search."""
MAX_FRAME_BYTES = 64 << 10
"""The search does not expect larger frames."""


@dataclass(frozen=True, slots=True)
class FileRange:
    """The records of a file that begin in ``start <= byte < stop``."""

    path: str
    start: int
    stop: int


def split_file(path: str, parts: int) -> list[FileRange]:
    """Cut an uncompressed pcap file into at most ``parts`` ranges of about the same size; [] if it cannot be cut.

    Boundaries are guessed from plausible headers. A wrong guess cannot go unnoticed: reading the range in front of it
    ends in CaptureError, since its last record does not end there. Then read the file as a whole.
    """
    if path == STANDARD_INPUT:
        return []
    with open_input(path) as source:
        size = source.size
        head = _read(source, pcap.FILE_HEADER_BYTES + 4)
        if source.compression or size is None or not pcap.is_pcap(head) or len(head) <= pcap.FILE_HEADER_BYTES:
            return []
        form = pcap.parse_header(head)
        (first_seconds,) = struct.unpack_from(f"{form.order}I", head, pcap.FILE_HEADER_BYTES)
        cuts = [pcap.FILE_HEADER_BYTES]
        for part in range(1, min(parts, size // MIN_PART_BYTES)):
            guess = part * size // parts
            source.seek(guess)
            offset = find_record(_read(source, SEARCH_BYTES), form, first_seconds)
            if offset is not None and guess + offset > cuts[-1]:
                cuts.append(guess + offset)
    return [FileRange(path, start, stop) for start, stop in zip(cuts, [*cuts[1:], size], strict=True)]


def read_range(
    part: FileRange, *, file: int = 0, first_frame: int = 1, chunk_bytes: int = CHUNK_BYTES
) -> Iterator[FrameBatch]:
    """Yield the frames of one range; numbers count from ``first_frame``.

    Raises CaptureError where the file is broken, or where the last record does not end at ``stop``.
    """
    with open_input(part.path) as source:
        form = pcap.parse_header(_read(source, pcap.FILE_HEADER_BYTES))
        source.seek(part.start)
        window = Window(source, chunk_bytes, part.stop)
        yield from scan_window(window, form, 0, file, first_frame)


def find_record(data: bytes, form: pcap.PcapFormat, seconds: int) -> int | None:
    """Return the offset of the first record header in a piece from the middle of a file, or None.

    ``seconds`` is the time of another frame of the file, in s since 1970.
    """
    header = struct.Struct(f"{form.order}IIII")
    fractions = 1_000_000_000 // form.unit_ns

    def length_at(position: int) -> int:
        """Length of the record that could be at ``position``, 0 if none could."""
        if position + header.size > len(data):
            return 0
        stamp, fraction, captured, wire = header.unpack_from(data, position)
        if not 0 < captured <= min(wire, MAX_FRAME_BYTES) or fraction >= fractions:
            return 0
        return form.header_bytes + captured if abs(stamp - seconds) <= MAX_SECONDS_APART else 0

    for candidate in _candidates(data[: MAX_FRAME_BYTES + header.size], form):
        position = candidate
        for _ in range(CHAIN_RECORDS):
            length = length_at(position)
            if not length:
                break
            position += length
        else:
            return candidate
    return None


def _candidates(data: bytes, form: pcap.PcapFormat) -> list[int]:
    """Where the two lengths of a record's header can be, a quick first look."""
    if len(data) < form.header_bytes:
        return []
    numbers: NDArray[np.uint32] = np.ndarray((len(data) - 3,), f"{form.order}u4", data, strides=(1,))
    captured, wire = numbers[8:-4], numbers[12:]
    return np.flatnonzero((captured > 0) & (captured <= MAX_FRAME_BYTES) & (captured <= wire)).tolist()


def _read(source: Input, size: int) -> bytes:
    block = bytearray(size)
    view = memoryview(block)
    have = 0
    while have < size and (got := source.readinto(view[have:])):
        have += got
    return bytes(view[:have])
