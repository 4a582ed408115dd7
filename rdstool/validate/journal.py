"""The beginning and the end of each flow, kept for what happens when a connection is cut and made again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdstool.protocol.kinds import MessageKind
from rdstool.validate.flows import Numbered
from rdstool.validate.view import View

HEAD_ROWS = 2048
"""Messages kept from the beginning of a flow: what is sent again stands there."""
TAIL_ROWS = 4096
"""Messages kept from the end of a flow: what was under way when it was cut stands there."""
ACK_ROWS = 8192
"""Acknowledgements kept from the end of a flow."""
MAX_RECORDS = 1 << 20
"""Messages and acknowledgements kept in all; the oldest flows are forgotten first."""

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
    ]
)


@dataclass(frozen=True, slots=True)
class Sent:
    """One message as a flow carried it."""

    number: int
    frame: int
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

    @property
    def delivered_to_sockets(self) -> bool:
        """Data and pongs reach an application; pings and the handshake end in the kernel."""
        return self.kind in (MessageKind.DATA, MessageKind.PONG)

    def same(self, other: Sent) -> bool:
        """Ports and length agree."""
        return (self.sport, self.dport, self.length) == (other.sport, other.dport, other.length)


@dataclass(slots=True)
class FlowJournal:
    """What is kept of one flow."""

    head: list[NDArray[Any]] = field(default_factory=list)
    head_count: int = 0
    tail: list[NDArray[Any]] = field(default_factory=list)
    tail_count: int = 0
    acks: list[NDArray[Any]] = field(default_factory=list)
    ack_count: int = 0
    last_ack: int = -1
    dropped: int = 0
    """Messages between head and tail that are not kept."""
    whole: bool = True
    """No hole in the flow."""

    @property
    def count(self) -> int:
        """Records held."""
        return self.head_count + self.tail_count + self.ack_count

    def add(self, records: NDArray[Any]) -> None:
        """Messages in their order."""
        room = HEAD_ROWS - self.head_count
        if room > 0:
            self.head.append(records[:room].copy())
            self.head_count += len(self.head[-1])
            records = records[room:]
        if len(records):
            self.tail.append(records[-TAIL_ROWS:].copy())
            self.dropped += max(0, len(records) - TAIL_ROWS)
            self.tail_count += len(self.tail[-1])
            while self.tail_count - len(self.tail[0]) >= TAIL_ROWS:
                old = self.tail.pop(0)
                self.tail_count -= len(old)
                self.dropped += len(old)

    def add_acks(self, acks: NDArray[Any]) -> None:
        """Rows of ``ACK`` in their order."""
        self.acks.append(np.stack((acks["position"], acks["frame"]), axis=1)[-ACK_ROWS:])
        self.ack_count += len(self.acks[-1])
        self.last_ack = max(self.last_ack, int(acks["position"].max()))
        while self.ack_count - len(self.acks[0]) >= ACK_ROWS:
            self.ack_count -= len(self.acks.pop(0))

    def sent(self, flow: int) -> list[Sent]:
        """Head and tail as objects, each with the frame that acknowledged it."""
        records = np.concatenate([*self.head, *self.tail]) if self.head else np.zeros(0, RECORD)
        frames = np.zeros(len(records), np.int64)
        if self.acks:
            acks = np.concatenate(self.acks)
            positions = np.maximum.accumulate(acks[:, 0])
            place = np.searchsorted(positions, records["end"], side="left")
            covered = place < len(positions)
            frames[covered] = acks[place[covered], 1]
        rows: Any = records.tolist()
        return [Sent(*(*row, flow, acked)) for row, acked in zip(rows, frames.tolist(), strict=True)]


class Journal:
    """All flows of a capture, within ``MAX_RECORDS``."""

    def __init__(self) -> None:
        self.flows: dict[int, FlowJournal] = {}
        self.forgotten: set[int] = set()
        """Flows that were given up for room."""
        self._count = 0

    def add(self, view: View, rows: Numbered) -> None:
        """Take the numbered rows and the acknowledgements of a batch."""
        if len(rows):
            self._messages(view, rows)
        acks = view.decoded.acks
        if len(acks):
            flow = acks["stream"].astype(np.int64) * 2 + acks["direction"]
            order = np.argsort(flow, kind="stable")
            for key, start, stop in _groups(flow[order]):
                self._keep(key).add_acks(acks[order[start:stop]])
                self._settle(key)
        while self._count > MAX_RECORDS and len(self.flows) > 1:
            oldest = next(iter(self.flows))
            self._count -= self.flows.pop(oldest).count
            self.forgotten.add(oldest)

    def overtakes(self, streams: list[int]) -> bool:
        """Two sockets' messages may be on several of these streams at one time: worth a closer look."""
        for way in (0, 1):
            kept = [self.flows[2 * number + way] for number in streams if 2 * number + way in self.flows]
            heads = [np.concatenate(flow.head) for flow in kept if flow.head]
            if len(heads) < 2:
                continue
            data = [head[head["kind"] == MessageKind.DATA] for head in heads]
            keys = [head["sport"].astype(np.int64) << 16 | head["dport"] for head in data]
            older = dict(zip(keys[0].tolist(), data[0]["frame"].tolist(), strict=True))
            for key, head in zip(keys[1:], data[1:], strict=True):
                shared = np.flatnonzero(np.isin(key, keys[0]))
                if any(head["frame"][at] < older[int(key[at])] for at in shared.tolist()):
                    return True
        return False

    def _messages(self, view: View, rows: Numbered) -> None:
        index = rows.index
        records = np.zeros(len(index), RECORD)
        for name in ("number", "frame", "time", "end", "length", "sport", "dport", "kind"):
            records[name] = getattr(view, name)[index]
        records["sequence"], records["flagged"] = rows.sequence, rows.flagged
        records["complete"] = view.rows["complete"][index]
        for key, start, stop in _groups(rows.flow):
            flow = self._keep(key)
            flow.add(records[start:stop])
            flow.whole = flow.whole and not rows.segment[start:stop].any()
            self._settle(key)

    def _keep(self, key: int) -> FlowJournal:
        flow = self.flows.get(key)
        if flow is None:
            flow = self.flows[key] = FlowJournal()
        self._count -= flow.count
        return flow

    def _settle(self, key: int) -> None:
        self._count += self.flows[key].count


def _groups(flows: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """Runs of equal values: value, start, stop."""
    at = np.flatnonzero(np.append(True, flows[1:] != flows[:-1])) if len(flows) else np.zeros(0, np.int64)
    stops = np.append(at[1:], len(flows))
    return list(zip(flows[at].tolist(), at.tolist(), stops.tolist(), strict=True))
