"""Handshake messages of a batch, parsed: probes and their answers are few."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dissectors.wire.extensions import Extension, NPaths, Unknown
from rdstool.capture.streams import StreamTable
from rdstool.protocol.kinds import MessageKind
from rdstool.validate.parsed import extensions_at
from rdstool.validate.view import View


@dataclass(frozen=True, slots=True)
class Announcement:
    """What one probe or answer says of the side that sent it."""

    row: int
    frame: int
    time: int
    flow: int
    source: bytes
    destination: bytes
    reply: bool
    items: tuple[Extension | Unknown, ...]

    @property
    def npaths(self) -> int:
        """The path count that a receiver takes from it; 1 without NPATHS."""
        counts = [item.npaths for item in self.items if isinstance(item, NPaths)]
        return max(1, counts[-1]) if counts else 1

    def has(self, kind: type[Any]) -> bool:
        """An extension of that type is present."""
        return any(isinstance(item, kind) for item in self.items)


def announcements(view: View, streams: StreamTable) -> list[Announcement]:
    """The handshake messages of a batch in their order."""
    kinds = view.kind
    found = []
    for row in np.flatnonzero((kinds == MessageKind.PROBE) | (kinds == MessageKind.PROBE_REPLY)).tolist():
        flow = int(view.flow[row])
        source, destination = streams[flow >> 1].ends(flow & 1)
        items = extensions_at(view, row).items
        reply = bool(kinds[row] == MessageKind.PROBE_REPLY)
        frame, time = int(view.frame[row]), int(view.time[row])
        found.append(Announcement(row, frame, time, flow, source.address, destination.address, reply, items))
    return found
