"""From capture files to numbered RDS messages: the stages of this package, joined."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from os import PathLike, fspath
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dissectors.wire.rds import TCP_PORT
from rdstool.capture.columns import ACK, FRAGMENT, MessageBatch
from rdstool.capture.counts import FrameCounts
from rdstool.capture.events import Event
from rdstool.capture.merge import Merger
from rdstool.capture.message import Message, messages_of
from rdstool.capture.part import Part, PayloadOptions
from rdstool.capture.paths import PathMap
from rdstool.capture.reading import Arrival, Reading, read_ahead, read_here
from rdstool.capture.streams import StreamTable
from rdstool.capture.tcp_streams import TcpStreams
from rdstool.errors import CaptureError

if TYPE_CHECKING:
    from rdstool.capture.ib_streams import IbStreams


@dataclass(frozen=True, slots=True)
class CaptureOptions:
    """How to read. The defaults fit a capture of RDS on its own ports."""

    payloads: bool = False
    """Keep the payload of every message; those of congestion bitmaps are always kept."""
    digests: bool = False
    """Compute the SHA-256 of every complete payload."""
    tcp_ports: frozenset[int] = frozenset({TCP_PORT})
    """TCP ports that carry RDS."""
    follow: bool = False
    """Wait for more at the end of the last file."""
    jobs: int = 1
    """Processes that read and parse."""


@dataclass(slots=True)
class Decoded:
    """What one chunk of the input brought, in capture order."""

    messages: MessageBatch
    acks: NDArray[Any] = field(default_factory=lambda: np.zeros(0, ACK))
    events: list[Event] = field(default_factory=list)
    consumed: int = 0
    """Bytes of the input, as it lies on disk, that were read up to here."""
    fragments: NDArray[Any] = field(default_factory=lambda: np.zeros(0, FRAGMENT))
    """InfiniBand frames; ``message`` is an index into the rows of this batch, -1 for frames of no message."""


class Capture:
    """One or more capture files, read as one. Iterate for messages, or take :meth:`batches` for columns.

    Each of the two starts again at the beginning; ``streams`` and ``frames`` tell of the latest run.
    """

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
        options = PayloadOptions(keep_payloads=self.options.payloads, digests=self.options.digests)
        tcp = TcpStreams(self.streams, options, self.options.tcp_ports)
        infiniband: IbStreams | None = None
        merger = Merger()
        path_map = PathMap(self.streams)
        consumed = 0
        problem: CaptureError | None = None
        reading = Reading(self.paths, self.options.tcp_ports, self.options.follow)
        arrivals = read_ahead(reading) if self.options.jobs > 1 else read_here(reading)
        with closing(arrivals):
            while True:
                try:
                    arrival = next(arrivals, None)
                except CaptureError as error:
                    arrival, problem = None, error
                if arrival is None:
                    break
                self._note(arrival)
                consumed = arrival.consumed
                parts = [tcp.feed(arrival.parsed.tcp)]
                if len(arrival.parsed.ib):
                    infiniband = infiniband or _infiniband(self.streams, options)
                    parts.append(infiniband.feed(arrival.parsed.ib))
                open_frames = [tcp.settled_frame(), infiniband.settled_frame() if infiniband else None]
                settled = min((frame for frame in open_frames if frame is not None), default=None)
                yield self._decoded(merger.merge(parts, settled), path_map, consumed)
        rest = [tcp.finish()] + ([infiniband.finish()] if infiniband else [])
        yield self._decoded(merger.merge(rest, None), path_map, consumed)
        if problem is not None:
            raise problem

    def _note(self, arrival: Arrival) -> None:
        self.frames = arrival.counts
        while len(self._file_starts) <= arrival.file:
            self._file_starts.append(arrival.first_frame)

    def _decoded(self, part: Part, path_map: PathMap, consumed: int) -> Decoded:
        rows = part.rows
        path_map.observe(rows, part.events)
        if len(rows):
            streams, inverse = np.unique(rows["stream"], return_inverse=True)
            paths = np.array([self.streams[number].path for number in streams.tolist()], np.int8)
            rows["path"] = paths[inverse]
        messages = MessageBatch(rows, part.payloads, part.digests, part.rdma)
        return Decoded(messages, part.acks, part.events, consumed, part.fragments)


def _infiniband(streams: StreamTable, options: PayloadOptions) -> IbStreams:
    from rdstool.capture.ib_streams import IbStreams  # noqa: PLC0415 - a third of the start-up time, often not needed

    return IbStreams(streams, options)


def open_capture(
    paths: str | PathLike[str] | Sequence[str | PathLike[str]], options: CaptureOptions | None = None
) -> Capture:
    """Open one capture file, or several that are read in order; ``-`` is standard input.

    Raises ``CaptureError`` on first use where a file cannot be read.
    """
    several = [paths] if isinstance(paths, str | PathLike) else paths
    return Capture([fspath(path) for path in several], options or CaptureOptions())
