"""What a run counts: messages, bytes, round trips, and keys of memory regions."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

_PARTS = 8
"""Buckets for each doubling of a time: a percentile is off by a sixteenth at most."""
TRACKED_KEYS = 32 << 10
"""Keys of memory regions that are remembered; the oldest are forgotten."""


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

    def percentile_us(self, share: float) -> float | None:
        """The duration that ``share`` (0 to 1) of all do not exceed; None where there is none."""
        wanted = share * self.count
        for bucket in sorted(self._buckets):
            wanted -= self._buckets[bucket]
            if wanted <= 0:
                shift, value = bucket >> 16, bucket & 0xFFFF
                return min(value * (1 << shift) + ((1 << shift) - 1) / 2, self.longest_us)
        return None

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
