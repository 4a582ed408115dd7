"""Decode in several processes that share the work by pairs of addresses.

Each process reads and parses every *n*-th chunk of the files and places the packets of each owner in shared memory; the
owner of a pair of addresses is the one process that reassembles all streams between them. Where a chunk begins is
known from the one before, so a :class:`Place` goes round, from process to process; parsing and reassembly overlap.
What the owners complete goes to the first process, which brings it into the order of the capture: streams, messages
and all else come out as one process alone would have it.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from itertools import chain, count
from multiprocessing.connection import wait
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from dissectors.wire.icrc import MIN_PACKET_BYTES
from rdstool.capture.columns import Bytes, Fragments, IbPackets, Packets, Segments, pair_key
from rdstool.capture.counts import FrameCounts
from rdstool.capture.crew import ALIGNED_BYTES, Pipe, Shelf, can_fork, crew
from rdstool.capture.events import CmMessage
from rdstool.capture.files.mapped import MappedFiles, Place, map_files
from rdstool.capture.files.records import MAX_FRAMES
from rdstool.capture.packets.ip import MAX_OFFLOAD_BYTES
from rdstool.capture.packets.network import Parsed
from rdstool.capture.part import Part
from rdstool.capture.reading import About, parse_chunk
from rdstool.capture.stages import CaptureOptions, Joining, Ordering, Reach, Stages, Step
from rdstool.capture.streams import Coverage, Endpoint, Stream, StreamTable, Turn
from rdstool.errors import CaptureError
from rdstool.protocol.kinds import Transport

CHUNKS_BYTES = 96 << 20
"""What all processes together look at at once: each takes memory for it."""
_AHEAD = 1
"""Chunks that a process parses beyond those that it waits for to reassemble, besides one of each process."""
_NO_BYTES: Bytes = np.empty(0, np.uint8)
T = TypeVar("T")


@dataclass(slots=True)
class _Table:
    """What a chunk has for one owner. The bytes that the packets refer to are ``[start:end]`` of the file."""

    chunk: int
    file: int
    start: int
    end: int
    reach: Reach
    at: int = 0
    """Where the columns of the packets begin, on the shelf."""
    tcp: int = 0
    """Packets."""
    ib: int = 0
    fragments: int = 0
    """Of IP, those of all owners: how many are kept depends on all of them."""


class _Facts(NamedTuple):
    """What is known of a stream when it is met: the arguments of ``StreamTable.add``."""

    transport: Transport
    a: Endpoint
    b: Endpoint
    initiator_known: bool
    first_frame: int
    from_start: bool


_News = tuple[Turn, int, tuple[Any, ...]]
"""A stream by the number that its owner gave it, and its ``_Facts``: as a plain tuple, which is pickled in half the
time."""
_values = attrgetter(*Coverage.__match_args__)


@dataclass(slots=True)
class _Delivery:
    """What the chunk brought to one owner; streams have the numbers of the owner's own table."""

    parts: list[Part]
    settled: int | None
    news: list[_News]
    """Streams that are new, or were changed."""
    about: About | None
    """From the process that read the chunk."""


@dataclass(slots=True)
class _Last(_Delivery):
    """What an owner has left behind the last chunk."""

    coverage: list[list[tuple[int, ...]]]
    """Of all its streams: the values of ``Coverage`` of both directions."""
    passed_over: bool
    problem: CaptureError | None


