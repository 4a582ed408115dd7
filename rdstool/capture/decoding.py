"""From capture files to numbered messages: the stages of this package joined, in this process or ahead of it."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dissectors.wire.rds import TCP_PORT
from rdstool.capture.columns import ACK, FRAGMENT, MessageBatch
from rdstool.capture.counts import FrameCounts
from rdstool.capture.events import Event
from rdstool.capture.gather import distinct
from rdstool.capture.merge import Merger
from rdstool.capture.part import Part, PayloadOptions
from rdstool.capture.paths import PathMap
from rdstool.capture.reading import Arrival, Reading, read_ahead, read_here
from rdstool.capture.streams import Stream, StreamTable
from rdstool.capture.tcp_streams import TcpStreams
from rdstool.capture.workers import received, serve, worker
from rdstool.errors import CaptureError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

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
    """With more than one, reading and reassembling run in processes of their own, ahead of this one."""


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


@dataclass(slots=True)
class Step:
    """One chunk, and what is known of the capture after it."""

    decoded: Decoded
    frames: FrameCounts
    file_starts: list[int]
    """Number of the first frame of each file that was begun."""


def decode(paths: tuple[str, ...], options: CaptureOptions, streams: StreamTable) -> Generator[Step]:
    """Decode from the beginning, one chunk at a time, and enter what is found into ``streams``.

    Raises ``CaptureError`` where a file is bad, after all that could be read was yielded.
    """
    if options.jobs > 1 and not options.payloads:
        return _decode_ahead(paths, options, streams)
    return _decode_here(paths, options, streams)


def _decode_here(paths: tuple[str, ...], options: CaptureOptions, streams: StreamTable) -> Generator[Step]:
    reading = Reading(paths, options.tcp_ports, options.follow)
    stages = _Stages(options, streams)
    problem: CaptureError | None = None
    arrivals = read_ahead(reading) if options.jobs > 1 else read_here(reading)
    with closing(arrivals):
        while True:
            try:
                arrival = next(arrivals, None)
            except CaptureError as error:
                arrival, problem = None, error
            if arrival is None:
                break
            yield stages.step(arrival)
    yield stages.last_step()
    if problem is not None:
        raise problem


class _Stages:
    """The stages behind reading, with what they have to remember."""

    def __init__(self, options: CaptureOptions, streams: StreamTable) -> None:
        self._payloads = PayloadOptions(keep_payloads=options.payloads, digests=options.digests)
        self._streams = streams
        self._tcp = TcpStreams(streams, self._payloads, options.tcp_ports)
        self._infiniband: IbStreams | None = None
        self._merger = Merger()
        self._path_map = PathMap(streams)
        self._frames = FrameCounts()
        self._file_starts: list[int] = []
        self._consumed = 0

    def step(self, arrival: Arrival) -> Step:
        """Take the next chunk."""
        self._frames, self._consumed = arrival.counts, arrival.consumed
        while len(self._file_starts) <= arrival.file:
            self._file_starts.append(arrival.first_frame)
        parts = [self._tcp.feed(arrival.parsed.tcp)]
        open_frames = [self._tcp.settled_frame()]
        if len(arrival.parsed.ib):
            self._infiniband = self._infiniband or _infiniband(self._streams, self._payloads)
            parts.append(self._infiniband.feed(arrival.parsed.ib))
        if self._infiniband is not None:
            open_frames.append(self._infiniband.settled_frame())
        settled = min((frame for frame in open_frames if frame is not None), default=None)
        return self._step(self._merger.merge(parts, settled))

    def last_step(self) -> Step:
        """Take what the stages still hold."""
        rest = [self._tcp.finish()] + ([self._infiniband.finish()] if self._infiniband else [])
        return self._step(self._merger.merge(rest, None))

    def _step(self, part: Part) -> Step:
        rows = part.rows
        self._path_map.observe(rows, part.events)
        if len(rows):
            numbers, inverse = np.unique(rows["stream"], return_inverse=True)
            paths = np.array([self._streams[number].path for number in numbers.tolist()], np.int8)
            rows["path"] = paths[inverse]
        messages = MessageBatch(rows, part.payloads, part.digests, part.rdma)
        decoded = Decoded(messages, part.acks, part.events, self._consumed, part.fragments)
        return Step(decoded, self._frames, self._file_starts)


def _infiniband(streams: StreamTable, options: PayloadOptions) -> IbStreams:
    from rdstool.capture.ib_streams import IbStreams  # noqa: PLC0415 - a third of the start-up time, often not needed

    return IbStreams(streams, options)


def _decode_ahead(paths: tuple[str, ...], options: CaptureOptions, streams: StreamTable) -> Generator[Step]:
    """Decode in another process, which reads in yet another one. ``streams`` follows the table over there."""
    with worker(_decode_for, paths, options) as pipe:
        for step, news, streams.refused in received(pipe):
            for stream in news:
                if stream.number == len(streams):
                    streams.streams.append(stream)
                else:
                    _update(streams[stream.number], stream)
            yield step


def _update(stream: Stream, other: Stream) -> None:
    for item in fields(Stream):
        setattr(stream, item.name, getattr(other, item.name))


def _decode_for(paths: tuple[str, ...], options: CaptureOptions, pipe: Connection) -> None:
    serve(_with_news(paths, options), pipe)


def _with_news(paths: tuple[str, ...], options: CaptureOptions) -> Iterator[tuple[Step, list[Stream], int]]:
    """Each step with the streams that are new or were busy in it; the last one with all, for what was learnt late."""
    streams = StreamTable()
    told = 0
    with closing(_decode_here(paths, options, streams)) as steps:
        step = next(steps, None)
        while step is not None:
            # An error ends the steps behind the last one, which has to be told of before.
            problem: CaptureError | None = None
            try:
                after = next(steps, None)
            except CaptureError as error:
                after, problem = None, error
            busy = _busy(step.decoded, told) if after is not None else range(told)
            yield step, [streams[number] for number in (*busy, *range(told, len(streams)))], streams.refused
            told = len(streams)
            step = after
            if problem is not None:
                raise problem


def _busy(decoded: Decoded, known: int) -> list[int]:
    """Streams below ``known`` that this chunk brought anything of."""
    seen = np.concatenate((decoded.messages.rows["stream"], decoded.acks["stream"]))
    numbers = set(distinct(seen).tolist()) | {event.stream for event in decoded.events}
    return sorted(number for number in numbers if 0 <= number < known)
