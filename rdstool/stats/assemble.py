"""From accumulators to results: what lanes and sockets gathered is joined into paths, ports and connections."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dissectors.wire.rds import MAX_PATHS
from rdstool.capture.columns import NS_PER_S
from rdstool.capture.streams import Coverage, StreamTable
from rdstool.protocol.kinds import MessageKind, Transport
from rdstool.stats.acks import Acknowledgements, Flight, Outcome
from rdstool.stats.groups import OTHERS, Lanes
from rdstool.stats.histogram import Distribution, Histograms
from rdstool.stats.model import FlightStats, LatencyStats, Seen, SizeCount
from rdstool.stats.traffic import Tally, Traffic

_FEW = 16
_KIND_LABELS = tuple(kind.label for kind in MessageKind)
_OUTCOME_WORDS = tuple(outcome.words for outcome in Outcome if outcome is not Outcome.MEASURED)
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
    seen = missing = gaps = unassigned = retransmitted = 0
    for coverage in coverages:
        seen += coverage.seen
        missing += coverage.missing
        gaps += coverage.gaps
        unassigned += coverage.unassigned
        retransmitted += coverage.retransmitted
    share = seen / (seen + missing) if seen or missing else None
    unit = "bytes" if transport is Transport.TCP else "packets"
    return Seen(unit, seen, missing, gaps, unassigned, retransmitted, share)


@dataclass(frozen=True, slots=True)
class Span:
    """Times of the first and last of some messages, ns; clocks that count from boot are left out where others exist."""

    first: int | None
    last: int | None

    @classmethod
    def of(cls, tallies: Iterable[tuple[Tally, Sequence[int]]]) -> Span:
        """Over groups of tallies."""
        times: list[int] = []
        for tally, groups in tallies:
            count = len(tally.messages)
            for group in groups:
                if group < count and tally.messages.item(group):
                    times += tally.first.item(group), tally.last.item(group)
        wall = [time for time in times if time >= YEAR_2000_NS] or times
        return cls(min(wall), max(wall)) if wall else cls(None, None)

    @property
    def begin(self) -> float | None:
        """Beginning, in seconds since 1970."""
        return None if self.first is None else at_second(self.first)

    @property
    def end(self) -> float | None:
        """End, in seconds since 1970."""
        return None if self.last is None else at_second(self.last)

    @property
    def seconds(self) -> float | None:
        """Length in seconds."""
        return None if self.first is None or self.last is None else (self.last - self.first) / NS_PER_S

    def rate(self, amount: int) -> float | None:
        """``amount`` per second; None where no time passed."""
        return amount / self.seconds if self.seconds else None


def sum_of(column: NDArray[np.int64], groups: Sequence[int]) -> int:
    """Sum over some groups. Groups beyond the end of the column count nothing."""
    count = len(column)
    # NumPy's own sums take longer than a few additions, and most groups are of one or two.
    if len(groups) == 1:
        return column.item(groups[0]) if groups[0] < count else 0
    if len(groups) < _FEW:
        return sum([column.item(group) for group in groups if group < count])
    return int(column[[group for group in groups if group < count]].sum())


class Count(NamedTuple):
    """Messages and their bytes."""

    messages: int
    bytes: int


def count_of(tally: Tally, groups: Sequence[int]) -> Count:
    """Messages and bytes of some groups."""
    return Count(sum_of(tally.messages, groups), sum_of(tally.bytes, groups))


def kinds_of(counts: NDArray[np.int64]) -> dict[str, int]:
    """Messages by the kind's name, only kinds that occur."""
    return {label: count for label, count in zip(_KIND_LABELS, counts.tolist(), strict=True) if count}


def sizes_of(sizes: Histograms, rows: Sequence[int]) -> list[SizeCount]:
    """The size histogram of some lanes."""
    return [SizeCount(part.low, part.high, part.count) for part in sizes.ranges(rows)]


def latency_of(distribution: Distribution | None, outcomes: Sequence[int]) -> LatencyStats:
    """Latencies in seconds; ``outcomes`` counts messages by :class:`~rdstool.stats.acks.Outcome`."""
    not_measured = zip(_OUTCOME_WORDS, outcomes[Outcome.MEASURED + 1 :], strict=True)
    return latency_with(distribution, {words: count for words, count in not_measured if count})


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
    outcomes = [0] * len(Outcome)
    rows = []
    known, judged = len(acks.lane_outcomes), len(acks.doubtful)
    for lane in group:
        own = acks.lane_outcomes[lane].tolist() if lane < known else [0] * len(Outcome)
        if lane // 2 < judged and acks.doubtful.item(lane // 2):
            own[Outcome.CLOCK] += own[Outcome.MEASURED]
            own[Outcome.MEASURED] = 0
        elif (row := lanes.histogram.item(lane)) != OTHERS:
            rows.append(row)
        outcomes = [one + other for one, other in zip(outcomes, own, strict=True)]
    return latency_of(acks.latency.distribution(rows) if rows else None, outcomes)


def flight_of(flight: Flight, groups: Sequence[int]) -> FlightStats:
    """Bytes in flight over some groups that were not in use at one time (streams of one path)."""
    known = [group for group in groups if group < len(flight.peak)]
    used = [group for group in known if flight.end.item(group)]
    duration = sum_of(flight.end, used) - sum_of(flight.begin, used)
    mean = sum([flight.byte_ns.item(group) for group in used]) / duration if duration > 0 else None
    peak = max([flight.peak.item(group) for group in known], default=0)
    return FlightStats(peak, None if mean is None else round(mean, 1))


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