def files_to_share(paths: tuple[str, ...], options: CaptureOptions) -> MappedFiles | None:
    """The files, where several processes can read them and it is worth while."""
    if options.payloads or options.follow or not can_fork():
        return None
    files = map_files(paths, min(options.chunk_bytes, CHUNKS_BYTES // options.jobs))
    if files is not None and files.size <= options.jobs * files.chunk_bytes:
        files.close()
        return None
    return files


def decode_shared(files: MappedFiles, options: CaptureOptions, streams: StreamTable) -> Generator[Step]:
    """Decode in ``options.jobs`` processes. Raises ``CaptureError`` where a file is bad, after all that was good."""
    share = _Share(files, options)
    ordering, numbers = Ordering(streams), _Numbers(streams, options.jobs)
    try:
        with crew(options.jobs, _work, share) as workers:
            share.places[0].writer.send(Place())
            while True:
                deliveries: list[_Delivery] = workers.receive()
                parts = numbers.renumber(deliveries)
                settled = min((one.settled for one in deliveries if one.settled is not None), default=None)
                about = next((one.about for one in deliveries if one.about is not None), None)
                last = [one for one in deliveries if isinstance(one, _Last)]
                numbers.finish(last)
                yield ordering.step(parts, settled, about)
                if last:
                    break
    finally:
        share.close()
    if last[0].problem is not None:
        raise last[0].problem


class _Share:
    """What all processes have in common."""

    def __init__(self, files: MappedFiles, options: CaptureOptions) -> None:
        self.files = files
        self.options = options
        size = options.jobs
        self.places = [Pipe() for _ in range(size)]
        """To each process: where its next chunk begins."""
        self.notices = [Pipe() for _ in range(size)]
        """To each process: what is on the shelf for it."""
        self.ahead = size + _AHEAD
        # A process has reassembled all but the last `ahead` chunks when it hands on the place of its next one. So when
        # a place has gone round, all have: the tables of chunks before those are not needed any more.
        self.shelf = Shelf(self.ahead + size, _table_bytes(size, files.chunk_bytes))

    def close(self) -> None:
        """Close files and pipes."""
        self.files.close()
        for pipe in (*self.places, *self.notices):
            pipe.close()


def _work(share: _Share, number: int, deliver: Callable[[Any], None]) -> None:
    _Worker(share, number, deliver).run()


class _Worker:
    """One process: reads every n-th chunk, owns every n-th pair of addresses."""

    def __init__(self, share: _Share, number: int, deliver: Callable[[Any], None]) -> None:
        self._share = share
        self._number = number
        self._deliver = deliver
        self._streams = StreamTable()
        self._streams.on_news = self._note
        self._news: list[_News] = []
        self._stages = Stages(share.options, self._streams)
        self._joining = Joining(share.options)
        self._there: dict[int, _Table] = {}
        """Chunks that are on the shelf and wait for this process."""
        self._read: dict[int, About] = {}
        self._mapped: dict[int, Bytes] = {}
        """What this process has read, until it has reassembled its own part of it: mapping pages again takes time."""
        self._done = 0
        """Chunks that this process has reassembled."""

    def run(self) -> None:
        """Take part until the end of the last file."""
        for chunk in count(self._number, self._share.options.jobs):
            self._reassemble(chunk - self._share.ahead)
            place = self._next_place()
            behind = self._parse(place)
            if behind.chunk == place.chunk:
                break
        self._reassemble(behind.chunk)
        parts = self._stages.finish()
        coverage = [[_values(half) for half in stream.coverage] for stream in self._streams.streams]
        self._deliver(_Last(parts, None, self._news, None, coverage, self._streams.passed_over, behind.problem))

    def _next_place(self) -> Place:
        """Where the next chunk of this process begins. What is there is reassembled until that is known."""
        places, notices = self._share.places[self._number].reader, self._share.notices[self._number].reader
        while not places.poll():
            if self._done in self._there:
                self._reassemble(self._done + 1)
            elif notices in wait([places, notices]):
                self._look()
        place: Place = places.recv()
        return place

    def _parse(self, place: Place) -> Place:
        """Parse the chunk at ``place`` for all owners, and hand on the place behind it, which it returns."""
        share = self._share
        batch, behind = share.files.next(place)
        share.places[(self._number + 1) % share.options.jobs].writer.send(behind)
        if batch is not None:
            parsed, self._read[place.chunk] = parse_chunk(
                batch, share.options.tcp_ports, batch.consumed, tcp_checksums=share.options.tcp_checksums
            )
            end = batch.consumed - place.read
            self._mapped[place.chunk] = batch.data
            self._spread(parsed, _Table(place.chunk, batch.file, end - len(batch.data), end, Reach.of(parsed)))
        return behind

    def _reassemble(self, until: int) -> None:
        """Take the chunks before ``until``, waiting for them."""
        for chunk in range(self._done, until):
            while chunk not in self._there:
                self._look()
            about = self._read.pop(chunk, None)
            parts, settled = self._stages.feed(*self._own(self._there.pop(chunk), about))
            self._deliver(_Delivery(parts, settled, self._news, about))
            self._news = []
            self._done = chunk + 1

    def _look(self) -> None:
        """Wait for the next chunk on the shelf."""
        table: _Table = self._share.notices[self._number].reader.recv()
        self._there[table.chunk] = table

    def _spread(self, parsed: Parsed, table: _Table) -> None:
        """Place the packets of each owner on the shelf."""
        size, shelf = self._share.options.jobs, self._share.shelf
        tcp_owner, ib_owner = _owners(parsed.tcp, size), _owners(parsed.ib, size)
        at = shelf.put(table.chunk, 0, parsed.fragments.columns(), np.arange(len(parsed.fragments)))
        for owner, notice in enumerate(self._share.notices):
            tcp, ib = np.flatnonzero(tcp_owner == owner), np.flatnonzero(ib_owner == owner)
            behind = shelf.put(table.chunk, at, parsed.tcp.columns(), tcp)
            behind = shelf.put(table.chunk, behind, parsed.ib.columns(), ib)
            notice.writer.send(replace(table, at=at, tcp=len(tcp), ib=len(ib), fragments=len(parsed.fragments)))
            at = behind

    def _own(self, table: _Table, about: About | None) -> tuple[Parsed, Reach]:
        shelf, own, size = self._share.shelf, self._number, self._share.options.jobs
        tcp, at = shelf.get(table.chunk, table.at, Segments.dtypes().values(), table.tcp)
        ib, _ = shelf.get(table.chunk, at, IbPackets.dtypes().values(), table.ib)
        data = self._mapped.pop(table.chunk, _NO_BYTES)
        if not len(data) and (table.tcp or table.ib or table.fragments):
            data = self._share.files.data(table.file, table.start, table.end)
        columns, _ = shelf.get(table.chunk, 0, Fragments.dtypes().values(), table.fragments)
        parsed = Parsed(Segments(data, *tcp), IbPackets(data, *ib), Fragments(data, *columns))
        more = self._joining.feed(parsed.fragments, about.counts if about else FrameCounts())
        if more is None:
            return parsed, table.reach
        reach = table.reach.further(Reach.of(more))
        more.tcp = more.tcp.pick(_owners(more.tcp, size) == own)
        more.ib = more.ib.pick(_owners(more.ib, size) == own)
        return parsed.joined(more), reach

    def _note(self, stream: Stream, turn: Turn) -> None:
        facts = _Facts(
            stream.transport, stream.a, stream.b, stream.initiator_known, stream.first_frame, stream.from_start
        )
        self._news.append((turn, stream.number, tuple(facts)))


def _table_bytes(size: int, chunk_bytes: int) -> int:
    """The most that the columns of a chunk's packets take, for all owners. A frame may hold a burst of packets."""
    kinds = [list(kind.dtypes().values()) for kind in (Segments, IbPackets, Fragments)]
    row = max(sum(column.itemsize for column in columns) for columns in kinds)
    rows = MAX_FRAMES + max(chunk_bytes, MAX_OFFLOAD_BYTES) // MIN_PACKET_BYTES
    return rows * row + ALIGNED_BYTES * size * sum(map(len, kinds))


def _owners(rows: Packets, size: int) -> NDArray[np.uint64]:
    """Which process each packet belongs to."""
    # Multiplied by this, numbers that follow each other are spread evenly.
    mixed = pair_key(rows) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(32)
    return mixed * np.uint64(size) >> np.uint64(32)


class _Numbers:
    """Streams of all owners in one table, numbered as one process alone would number them.

    Each owner follows as many streams as one process would; those beyond the first so many of the whole capture are
    passed over here, with all that was completed on them.
    """

    def __init__(self, streams: StreamTable, size: int) -> None:
        self._streams = streams
        self._number = [array("i") for _ in range(size)]
        """For each owner, its number of a stream -> that of the whole capture; -1 for one that is passed over."""

    def renumber(self, deliveries: list[_Delivery]) -> list[Part]:
        """Enter the new streams of one chunk; returns its parts."""
        news = [
            (turn, owner, number, facts) for owner, one in enumerate(deliveries) for turn, number, facts in one.news
        ]
        for _, owner, number, facts in sorted(news, key=lambda item: item[:2]):
            self._enter(owner, number, _Facts(*facts))
        numbers = [np.array(known) for known in self._number]
        return [
            _renumbered(part, number) for one, number in zip(deliveries, numbers, strict=True) for part in one.parts
        ]

    def _enter(self, owner: int, own_number: int, facts: _Facts) -> None:
        known = self._number[owner]
        if own_number < len(known):
            number = known[own_number]
            if number >= 0:
                self._streams[number].a, self._streams[number].b = facts.a, facts.b
            return
        stream = self._streams.add(
            facts.transport,
            facts.a,
            facts.b,
            initiator_known=facts.initiator_known,
            first_frame=facts.first_frame,
            from_start=facts.from_start,
        )
        known.append(-1 if stream is None else stream.number)

    def finish(self, last: list[_Last]) -> None:
        """What is known of streams only at the end."""
        for owner, one in enumerate(last):
            self._streams.passed_over |= one.passed_over
            for number, coverage in zip(self._number[owner], one.coverage, strict=True):
                if number >= 0:
                    self._streams[number].coverage = Coverage(*coverage[0]), Coverage(*coverage[1])


def _renumbered(part: Part, number: NDArray[Any]) -> Part:
    if number.min(initial=0) < 0:
        part = _followed(part, number >= 0)
    for rows in (part.rows, part.acks, part.fragments):
        if len(rows):
            rows["stream"] = number[rows["stream"]]
    numbers = number.tolist()
    for event in chain(part.events, *part.rdma.values()):
        if event.stream >= 0:
            # They came from another process, so nobody else has them: copies with the other number take much longer.
            object.__setattr__(event, "stream", numbers[event.stream])
    return part


def _followed(part: Part, followed: NDArray[np.bool_]) -> Part:
    """Without what is of streams that are passed over. Messages of RDMA-CM are told whether of a stream or not."""
    kept = followed[part.rows["stream"]]
    place = np.cumsum(kept) - 1

    def beside(items: dict[int, T]) -> dict[int, T]:
        return {int(place[row]): item for row, item in items.items() if kept[row]}

    fragments = part.fragments[followed[part.fragments["stream"]]]
    of_message = fragments["message"] >= 0
    fragments["message"][of_message] = place[fragments["message"][of_message]]
    return Part(
        part.rows[kept],
        beside(part.payloads),
        beside(part.digests),
        part.acks[followed[part.acks["stream"]]],
        [event for event in part.events if event.stream < 0 or followed[event.stream] or isinstance(event, CmMessage)],
        fragments,
        beside(part.rdma),
    )
