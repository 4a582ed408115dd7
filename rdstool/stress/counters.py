"""What a run has counted, as a whole and from one look to the next."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

_PARTS = 8
"""Buckets for each doubling of a time: a percentile is off by a sixteenth at most."""
_COUNTS = 11
"""Numbers that ``Watch`` looks at, beside the clocks."""
TRACKED_KEYS = 32 << 10
"""Keys of memory regions that are remembered; the oldest are forgotten."""
_PROC_STAT = Path("/proc/stat")


@dataclass(frozen=True, slots=True)
class Doubling:
    """Durations between a power of two and the next."""

    from_us: int
    below_us: int
    count: int


class Times:
    """A distribution of durations in microseconds, in bounded memory."""

    def __init__(self) -> None:
        self.count = 0
        self.total_us = 0
        self.longest_us = 0
        self._buckets: dict[int, int] = {}

    def add(self, us: int) -> None:
        """Count one time."""
        self.count += 1
        self.total_us += us
        self.longest_us = max(self.longest_us, us)
        shift = max(0, us.bit_length() - 1 - _PARTS.bit_length() + 1)
        bucket = shift << 16 | us >> shift
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1

    def percentile_us(self, share: float) -> float:
        """The duration that ``share`` (0 to 1) of all do not exceed; 0 where there is none."""
        wanted = share * self.count
        for bucket in sorted(self._buckets):
            wanted -= self._buckets[bucket]
            if wanted <= 0:
                shift, value = bucket >> 16, bucket & 0xFFFF
                return min(value * (1 << shift) + ((1 << shift) - 1) / 2, self.longest_us)
        return 0.0

    def doublings(self) -> list[Doubling]:
        """How many there were between powers of two, from the shortest to the longest; the first begins at 0."""
        counts: dict[int, int] = {}
        for bucket, count in self._buckets.items():
            least = (bucket & 0xFFFF) << (bucket >> 16)
            power = max(1, least.bit_length()) - 1
            counts[power] = counts.get(power, 0) + count
        powers = range(min(counts), max(counts) + 1) if counts else ()
        return [Doubling(1 << power if power else 0, 2 << power, counts.get(power, 0)) for power in powers]


class KeyMeter:
    """How soon keys of memory regions come again (``--rdma-key-o-meter``)."""

    def __init__(self) -> None:
        self._issued: dict[int, float] = {}
        self.reissued = 0
        self.least_s = 0.0
        self.total_s = 0.0

    def add(self, cookie: int) -> None:
        """A region was registered; the key is in the lower half of its cookie."""
        key, now = cookie & 0xFFFFFFFF, time.monotonic()
        before = self._issued.pop(key, None)
        if before is not None:
            self.least_s = min(self.least_s, now - before) if self.reissued else now - before
            self.total_s += now - before
            self.reissued += 1
        elif len(self._issued) >= TRACKED_KEYS:
            del self._issued[next(iter(self._issued))]
        self._issued[key] = now


@dataclass(slots=True)
class Counters:
    """Messages and bytes of all tasks of one side."""

    requests_sent: int = 0
    requests_received: int = 0
    acks_sent: int = 0
    acks_received: int = 0
    bytes_sent: int = 0
    """Payload."""
    bytes_received: int = 0
    send_us: int = 0
    """Time in calls that sent a request."""
    round_trips: Times = field(default_factory=Times)
    """Time from a request to its ack."""
    rdma_bytes_in: int = 0
    """Moved by RDMA to us: by our reads and by the peer's writes."""
    rdma_bytes_out: int = 0
    keys: KeyMeter = field(default_factory=KeyMeter)
    """Keys of memory that was offered."""
    outlier_us: int | None = None
    """Round trips that take longer are told; None for none."""
    tell: Callable[[str], None] = lambda _line: None
    """Takes a line for people."""

    def round_trip(self, us: int, port: int, peer: str) -> None:
        """An ack has come from ``peer`` to the task of ``port``."""
        self.round_trips.add(us)
        if self.outlier_us is not None and us > self.outlier_us:
            self.tell(f"round trip of {us} us: {port} to {peer}")


@dataclass(frozen=True, slots=True)
class Interval:
    """What happened between two looks."""

    seconds: float
    tasks: int
    requests_sent: int
    requests_received: int
    acks_sent: int
    acks_received: int
    bytes_sent: int
    bytes_received: int
    rdma_bytes_in: int
    """Moved by RDMA."""
    rdma_bytes_out: int
    send_us: float
    """Mean duration of a call that sends a request."""
    round_trip_us: float
    """Mean."""
    cpu_percent: float
    """Processor time in percent of one processor; of the whole machine where that was asked for."""


@dataclass(frozen=True, slots=True)
class Summary:
    """The whole run, beginning when traffic did."""

    interval: Interval
    p50_us: float
    """Median of the round trips."""
    p99_us: float
    longest_us: float
    round_trips: list[Doubling]
    keys: KeyMeter


class Watch:
    """Takes looks at counters. What they counted before is part of the first interval."""

    def __init__(self, counters: Counters, tasks: int, *, whole_machine: bool = False) -> None:
        self._counters = counters
        self._tasks = tasks
        self._cpu = _machine_cpu if whole_machine else time.process_time
        self._begin = self._last = (time.monotonic(), self._cpu(), *[0.0] * _COUNTS)

    def interval(self) -> Interval:
        """What has happened since the last call."""
        before, self._last = self._last, self._look()
        return self._between(before, self._last)

    def summary(self) -> Summary:
        """What has happened since the beginning."""
        times = self._counters.round_trips
        return Summary(
            self._between(self._begin, self._look()),
            times.percentile_us(0.5),
            times.percentile_us(0.99),
            times.longest_us,
            times.doublings(),
            self._counters.keys,
        )

    def _look(self) -> tuple[float, ...]:
        now = self._counters
        return (
            time.monotonic(),
            self._cpu(),
            now.requests_sent,
            now.requests_received,
            now.acks_sent,
            now.acks_received,
            now.bytes_sent,
            now.bytes_received,
            now.send_us,
            now.round_trips.count,
            now.round_trips.total_us,
            now.rdma_bytes_in,
            now.rdma_bytes_out,
        )

    def _between(self, before: tuple[float, ...], after: tuple[float, ...]) -> Interval:
        difference = (new - old for old, new in zip(before, after, strict=True))
        seconds, cpu, sent, received, acks_sent, acks_received, out, back, send_us, trips, trips_us, *rdma = difference
        return Interval(
            seconds=seconds,
            tasks=self._tasks,
            requests_sent=int(sent),
            requests_received=int(received),
            acks_sent=int(acks_sent),
            acks_received=int(acks_received),
            bytes_sent=int(out),
            bytes_received=int(back),
            rdma_bytes_in=int(rdma[0]),
            rdma_bytes_out=int(rdma[1]),
            send_us=send_us / sent if sent else 0.0,
            round_trip_us=trips_us / trips if trips else 0.0,
            cpu_percent=100 * cpu / seconds if seconds else 0.0,
        )


def _machine_cpu() -> float:
    """Seconds of processor time that all programs of the machine used, as a share of its processors."""
    first = _PROC_STAT.read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
    user, nice, system, _idle, _wait, *interrupts = map(int, first)
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK") / (os.cpu_count() or 1)
