"""Capture files to frames: several files in order, each of any known format, in batches of bounded size."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

import numpy as np

from rdstool.capture.columns import Bytes, FrameBatch
from rdstool.capture.counts import FrameCounts
from rdstool.capture.files import pcap
from rdstool.capture.files.records import Format, Records
from rdstool.capture.files.source import Input, Wait, open_input, wait_for_growth
from rdstool.capture.files.window import Window
from rdstool.errors import CaptureError

CHUNK_BYTES = 32 << 20
"""How much of a file is looked at at once; a batch of frames is what one chunk brought."""
DETECTION_BYTES = 24
"""No file of a known format is shorter."""
DETECTION_LIMIT_BYTES = 64 << 10
"""How much of a file is looked at to find its format."""
_CONVERT = "convert it to pcapng first (editcap -F pcapng)"
_OTHER_MAGICS = {
    b"BZh": "compressed with bzip2: decompress it first",
    b"\x04\x22\x4d\x18": "compressed with lz4: decompress it first",
    b"PK\x03\x04": "a zip archive: unpack it first",
    b"snoop\0": f"a snoop file: {_CONVERT}",
    b"RTSS": f"a Network Monitor file: {_CONVERT}",
    b"GMBU": f"a Network Monitor file: {_CONVERT}",
}

__all__ = ["CHUNK_BYTES", "FrameCounts", "FrameReader", "read_frames"]


class FrameReader:
    """The frames of several files in order. Numbers of frames run on from file to file.

    A broken file ends with its last good frame; the files behind it are read all the same, and the first error is
    raised at the end. With ``follow`` only the last file is waited for, and an error is raised at once.
    """

    def __init__(
        self,
        paths: Sequence[str],
        *,
        follow: bool = False,
        chunk_bytes: int = CHUNK_BYTES,
        wait: Wait = wait_for_growth,
    ) -> None:
        self.paths = list(paths)
        self.bases: list[int] = []
        """For each file that was begun, how many frames came before it."""
        self.frames = 0
        """Frames read so far."""
        self.consumed = 0
        """Bytes of all files, as they lie on disk, that were read so far."""
        self._follow = follow
        self._chunk_bytes = chunk_bytes
        self._wait = wait

    def __iter__(self) -> Iterator[FrameBatch]:
        """Yield batches, of at least one frame each. Raises CaptureError after the last good one."""
        first_error: CaptureError | None = None
        for index, path in enumerate(self.paths):
            before = self.consumed
            self.bases.append(self.frames)
            follow = self._follow and index == len(self.paths) - 1
            try:
                with open_input(path, follow=follow, wait=self._wait) as source:
                    for batch in batches_of(source, index, self.frames + 1, self._chunk_bytes):
                        self.frames += len(batch)
                        self.consumed = before + batch.consumed
                        yield batch
            except CaptureError as error:
                if self._follow:
                    raise
                first_error = first_error or error
        if first_error is not None:
            raise first_error

    def frame_label(self, frame: int) -> tuple[int, int]:
        """Return (index of the file, number of the frame within it from 1) for a frame of the capture."""
        file = max(bisect_right(self.bases, frame - 1) - 1, 0)
        return file, frame - self.bases[file]


def read_frames(
    paths: Sequence[str],
    *,
    follow: bool = False,
    chunk_bytes: int = CHUNK_BYTES,
    wait: Wait = wait_for_growth,
) -> Iterator[FrameBatch]:
    """Yield the frames of ``paths``; see :class:`FrameReader`, which also tells where each file began."""
    return iter(FrameReader(paths, follow=follow, chunk_bytes=chunk_bytes, wait=wait))


def batches_of(source: Input, file: int, first_frame: int, chunk_bytes: int = CHUNK_BYTES) -> Iterator[FrameBatch]:
    """Yield the frames of one input. Raises CaptureError with the position in the decompressed bytes."""
    window = Window(source, chunk_bytes)
    found = detect(window)
    if found is not None:
        yield from scan_window(window, *found, file, first_frame)


def scan_window(window: Window, form: Format, start: int, file: int, first_frame: int) -> Iterator[FrameBatch]:
    """Yield the frames from ``window.data[start]``, a boundary between records, to the end of the input.

    Raises CaptureError where a record cannot be, or is not whole at the end of the input.
    """
    source = window.source
    while True:
        records = form.scan(window.data, start, window.end)
        if len(records):
            yield batch_of(records, window.data[: window.end], file, first_frame, source.consumed)
            first_frame += len(records)
        position = window.base + records.end
        if records.problem is not None:
            raise CaptureError(f"{source.name}: byte {position}: {records.problem}", position)
        if records.more:
            start = records.end
            continue
        left = window.end - records.end
        if not window.slide(records.end, records.wanted):
            break
        start = 0
    if left and not source.follow:
        raise cut_off(source.name, left, records.wanted, position)


def cut_off(name: str, left: int, wanted: int, position: int) -> CaptureError:
    """What is wrong with a file that ends with ``left`` of the ``wanted`` bytes of the record at ``position``."""
    there = f"{left} of {wanted} bytes of the record at byte {position}"
    return CaptureError(f"{name}: the file ends too early, with {there}", position)


def detect(window: Window) -> tuple[Format, int] | None:
    """Find the format of a file from its beginning, and where its records begin.

    None: a followed file stayed too short. Raises CaptureError for what is no capture.
    """
    size = DETECTION_BYTES
    head, whole = b"", False
    erf_possible: bool | None = None
    while not whole and erf_possible is None and len(head) < DETECTION_LIMIT_BYTES:
        whole = not window.slide(0, size)
        head = window.data[: min(window.end, DETECTION_LIMIT_BYTES)].tobytes()
        size = window.end + DETECTION_BYTES
        if len(head) < DETECTION_BYTES:
            continue
        if pcap.is_pcap(head):
            return pcap.parse_header(head), pcap.FILE_HEADER_BYTES
        # The other formats are loaded where they are needed: together they take as long as 20,000 frames.
        from rdstool.capture.files import erf, pcapng  # noqa: PLC0415

        if pcapng.is_pcapng(head):
            return pcapng.PcapngFormat(), 0
        erf_possible = erf.is_erf(head, whole and not window.source.follow)
    if erf_possible:
        return erf.ErfFormat(), 0
    if whole and window.source.follow:
        return None
    raise CaptureError(f"{window.source.name}: {_no_capture(head)}", 0)


def _no_capture(head: bytes) -> str:
    """Say why no format fits."""
    for magic, advice in _OTHER_MAGICS.items():
        if head.startswith(magic):
            return advice
    if len(head) < DETECTION_BYTES:
        return f"too short for a capture file ({len(head)} bytes)"
    return f"not a capture file: it begins with {head[:4].hex(' ')}; pcap, pcapng and ERF files can be read"


def batch_of(records: Records, data: Bytes, file: int, first_frame: int, consumed: int) -> FrameBatch:
    """What was found in ``data`` as a batch."""
    return FrameBatch(
        data=data,
        frame=np.arange(first_frame, first_frame + len(records), dtype=np.int64),
        offset=records.offset,
        captured=records.captured,
        wire=records.wire,
        time=records.time,
        link=records.link,
        file=file,
        consumed=consumed,
    )
