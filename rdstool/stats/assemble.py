"""From accumulators to results: what lanes and sockets gathered is joined into paths, ports and connections."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dissectors.wire.rds import MAX_PATHS
from rdstool.capture.columns import NS_PER_S, Ints
from rdstool.capture.streams import Coverage, StreamTable
from rdstool.protocol.kinds import MessageKind, Transport
from rdstool.stats.acks import Acknowledgements, Flight, Outcome
from rdstool.stats.groups import OTHERS, Lanes
from rdstool.stats.histogram import Distribution, Histograms
from rdstool.stats.model import FlightStats, LatencyStats, Seen, SizeCount
from rdstool.stats.traffic import Tally, Traffic

YEAR_2000_NS = 946_684_800 * NS_PER_S
"""A capture's clock that shows less counts from boot: Soft-RoCE stamps received frames so (protocol.md §13)."""


def at_second(time: int) -> float:
    """Seconds since 1970 from ns since 1970."""
    return round(time / NS_PER_S, 9)


def path_or_none(path: int) -> int | None:
    """A path as results have it."""
    return path if path >= 0 else None


def seen_of(coverages: Iterable[Coverage], transport: Transport) -> Seen:
    """Sum of several lanes' coverage."""
    total = Seen("bytes" if transport is Transport.TCP else "packets", 0, 0, 0, 0, 0, None)
    for coverage in coverages:
        total.seen += coverage.seen
        total.missing += coverage.missing
        total.gaps += coverage.gaps
        total.unassigned += coverage.unassigned
        total.retransmitted += coverage.retransmitted
    expected = total.seen + total.missing
    total.coverage = total.seen / expected if expected else None
    return total


@dataclass(frozen=True, slots=True)
class Span:
    """Times of the first and last of some messages, ns; clocks that count from boot are left out where others exist."""

    first: int | None
    last: int | None

    @classmethod
    def of(cls, tallies: Iterable[tuple[Tally, Sequence[int]]]) -> Span:
        """Over groups of tallies."""
        firsts, lasts = [], []
        for tally, groups in tallies:
            used = [group for group in groups if group < len(tally.messages) and tally.messages[group]]
            firsts += tally.first[used].tolist()
            lasts += tally.last[used].tolist()
        times = firsts + lasts
        wall = [time for time in times if time >= YEAR_2000_NS] or times
        return cls(min(wall), max(wall)) if wall else cls(None, None)

    @property
    def begin(self) -> float | None:
        """Seconds since 1970."""
        return None if self.first is None else at_second(self.first)

    @property
    def end(self) -> float | None:
        """Seconds since 1970."""
        return None if self.last is None else at_second(self.last)

    @property
    def seconds(self) -> float | None:
        """Length."""
        return None if self.first is None or self.last is None else (self.last - self.first) / NS_PER_S

    def rate(self, amount: int) -> float | None:
        """``amount`` per second; None where no time passed."""
        return amount / self.seconds if self.seconds else None


def count_of(tally: Tally, groups: Iterable[int]) -> tuple[int, int]:
    """Messages and bytes of some groups."""
    known = [group for group in groups if group < len(tally.messages)]
    return int(tally.messages[known].sum()), int(tally.bytes[known].sum())


def kinds_of(counts: NDArray[np.int64]) -> dict[str, int]:
    """Messages by the kind's name, only kinds that occur."""
    return {kind.label: int(counts[kind]) for kind in MessageKind if counts[kind]}


def sizes_of(sizes: Histograms, rows: Sequence[int]) -> list[SizeCount]:
    """The size histogram of some lanes."""
    return [SizeCount(part.low, part.high, part.count) for part in sizes.ranges(rows)]


def latency_of(distribution: Distribution | None, outcomes: Ints) -> LatencyStats:
    """Latencies in seconds; ``outcomes`` counts messages by :class:`~rdstool.stats.acks.Outcome`."""
    reasons = {
        outcome.words: int(outcomes[outcome])
        for outcome in Outcome
        if outcome is not Outcome.MEASURED and outcomes[outcome]
    }
    return latency_with(distribution, reasons)


def latency_with(distribution: Distribution | None, reasons: dict[str, int]) -> LatencyStats:
    """Latencies in seconds, and why others were not measured."""
    if distribution is None:
        return LatencyStats(0, None, None, None, None, None, None, reasons)

    def seconds(value: float) -> float:
        return round(value / NS_PER_S, 9)

    return LatencyStats(
        measured=distribution.count,
        minimum=seconds(distribution.minimum),
        mean=seconds(distribution.mean),
        p50=seconds(distribution.p50),
        p90=seconds(distribution.p90),
        p99=seconds(distribution.p99),
        maximum=seconds(distribution.maximum),
        not_measured=reasons,
    )


def lane_latency(acks: Acknowledgements, lanes: Lanes, group: Sequence[int]) -> LatencyStats:
    """Latency over some lanes. Lanes whose clocks proved not comparable are left out whole."""
    outcomes = np.zeros(len(Outcome), np.int64)
    rows = []
    for lane in group:
        counts = acks.lane_outcomes[lane].copy() if lane < len(acks.lane_outcomes) else outcomes * 0
        if lane // 2 < len(acks.doubtful) and acks.doubtful[lane // 2]:
            counts[Outcome.CLOCK] += counts[Outcome.MEASURED]
            counts[Outcome.MEASURED] = 0
        elif lanes.histogram[lane] != OTHERS:
            rows.append(int(lanes.histogram[lane]))
        outcomes += counts
    return latency_of(acks.latency.distribution(rows), outcomes)


def flight_of(flight: Flight, groups: Iterable[int]) -> FlightStats:
    """Bytes in flight over some groups that were not in use at one time (streams of one path)."""
    known = [group for group in groups if group < len(flight.peak)]
    used = [group for group in known if flight.end[group]]
    duration = int((flight.end[used] - flight.begin[used]).sum())
    mean = float(flight.byte_ns[used].sum()) / duration if duration > 0 else None
    return FlightStats(int(flight.peak[known].max(initial=0)), None if mean is None else round(mean, 1))


def coverage_of(streams: StreamTable, lane: int) -> Coverage:
    """Coverage of a lane."""
    return streams[lane >> 1].coverage[lane & 1]


def agreed_paths(announced: Iterable[int | None]) -> int | None:
    """Number of paths from what both sides announced; None without any announcement."""
    said = [count or 1 for count in announced]
    return max(1, min(MAX_PATHS, *said)) if said else None


def early_clocks(traffic: Traffic) -> NDArray[np.intp]:
    """Lanes whose timestamps count from boot although others show the time of day."""
    tally = traffic.all
    used = tally.messages > 0
    early = used & (tally.last < YEAR_2000_NS)
    return np.flatnonzero(early) if (used & ~early).any() else np.zeros(0, np.intp)
