"""Plain capture files read chunk by chunk through maps, so that any process can take any chunk.

The chunks are those that :class:`~rdstool.capture.files.frames.FrameReader` makes. Where one begins is known only from
the one before: that is a :class:`Place`, which the processes hand on.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from rdstool.capture.columns import Bytes, FrameBatch
from rdstool.capture.files.frames import batch_of, cut_off, detect
from rdstool.capture.files.records import Format
from rdstool.capture.files.source import STANDARD_INPUT, open_input
from rdstool.capture.files.window import Window
from rdstool.errors import CaptureError

_DETECTION_WINDOW_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Place:
    """A boundary between chunks, and what has to be known to go on from there."""

    file: int = 0
    base: int = 0
    """Where the chunk begins in the file."""
    skip: int = 0
    """Bytes of the file's header in front of its first record."""
    form: Format | None = None
    """None: at the beginning of the file."""
    wanted: int = 0
    """Bytes of the record at ``base``, as far as is known."""
    left: int = 0
    """Bytes of it that were looked at in vain."""
    until: int = 0
    """Where the look at the file ends that is under way, where it brings more than one chunk."""
    first_frame: int = 1
    chunk: int = 0
    """Chunks before this place."""
    read: int = 0
    """Bytes of the files before this one."""
    problem: CaptureError | None = None
    """The first thing that was wrong with a file."""


@dataclass(frozen=True, slots=True)
class _File:
    path: str
    file: BinaryIO
    size: int
    form: Format
    start: int
    """Where the first record begins, in bytes of the file."""


@dataclass(slots=True)
class MappedFiles:
    """Several files in order; numbers of frames run on from file to file."""

    chunk_bytes: int
    files: list[_File] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def close(self) -> None:
        """Close the files; maps live as long as they are in use."""
        for file in self.files:
            file.file.close()

    def next(self, place: Place) -> tuple[FrameBatch | None, Place]:
        """The frames of the chunk at ``place``, and the place behind; None at the end of the last file."""
        while place.file < len(self.files):
            file = self.files[place.file]
            form = place.form or file.form
            skip = place.skip if place.form else file.start
            behind = place.until or place.base + max(self.chunk_bytes, place.wanted, place.left + 1)
            end = min(file.size, behind)
            data = self.data(place.file, place.base, end)
            records = form.scan(data, skip, len(data))
            position, left = place.base + records.end, len(data) - records.end
            problem = None
            if records.problem is not None:
                problem = CaptureError(f"{file.path}: byte {position}: {records.problem}", position)
            elif end == file.size and left and not records.more:
                problem = cut_off(file.path, left, records.wanted, position)
            batch = None
            if len(records):
                batch = batch_of(records, data, place.file, place.first_frame, place.read + end)
            frame, chunk = place.first_frame + len(records), place.chunk + (batch is not None)
            if problem is not None or (end == file.size and not records.more):
                read, first_problem = place.read + end, place.problem or problem
                place = Place(place.file + 1, first_frame=frame, chunk=chunk, read=read, problem=first_problem)
            else:
                place = replace(
                    place,
                    base=position,
                    skip=0,
                    form=form,
                    wanted=records.wanted,
                    left=left,
                    until=end if records.more else 0,
                    first_frame=frame,
                    chunk=chunk,
                )
            if batch is not None:
                return batch, place
        return None, place

    def data(self, file: int, start: int, end: int) -> Bytes:
        """Bytes of a file. Raises CaptureError where it does not have them any more."""
        before = start % mmap.ALLOCATIONGRANULARITY
        size = end - start + before
        try:
            pages = mmap.mmap(self.files[file].file.fileno(), size, access=mmap.ACCESS_READ, offset=start - before)
        except ValueError as error:
            raise CaptureError(f"{self.files[file].path}: became shorter while it was read", start) from error
        except OSError as error:
            raise CaptureError(f"{self.files[file].path}: cannot be read: {error.strerror}", start) from error
        return np.frombuffer(pages, np.uint8)[before:]


def map_files(paths: Sequence[str], chunk_bytes: int) -> MappedFiles | None:
    """Open files to be read through maps; None where one of them is compressed, not a file, or not a capture."""
    mapped = MappedFiles(chunk_bytes)
    try:
        for path in paths:
            file = _open(path)
            if file is None:
                mapped.close()
                return None
            mapped.files.append(file)
    except (CaptureError, OSError):
        # Reading it will tell what is wrong.
        mapped.close()
        return None
    return mapped


def _open(path: str) -> _File | None:
    # What can be read only once must not be touched.
    if path == STANDARD_INPUT or not Path(path).is_file():
        return None
    with open_input(path) as source:
        found = detect(Window(source, _DETECTION_WINDOW_BYTES))
        if found is None or source.compression is not None or source.size is None:
            return None
        return _File(path, Path(path).open("rb"), source.size, *found)
