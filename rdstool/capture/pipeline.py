"""``open_capture``: capture files as RDS messages, for programs and for people."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from rdstool.capture.counts import FrameCounts
from rdstool.capture.decoding import CaptureOptions, Decoded, decode
from rdstool.capture.streams import StreamTable
from rdstool.errors import CaptureError

if TYPE_CHECKING:
    from rdstool.capture.message import Message

__all__ = ["Capture", "CaptureOptions", "Decoded", "open_capture"]


class Capture:
    """One or more capture files, read as one. Iterate for messages, or take :meth:`batches` for columns.

    Each of the two starts again at the beginning; ``streams`` and ``frames`` tell of the latest run.
    """

    counts_frames = True
    """``frames`` is filled in."""

    def __init__(self, paths: Sequence[str], options: CaptureOptions) -> None:
        self.paths = tuple(paths)
        self.options = options
        self.streams = StreamTable()
        self.frames = FrameCounts()
        self._file_starts: list[int] = []
        self._runs: list[Generator[Decoded]] = []

    @property
    def size(self) -> int | None:
        """Bytes of all files on disk, None where one of them has no size."""
        total = 0
        for path in self.paths:
            file = Path(path)
            if not file.is_file():
                return None
            total += file.stat().st_size
        return total

    def batches(self) -> Iterator[Decoded]:
        """Decode from the beginning, one chunk at a time.

        Raises ``CaptureError`` where a file is bad, after all that could be read was yielded.
        """
        self.streams, self.frames, self._file_starts = StreamTable(), FrameCounts(), []
        run = self._decode()
        self._runs.append(run)
        return run

    def __iter__(self) -> Iterator[Message]:
        from rdstool.capture.message import messages_of  # noqa: PLC0415 - for people; commands do without

        for decoded in self.batches():
            yield from messages_of(decoded.messages, self.streams)

    def frame_label(self, frame: int) -> tuple[int, int]:
        """Index of the file that a frame is in, and its number within that file, from 1."""
        file = max(0, int(np.searchsorted(self._file_starts, frame, side="right")) - 1)
        start = self._file_starts[file] if self._file_starts else 1
        return file, frame - start + 1

    def digests(self, numbers: set[int]) -> dict[int, str]:
        """SHA-256 of the payloads of these messages, by reading the input a second time.

        Messages that are not complete are left out, and all of them where the input can be read only once.
        """
        if self.size is None or not numbers:
            return {}
        found: dict[int, str] = {}
        last = max(numbers)
        again = Capture(self.paths, replace(self.options, digests=True, payloads=False, follow=False))
        try:
            for decoded in again.batches():
                rows = decoded.messages.rows
                for index, digest in decoded.messages.digests.items():
                    number = int(rows[index]["number"])
                    if number in numbers:
                        found[number] = digest
                if len(rows) and int(rows[-1]["number"]) >= last:
                    break
        except CaptureError:
            pass  # The first reading has reported it.
        finally:
            again.close()
        return found

    def close(self) -> None:
        """End what is under way and close the files."""
        for run in self._runs:
            run.close()
        self._runs.clear()

    def __enter__(self) -> Capture:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _decode(self) -> Generator[Decoded]:
        with closing(decode(self.paths, self.options, self.streams)) as steps:
            for step in steps:
                self.frames, self._file_starts = step.frames, step.file_starts
                yield step.decoded


def open_capture(
    paths: str | PathLike[str] | Sequence[str | PathLike[str]], options: CaptureOptions | None = None
) -> Capture:
    """Open one capture file, or several that are read in order; ``-`` is standard input.

    Raises ``CaptureError`` on first use where a file cannot be read.
    """
    several = [paths] if isinstance(paths, str | PathLike) else paths
    return Capture([fspath(path) for path in several], options or CaptureOptions())
