"""What a run has done from one look at its counters to the next, and as a whole."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rdstool.stress.counters import Counters, Doubling, KeyMeter

_PROC_STAT = Path("/proc/stat")


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
    send_us: float | None
    """Mean duration of a call that sends a request; None where there was none."""
    round_trip_us: float | None
    """Mean; None where there was none."""
    cpu_percent: float
    """Processor time in percent of one processor; of the whole machine where that was asked for."""


@dataclass(frozen=True, slots=True)
class Summary:
    """The whole run, beginning when traffic did."""

    interval: Interval
    p50_us: float | None
    """Median of the round trips; None where there was none, as the others."""
    p99_us: float | None
    longest_us: float | None
    round_trips: list[Doubling]
    keys: KeyMeter


class _Look(NamedTuple):
    """Clocks and counters at one moment, or how much they have advanced between two."""

    seconds: float
    cpu_s: float
    requests_sent: int = 0
    requests_received: int = 0
    acks_sent: int = 0
    acks_received: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    send_us: int = 0
    """In all calls that sent a request."""
    round_trips: int = 0
    round_trips_us: int = 0
    """All round trips together."""
    rdma_bytes_in: int = 0
    rdma_bytes_out: int = 0

    def since(self, before: _Look) -> _Look:
        """What has been added."""
        return _Look._make(new - old for new, old in zip(self, before, strict=True))


class Watch:
    """Takes looks at counters. What they counted before it began is part of the first interval."""

    def __init__(self, counters: Counters, tasks: int, *, whole_machine: bool = False) -> None:
        self._counters = counters
        self._tasks = tasks
        self._cpu_s = _machine_cpu_s if whole_machine else time.process_time
        self._begin = self._last = _Look(time.monotonic(), self._cpu_s())

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
            times.longest_us if times.count else None,
            times.doublings(),
            self._counters.keys,
        )

    def _look(self) -> _Look:
        now = self._counters
        return _Look(
            seconds=time.monotonic(),
            cpu_s=self._cpu_s(),
            requests_sent=now.requests_sent,
            requests_received=now.requests_received,
            acks_sent=now.acks_sent,
            acks_received=now.acks_received,
            bytes_sent=now.bytes_sent,
            bytes_received=now.bytes_received,
            send_us=now.send_us,
            round_trips=now.round_trips.count,
            round_trips_us=now.round_trips.total_us,
            rdma_bytes_in=now.rdma_bytes_in,
            rdma_bytes_out=now.rdma_bytes_out,
        )

    def _between(self, before: _Look, after: _Look) -> Interval:
        new = after.since(before)
        return Interval(
            seconds=new.seconds,
            tasks=self._tasks,
            requests_sent=new.requests_sent,
            requests_received=new.requests_received,
            acks_sent=new.acks_sent,
            acks_received=new.acks_received,
            bytes_sent=new.bytes_sent,
            bytes_received=new.bytes_received,
            rdma_bytes_in=new.rdma_bytes_in,
            rdma_bytes_out=new.rdma_bytes_out,
            send_us=new.send_us / new.requests_sent if new.requests_sent else None,
            round_trip_us=new.round_trips_us / new.round_trips if new.round_trips else None,
            cpu_percent=100 * new.cpu_s / new.seconds if new.seconds else 0.0,
        )


def _machine_cpu_s() -> float:
    """Seconds of processor time that all programs of the machine used, as a share of its processors."""
    first = _PROC_STAT.read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
    user, nice, system, _idle, _wait, *interrupts = map(int, first)
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK") / (os.cpu_count() or 1)
