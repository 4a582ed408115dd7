"""The beginning and the end of each flow, kept for what happens when a connection is cut and made again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdstool.capture.columns import Ints
from rdstool.capture.gather import distinct
from rdstool.protocol.kinds import MessageKind
from rdstool.validate.flows import Numbered
from rdstool.validate.view import Mask, PerFlow, View

HEAD_ROWS = 2048
"""Messages kept from the beginning of a flow: what is sent again stands there."""
TAIL_ROWS = 4096
"""Messages, and acknowledgements, kept from the end of a flow: what was under way when it was cut stands there."""
FEWEST_SAMPLES = 8
"""Acknowledgements that make a round trip known: the first few are sent at once, later ones are delayed."""
FOREVER_NS = 1 << 62
MAX_ROWS = 1 << 18
"""Messages kept in all, and as many acknowledgements; the oldest flows are forgotten first."""

RECORD = np.dtype(
    [
        ("number", "i8"),
        ("frame", "i8"),
        ("time", "i8"),
        ("sequence", "i8"),
        ("end", "i8"),
        ("length", "i8"),
        ("sport", "i4"),
        ("dport", "i4"),
        ("kind", "u1"),
        ("flagged", "?"),
        ("complete", "?"),
        ("flow", "i8"),
    ]
)
ACKED = np.dtype([("flow", "i8"), ("position", "i8"), ("frame", "i8"), ("time", "i8")])


@dataclass(frozen=True, slots=True)
class Sent:
    """One message as a flow carried it."""

    number: int
    frame: int
    """In which it was complete; for one that was cut off, in which it began."""
    time: int
    sequence: int
    end: int
    length: int
    sport: int
    dport: int
    kind: int
    flagged: bool
    complete: bool
    flow: int
    acked: int
    """Frame of the acknowledgement that covers it; 0: none was seen."""
    acked_time: int

    @property
    def delivered_to_sockets(self) -> bool:
        """Data and pongs reach an application; pings and the handshake end in the kernel."""
        return self.kind in (MessageKind.DATA, MessageKind.PONG)

    def same(self, other: Sent) -> bool:
        """Ports and length agree."""
        return (self.sport, self.dport, self.length) == (other.sport, other.dport, other.length)


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """From the place of the capture to one end and back, ns; 0 where it is not known."""

    shortest: int = 0
    samples: int = 0

    def joined(self, other: RoundTrip) -> RoundTrip:
        """The round trip of two flows to the same end."""
        known = [trip.shortest for trip in (self, other) if trip.samples]
        return RoundTrip(min(known, default=0), self.samples + other.samples)

    @property
    def known(self) -> bool:
        """Whether enough was seen."""
        return self.samples >= FEWEST_SAMPLES


@dataclass(frozen=True, slots=True)
class Kept:
    """What is known of one flow."""

    sent: list[Sent]
    all: bool
    """Every message is in ``sent``."""
    last_ack: int
    """Highest position acknowledged; 0 without one."""
    trip: RoundTrip
    """Way to the receiver and back, as its acknowledgements show it."""


class Journal:
    """All flows of a capture, within ``MAX_ROWS``. Rows are put in the order of flows when they are asked for."""

    def __init__(self) -> None:
        self._rows: list[NDArray[Any]] = []
        self._acks: list[NDArray[Any]] = []
        self._row_count = self._ack_count = 0
        self._seen = PerFlow(np.int64, 0)
        self._forgotten_below = 0
        """Flows below this may have been given up for room."""

    def add(self, view: View, rows: Numbered) -> None:
        """Take the numbered rows and the acknowledgements of a batch."""
        if len(rows):
            self._rows.append(self._records(view, rows))
            self._row_count += len(rows)
        acks = view.decoded.acks
        if len(acks):
            kept = np.empty(len(acks), ACKED)
            kept["flow"] = acks["stream"].astype(np.int64) * 2 + acks["direction"]
            for name in ("position", "frame", "time"):
                kept[name] = acks[name]
            self._acks.append(kept)
            self._ack_count += len(kept)
        if self._row_count > MAX_ROWS or self._ack_count > MAX_ROWS:
            self._shrink()

    def _records(self, view: View, rows: Numbered) -> NDArray[Any]:
        index, flow = rows.index, rows.flow
        records = np.empty(len(index), RECORD)
        for name in ("number", "time", "end", "length", "sport", "dport", "kind"):
            records[name] = getattr(view, name)[index]
        records["complete"] = whole = view.rows["complete"][index]
        records["frame"] = np.where(whole, view.frame[index], view.first_frame[index])
        records["sequence"], records["flagged"], records["flow"] = rows.sequence, rows.flagged, flow
        at = np.flatnonzero(np.append(True, flow[1:] != flow[:-1]))
        keys = flow[at]
        self._seen[keys] = self._seen[keys] + np.diff(np.append(at, len(flow)))
        return records

    def _shrink(self) -> None:
        """Keep heads and tails; where that is not enough, give up the oldest flows."""
        (row_flow, rows), (ack_flow, acks) = _by_flow(self._rows), _by_flow(self._acks)
        kept_rows, kept_acks = _ends(row_flow, HEAD_ROWS, TAIL_ROWS), _ends(ack_flow, 0, TAIL_ROWS)
        room = MAX_ROWS // 2
        kept = row_flow[kept_rows], ack_flow[kept_acks]
        below = max((int(flow[-room]) for flow in kept if len(flow) > room), default=0)
        self._forgotten_below = max(self._forgotten_below, below)
        rows, acks = rows[kept_rows & (row_flow >= below)], acks[kept_acks & (ack_flow >= below)]
        _put(self._rows, rows, RECORD)
        _put(self._acks, acks, ACKED)
        self._row_count, self._ack_count = len(rows), len(acks)

    def settle(self) -> None:
        """Put everything in order: nothing more will come."""
        for parts, dtype in ((self._rows, RECORD), (self._acks, ACKED)):
            _put(parts, _by_flow(parts)[1], dtype)

    def forgot(self, flow: int) -> bool:
        """The flow was given up for room."""
        return flow < self._forgotten_below

    def flow(self, flow: int) -> Kept | None:
        """What is kept of a flow, after ``settle``; None without messages."""
        rows = _part(self._rows[0], flow)
        if not len(rows):
            return None
        acks = _part(self._acks[0], flow)
        frames, times = np.zeros((2, len(rows)), np.int64)
        trip = RoundTrip()
        if len(acks):
            positions = np.maximum.accumulate(acks["position"])
            place = np.searchsorted(positions, rows["end"], side="left")
            covered = place < len(positions)
            frames[covered], times[covered] = acks["frame"][place[covered]], acks["time"][place[covered]]
            took = (times - rows["time"])[covered & rows["complete"]]
            took = took[took > 0]
            trip = RoundTrip(int(took.min(initial=FOREVER_NS)), len(took))
        values: Any = zip(rows.tolist(), frames.tolist(), times.tolist(), strict=True)
        sent = [Sent(*(*row, frame, time)) for row, frame, time in values]
        last_ack = int(acks["position"].max()) if len(acks) else 0
        return Kept(sent, self._seen.one(flow) == len(sent), last_ack, trip)

    def overtaken(self, pair: Ints, home: Mask, sender: Ints) -> set[int]:
        """Pairs in which messages of two sockets may be on several streams at one time: worth a closer look.

        By stream: the number of its pair, whether it is the pair's first, and which end dialled. After ``settle``.
        """
        rows = self._rows[0]
        rows = rows[rows["kind"] == MessageKind.DATA]
        stream = rows["flow"] >> 1
        # Pair and sender in 20 bits, two ports of 16: pairs beyond share keys, which costs a closer look only.
        end = (pair[stream] << 1 | sender[stream] ^ (rows["flow"] & 1)) & 0xFFFFF
        key = end << 32 | rows["sport"].astype(np.int64) << 16 | rows["dport"]
        first = home[stream]
        old_keys, old_frames = _extremes(key[first], rows["frame"][first], np.maximum)
        new_keys, new_frames = _extremes(key[~first], -rows["frame"][~first], np.maximum)
        _, at_old, at_new = np.intersect1d(old_keys, new_keys, assume_unique=True, return_indices=True)
        late = -new_frames[at_new] < old_frames[at_old]
        return set(distinct(old_keys[at_old[late]] >> 33).tolist())


def _by_flow(parts: list[NDArray[Any]]) -> tuple[Ints, Ints]:
    """The flows of all rows, ascending, and the order of the rows that makes them so."""
    flow = np.concatenate([part["flow"] for part in parts]) if parts else np.zeros(0, np.int64)
    order = np.argsort(flow, kind="stable")
    return flow[order], order


def _put(parts: list[NDArray[Any]], order: Ints, dtype: np.dtype[Any]) -> None:
    """Make one part of all, with these of their rows in this order; the rules hold nothing that is larger."""
    whole = np.empty(len(order), dtype)
    raw, begin = f"V{dtype.itemsize}", 0
    for part in parts:
        at = np.flatnonzero((order >= begin) & (order < begin + len(part)))
        whole.view(raw)[at] = part.view(raw).take(order[at] - begin)
        begin += len(part)
    parts[:] = [whole]


def _ends(flows: Ints, head: int, tail: int) -> Mask:
    """The first and the last of each run of equal values."""
    at = np.flatnonzero(np.append(True, flows[1:] != flows[:-1])) if len(flows) else np.zeros(0, np.int64)
    sizes = np.diff(np.append(at, len(flows)))
    place = np.arange(len(flows)) - np.repeat(at, sizes)
    return np.asarray((place < head) | (np.repeat(sizes, sizes) - place <= tail))


def _part(rows: NDArray[Any], flow: int) -> NDArray[Any]:
    start, stop = np.searchsorted(rows["flow"], (flow, flow + 1))
    return rows[start:stop]


def _extremes(keys: Ints, values: Ints, what: np.ufunc) -> tuple[Ints, Ints]:
    """Each key once, and the extreme of its values."""
    order = np.argsort(keys, kind="stable")
    keys, values = keys[order], values[order]
    at = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])) if len(keys) else np.zeros(0, np.int64)
    return keys[at], what.reduceat(values, at) if len(at) else values
