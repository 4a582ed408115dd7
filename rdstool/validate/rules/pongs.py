"""RDS-MPR-001: every ping has its pong, on the connection that it came on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rdstool.protocol.kinds import MessageKind
from rdstool.validate.check import Batch, Check, Context
from rdstool.validate.rules.multipath_rules import PONG
from rdstool.validate.view import REORDER_FRAMES

PONG_WAIT_NS = 5_000_000_000
"""A pong is missing when the pinging side went on for so long without it: TCP may have to send it several times."""
MAX_PINGS = 16384
"""Pings that wait for their pong at one time."""


@dataclass(slots=True)
class _Ping:
    frame: int
    time: int
    number: int


class PongCheck(Check):
    """Follows pings over TCP, probes too."""

    rules = (PONG,)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._pings: dict[tuple[int, int], _Ping] = {}
        """(flow of the ping, its port) -> the last one that waits."""
        self._early_pongs: dict[tuple[int, int], int] = {}
        """The same -> frame of a pong that no ping was waiting for."""
        self._congested: set[int] = set()
        """Pairs in which some port was congested: pongs to it are not sent."""

    def feed(self, batch: Batch) -> None:
        """Match pings and pongs of TCP."""
        view, kinds = batch.view, batch.view.kind
        for row, ports in batch.bitmaps.items():
            if ports:
                self._congested.add(self.context.streams[int(view.stream[row])].pair)
        some = (kinds >= MessageKind.PING) & (kinds <= MessageKind.PROBE_REPLY) & view.tcp
        rows = np.flatnonzero(some)
        asks = np.isin(kinds[rows], (MessageKind.PING, MessageKind.PROBE)).tolist()
        for row, asked in zip(rows.tolist(), asks, strict=True):
            flow = int(view.flow[row])
            frame = int(view.frame[row])
            if asked:
                key = flow, int(view.sport[row])
                if frame - self._early_pongs.pop(key, -REORDER_FRAMES) < REORDER_FRAMES:
                    continue
                if key not in self._pings and len(self._pings) < MAX_PINGS:
                    time, number = int(view.time[row]), int(view.number[row])
                    self._pings[key] = _Ping(frame, time, number)
            else:
                key = flow ^ 1, int(view.dport[row])
                if self._pings.pop(key, None) is None and len(self._early_pongs) < MAX_PINGS:
                    self._early_pongs[key] = frame

    def finish(self) -> None:
        """Tell of the pings that still wait."""
        connections, continuity = self.context.connections, self.context.continuity
        for (flow, port), ping in self._pings.items():
            closed = connections.closed.get(flow >> 1)
            # What the pinging side sends later acknowledges what it has received: more than was seen is a hole.
            until = connections.last_time.one(flow)
            heard = connections.first_frame.one(flow ^ 1)
            whole = heard and continuity.whole(flow ^ 1, ping.frame)
            if self.context.streams[flow >> 1].pair in self._congested:
                continue
            if closed is not None or not whole or until - ping.time < PONG_WAIT_NS:
                continue
            self.report.at(
                PONG,
                f"{self.who(flow >> 1, flow & 1)}: the ping from port {port} has no answer on its connection",
                ping.frame,
                ping.time,
                stream=flow >> 1,
                number=ping.number,
            )
