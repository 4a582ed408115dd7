"""Traffic put together by hand, message by message, and summed up."""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import Any

import numpy as np

from dissectors.wire.congestion import bitmap_of
from dissectors.wire.extensions import Extension, build_extensions
from dissectors.wire.rds import HEADER_BYTES, TCP_PORT, Flags
from rdstool.capture.columns import ACK, MESSAGE, MessageBatch
from rdstool.capture.counts import FrameCounts
from rdstool.capture.events import Event, Gap, GapReason
from rdstool.capture.pipeline import Decoded
from rdstool.capture.streams import Endpoint, StreamTable
from rdstool.capture.tcp.paths import PathMap
from rdstool.protocol.kinds import MessageKind, Transport
from rdstool.stats import CaptureStats, Collector
from rdstool.stats.acks import Sent

A, B = "10.0.0.1", "10.0.0.2"
MS = 1_000_000
START = 1_795_406_045 * 10**9


def address(text: str) -> bytes:
    return IPv6Address(f"::ffff:{text}").packed


class Scene:
    """Two hosts; direction 0 of each stream is from A to B. Each step takes one frame and 1 ms."""

    def __init__(self) -> None:
        self.streams = StreamTable()
        self.paths = PathMap(self.streams)
        self.listed: list[Sent] = []
        self.collector = Collector(self.streams, self.listed.append)
        self.frame = 0
        self.now = START
        self.number = 0
        self._ends: dict[tuple[int, int], int] = {}
        self._sequences: dict[tuple[int, int], int] = {}
        self._start_batch()

    def _start_batch(self) -> None:
        self._rows: list[Any] = []
        self._acks: list[Any] = []
        self._events: list[Event] = []
        self._payloads: dict[int, bytes] = {}

    def wait(self, milliseconds: float) -> None:
        self.now += int(milliseconds * MS)

    def _step(self) -> None:
        self.frame += 1
        self.now += MS

    def stream(self, port: int = 40000, transport: Transport = Transport.TCP) -> int:
        self._step()
        ends = Endpoint(address(A), port), Endpoint(address(B), TCP_PORT)
        stream = self.streams.add(transport, *ends, initiator_known=True, first_frame=self.frame, from_start=True)
        assert stream is not None
        return stream.number

    def sends(
        self,
        stream: int,
        *,
        direction: int = 0,
        kind: MessageKind = MessageKind.DATA,
        sport: int = 4001,
        dport: int = 5001,
        length: int = 100,
        sequence: int | None = None,
        flags: int = 0,
        complete: bool = True,
        extensions: list[Extension] | None = None,
    ) -> int:
        """A message; its ``end``."""
        self._step()
        self.number += 1
        lane = stream, direction
        end = self._ends.get(lane, 0) + HEADER_BYTES + length
        number = self._sequences.get(lane, 0) + 1 if sequence is None else sequence
        if kind is MessageKind.CONGESTION:
            number = 0
        else:
            self._sequences[lane] = number
        self._ends[lane] = end
        row = np.zeros(1, MESSAGE)
        for name, value in {
            "number": self.number, "frame": self.frame, "first_frame": self.frame, "time": self.now, "stream": stream,
            "direction": direction, "transport": self.streams[stream].transport, "kind": kind, "path": -1,
            "fragments": 1, "seen": length, "complete": complete, "position": end - length - HEADER_BYTES, "end": end,
        }.items():  # fmt: skip
            row[name] = value
        header = row["header"]
        header["sequence"], header["length"], header["flags"] = number, length, flags
        header["sport"], header["dport"] = sport, dport
        header["exthdr"] = build_extensions(extensions or [])
        self._rows.append(row)
        return end

    def sends_map(self, stream: int, ports: list[int], *, direction: int = 1, complete: bool = True) -> None:
        """A congestion bitmap."""
        self._payloads[len(self._rows)] = bitmap_of(ports)
        self.sends(
            stream, direction=direction, kind=MessageKind.CONGESTION, sport=0, dport=0, length=8192,
            flags=Flags.CONG_BITMAP, complete=complete,
        )  # fmt: skip

    def acks(self, stream: int, end: int, *, direction: int = 0) -> None:
        """Messages of ``direction`` are acknowledged up to ``end``."""
        self._step()
        row = np.zeros(1, ACK)
        row["stream"], row["direction"], row["position"] = stream, direction, end
        row["frame"], row["time"] = self.frame, self.now
        self._acks.append(row)

    def gap(self, stream: int, *, direction: int = 0) -> None:
        self._step()
        self._events.append(Gap(self.frame, self.now, stream, direction, 0, 100, GapReason.NOT_CAPTURED))
        self.streams[stream].coverage[direction].gaps += 1
        self.streams[stream].coverage[direction].missing += 100

    def happens(self, event: Event) -> None:
        self._step()
        self._events.append(event)

    def batch(self) -> None:
        """End a batch and hand it to the statistics."""
        rows = np.concatenate(self._rows) if self._rows else np.zeros(0, MESSAGE)
        acks = np.concatenate(self._acks) if self._acks else np.zeros(0, ACK)
        self.paths.observe(rows, self._events)
        self.collector.take(Decoded(MessageBatch(rows, self._payloads), acks, self._events))
        self._start_batch()

    def stats(self) -> CaptureStats:
        """End the capture and sum it up."""
        self.batch()
        return self.collector.finish(FrameCounts(frames=self.frame, tcp=self.frame))
