"""The stages behind parsing: from the packets of each chunk to messages, and from those to numbered ones in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dissectors.wire.rds import TCP_PORT
from rdstool.capture.columns import ACK, FRAGMENT, Fragments, MessageBatch
from rdstool.capture.counts import FrameCounts
from rdstool.capture.events import Event
from rdstool.capture.files.frames import CHUNK_BYTES
from rdstool.capture.merge import Merger
from rdstool.capture.packets.network import Parsed
from rdstool.capture.part import Part, PayloadOptions
from rdstool.capture.reading import About
from rdstool.capture.streams import StreamTable
from rdstool.capture.tcp.paths import PathMap
from rdstool.capture.tcp.streams import TcpStreams

if TYPE_CHECKING:
    from rdstool.capture.ib.streams import IbStreams
    from rdstool.capture.packets.fragments import Datagrams


@dataclass(frozen=True, slots=True)
class CaptureOptions:
    """How to read. The defaults fit a capture of RDS on its own ports."""

    payloads: bool = False
    """Keep the payload of every message; those of congestion bitmaps are always kept."""
    digests: bool = False
    """Compute the SHA-256 of every complete payload."""
    tcp_ports: frozenset[int] = frozenset({TCP_PORT})
    """TCP ports that carry RDS."""
    tcp_checksums: bool = False
    """Pass over TCP segments whose checksum is wrong, as receivers do."""
    follow: bool = False
    """Wait for more at the end of the last file."""
    jobs: int = 1
    """Processes that share the work up to messages, where the files are plain and longer than a chunk for each;
    no more than :data:`~rdstool.capture.limits.MAX_PROCESSES`."""
    chunk_bytes: int = CHUNK_BYTES
    """How much of a file is looked at at once."""


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


@dataclass(frozen=True, slots=True)
class Reach:
    """How far a chunk goes, whatever part of it a process takes: None where it has nothing of the transport."""

    tcp: tuple[int, int] | None
    """Frame and time of the last TCP segment."""
    ib: int | None
    """Frame of the last InfiniBand packet."""

    @classmethod
    def of(cls, parsed: Parsed) -> Reach:
        """The reach of a whole chunk."""
        tcp, ib = parsed.tcp, parsed.ib
        return cls(
            (int(tcp.frame[-1]), int(tcp.time[-1])) if len(tcp) else None,
            int(ib.frame[-1]) if len(ib) else None,
        )

    def further(self, other: Reach) -> Reach:
        """The end of both."""
        tcp = [last for last in (self.tcp, other.tcp) if last is not None]
        ib = [last for last in (self.ib, other.ib) if last is not None]
        return Reach(max(tcp, default=None), max(ib, default=None))


class Stages:
    """Reassembly: the packets of chunk after chunk in, messages out."""

    def __init__(self, options: CaptureOptions, streams: StreamTable) -> None:
        self._payloads = PayloadOptions(keep_payloads=options.payloads, digests=options.digests)
        self._streams = streams
        self._tcp = TcpStreams(streams, self._payloads, options.tcp_ports)
        self._infiniband: IbStreams | None = None

    def feed(self, parsed: Parsed, reach: Reach) -> tuple[list[Part], int | None]:
        """Take the next chunk. Returns what it brought, and the first frame that more may be completed of."""
        parts = [self._tcp.feed(parsed.tcp, reach.tcp)]
        open_frames = [self._tcp.settled_frame()]
        if len(parsed.ib) or (self._infiniband is not None and reach.ib is not None):
            self._infiniband = self._infiniband or _infiniband(self._streams, self._payloads)
            parts.append(self._infiniband.feed(parsed.ib, reach.ib))
        if self._infiniband is not None:
            open_frames.append(self._infiniband.settled_frame())
        return parts, min((frame for frame in open_frames if frame is not None), default=None)

    def finish(self) -> list[Part]:
        """What the stages still hold."""
        return [self._tcp.finish()] + ([self._infiniband.finish()] if self._infiniband else [])


class Ordering:
    """The stages' parts in capture order, numbered, with the path of each message."""

    def __init__(self, streams: StreamTable) -> None:
        self._streams = streams
        self._merger = Merger()
        self._path_map = PathMap(streams)
        self._frames = FrameCounts()
        self._file_starts: list[int] = []
        self._consumed = 0

    def step(self, parts: Sequence[Part], settled: int | None, about: About | None) -> Step:
        """Take the next chunk; without ``about``, what is left at the end.

        ``settled`` is the first frame that more may be completed of, None where nothing is open.
        """
        if about is not None:
            self._frames.add(about.counts)
            self._consumed = about.consumed
            if self._streams.began is None:
                self._streams.began = about.time
            while len(self._file_starts) <= about.file:
                self._file_starts.append(about.first_frame)
        part = self._merger.merge(parts, settled)
        rows = part.rows
        self._path_map.observe(rows, part.events)
        if len(rows):
            numbers, inverse = np.unique(rows["stream"], return_inverse=True)
            paths = np.array([self._streams[number].path for number in numbers.tolist()], np.int8)
            rows["path"] = paths[inverse]
        messages = MessageBatch(rows, part.payloads, part.digests, part.rdma)
        decoded = Decoded(messages, part.acks, part.events, self._consumed, part.fragments)
        return Step(decoded, self._frames, self._file_starts)


class Joining:
    """IP fragments: those of chunk after chunk in, what they complete out."""

    def __init__(self, options: CaptureOptions) -> None:
        self._options = options
        self._datagrams: Datagrams | None = None

    def feed(self, fragments: Fragments, counts: FrameCounts) -> Parsed | None:
        """Take those of the next chunk; see ``Datagrams.feed``."""
        if not len(fragments):
            return None
        if self._datagrams is None:
            from rdstool.capture.packets.fragments import Datagrams  # noqa: PLC0415 - seldom needed

            self._datagrams = Datagrams(self._options.tcp_ports, tcp_checksums=self._options.tcp_checksums)
        return self._datagrams.feed(fragments, counts)


def _infiniband(streams: StreamTable, options: PayloadOptions) -> IbStreams:
    from rdstool.capture.ib.streams import IbStreams  # noqa: PLC0415 - a third of the start-up time, often not needed

    return IbStreams(streams, options)
