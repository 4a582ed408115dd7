"""Connections that were made again, and whether a kernel had started anew in between (protocol.md §4.6, 5.5).

A generation number that changed is proof of a restart. Without one (Linux before 7.0, InfiniBand) the sequence
numbers tell: they go on across a mere reconnection, and begin at 1 again after a restart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dissectors.wire.rds import Flags
from rdstool.capture.streams import Stream, StreamTable
from rdstool.protocol.kinds import Transport
from rdstool.stats.batch import Columns
from rdstool.stats.groups import Lanes
from rdstool.stats.handshakes import Handshakes

RECONNECTS = 10_000
"""Reconnections that are listed."""


@dataclass(frozen=True, slots=True)
class Reconnect:
    """``stream`` took the place of the stream ``before``."""

    stream: Stream
    before: Stream
    kind: str
    """``reconnect``, ``restart`` or ``unknown``."""
    restarted: list[bytes]
    """Addresses whose kernel started anew."""
    basis: str


class Numbering:
    """The first and last sequence number of each lane, and when it was last used."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self.first: NDArray[np.uint64] = np.zeros(0, np.uint64)
        """Sequence number of each lane's first message that was not flagged as sent again; 0 without one."""
        self.last: NDArray[np.uint64] = np.zeros(0, np.uint64)
        self.last_frame: NDArray[np.int64] = np.zeros(0, np.int64)

    def add(self, columns: Columns) -> None:
        """Take in one batch."""
        missing = len(self._lanes) - len(self.last_frame)
        if missing > 0:
            self.first = np.concatenate((self.first, np.zeros(missing, np.uint64)))
            self.last = np.concatenate((self.last, np.zeros(missing, np.uint64)))
            self.last_frame = np.concatenate((self.last_frame, np.zeros(missing, np.int64)))
        self.last_frame[columns.lane] = columns.frame
        # Assignment through repeated indices keeps the last value.
        numbered = np.flatnonzero(columns.sequence > 0)
        lane, sequence = columns.lane[numbered], columns.sequence[numbered]
        self.last[lane] = sequence
        fresh = (self.first[lane] == 0) & (columns.flags[numbered] & Flags.RETRANSMITTED == 0)
        lane, sequence = lane[fresh], sequence[fresh]
        self.first[lane[::-1]] = sequence[::-1]


def find_reconnects(streams: StreamTable, numbering: Numbering, handshakes: Handshakes) -> Iterator[Reconnect]:
    """Streams that carried messages where another of the same address pair and path had ended before."""
    latest: dict[tuple[tuple[bytes, bytes], Transport, int], Stream] = {}
    count = 0
    for stream in streams.streams[: len(numbering.last_frame) // 2]:
        if _last_frame(stream, numbering) == 0 or (stream.transport is Transport.TCP and stream.path < 0):
            continue
        key = stream.address_pair, stream.transport, stream.path
        before = latest.get(key)
        latest[key] = stream
        # Two at one time are no succession: queue pairs of different types of service, or a path that was misjudged.
        if before is not None and _last_frame(before, numbering) <= stream.first_frame and count < RECONNECTS:
            count += 1
            kind, restarted, basis = _classify(streams, stream, before, numbering, handshakes)
            yield Reconnect(stream, before, kind, restarted, basis)


def _last_frame(stream: Stream, numbering: Numbering) -> int:
    return int(numbering.last_frame[2 * stream.number : 2 * stream.number + 2].max())


def _classify(
    streams: StreamTable, stream: Stream, before: Stream, numbering: Numbering, handshakes: Handshakes
) -> tuple[str, list[bytes], str]:
    ended = _last_frame(before, numbering)
    restarts = [
        restart
        for restart in handshakes.restarts
        if restart.address in stream.address_pair
        and ended < restart.frame
        and streams[restart.stream].first_frame <= stream.first_frame
    ]
    if restarts:
        changes = ", ".join(sorted({f"{restart.before:#x} to {restart.after:#x}" for restart in restarts}))
        return "restart", sorted({restart.address for restart in restarts}), f"GEN_NUM changed from {changes}"
    certain = stream.transport is Transport.IB or min(stream.path_confidence, before.path_confidence) == 1.0
    continued = False
    for direction in (0, 1):
        source, _ = stream.ends(direction)
        earlier = before.ends(0)[0].address != source.address
        last = int(numbering.last[2 * before.number + earlier])
        first = int(numbering.first[2 * stream.number + direction])
        # Up to Linux 6.x the accepting side may take it for another path, with a numbering of its own.
        telling = stream.transport is Transport.IB or source.address == stream.address_pair[0]
        if first == 1 and last >= 1 and stream.from_start and telling:
            if certain:
                return "restart", [source.address], f"numbering of {source.host} began at 1 again after {last}"
            return "unknown", [], f"numbering of {source.host} begins at 1, but its path is an inference"
        continued |= first > 1 and last >= 1
    generations = [side.generations for address in stream.address_pair if (side := handshakes.sides.get(address))]
    if any(stream.number in known and before.number in known for known in generations):
        return "reconnect", [], "GEN_NUM unchanged"
    if continued:
        return "reconnect", [], "numbering goes on"
    return "unknown", [], "neither GEN_NUM nor sequence numbers on both connections"
