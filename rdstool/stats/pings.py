"""Ping round trips: a ping and the pong to its port on the same stream (protocol.md §6)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdstool.protocol.kinds import MessageKind
from rdstool.stats.acks import LONGEST_LATENCY_NS
from rdstool.stats.batch import Columns
from rdstool.stats.groups import Lanes
from rdstool.stats.histogram import Histograms

WAITING_PINGS = 1 << 14
"""Pings that may wait for their pong; beyond it the oldest are taken as unanswered."""
_PING = np.dtype([("key", "i8"), ("frame", "i8"), ("time", "i8")])


class Pings:
    """Matches pongs to pings: each pong to the latest ping of its port before it, each ping to one pong.

    Where a socket has more than one ping under way, a round trip can so come out shorter than it was.
    Probes of the multipath handshake count as pings of port 1.
    """

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self._waiting: NDArray[Any] = np.zeros(0, _PING)
        self.round_trips = Histograms()
        """ns, by the histogram rows of the pings' lanes."""
        self.sent: dict[int, int] = {}
        """Pings by lane."""
        self.answered: dict[int, int] = {}
        self.clock: dict[int, int] = {}
        """Answered pings whose round trip would be negative or absurdly long."""

    def add(self, columns: Columns) -> None:
        """Take in one batch."""
        kind = columns.kind
        asked = np.flatnonzero((kind == MessageKind.PING) | (kind == MessageKind.PROBE))
        replied = np.flatnonzero((kind == MessageKind.PONG) | (kind == MessageKind.PROBE_REPLY))
        if not len(asked) and not (len(replied) and len(self._waiting)):
            return
        fresh = np.zeros(len(asked), _PING)
        fresh["key"] = columns.lane[asked] << 16 | columns.sport[asked]
        fresh["frame"], fresh["time"] = columns.frame[asked], columns.time[asked]
        _count(self.sent, fresh["key"] >> 16)
        pings = np.concatenate((self._waiting, fresh))
        codes, code = np.unique(pings["key"], return_inverse=True)
        order = np.argsort(code, kind="stable")
        pings, code = pings[order], code[order]

        # The pong travels the other direction of the stream.
        pong_key = (columns.lane[replied] ^ 1) << 16 | columns.dport[replied]
        pong_code = np.searchsorted(codes, pong_key)
        pong_code[pong_code == len(codes)] = 0
        known = codes[pong_code] == pong_key if len(codes) else np.zeros(len(replied), np.bool_)
        replied, pong_code = replied[known], pong_code[known]
        at = np.searchsorted(code << 43 | pings["frame"], pong_code << 43 | columns.frame[replied]) - 1
        fits = (at >= 0) & (code[at] == pong_code)
        at, replied = at[fits], replied[fits]
        at, first = np.unique(at, return_index=True)
        lane = pings["key"][at] >> 16
        trip = columns.time[replied[first]] - pings["time"][at]
        _count(self.answered, lane)
        sane = (trip >= 0) & (trip <= LONGEST_LATENCY_NS)
        _count(self.clock, lane[~sane])
        self.round_trips.add(self._lanes.histogram[lane[sane]], trip[sane])

        unanswered = np.ones(len(pings), np.bool_)
        unanswered[at] = False
        waiting = pings[unanswered]
        self._waiting = waiting[np.argsort(waiting["frame"], kind="stable")][-WAITING_PINGS:]


def _count(counts: dict[int, int], lanes: NDArray[Any]) -> None:
    found, times = np.unique(lanes, return_counts=True)
    for lane, count in zip(found.tolist(), times.tolist(), strict=True):
        counts[lane] = counts.get(lane, 0) + count
