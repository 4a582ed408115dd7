"""Handshake messages of a batch, parsed: probes and their answers are few."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dissectors.wire.extensions import Extension, NPaths, Unknown
from dissectors.wire.rds import MAX_PATHS
from rdstool.capture.streams import Stream, StreamTable
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


class PathCounts:
    """How many paths the two sides of each connection agree on (protocol.md §5.1)."""

    def __init__(self) -> None:
        self._announced: dict[tuple[bytes, bytes], int] = {}
        """(sender, receiver) -> paths announced last."""

    def observe(self, shakes: Iterable[Announcement]) -> None:
        """Take the handshake messages of the next batch."""
        for said in shakes:
            self._announced[said.source, said.destination] = min(MAX_PATHS, said.npaths)

    def agreed(self, stream: Stream) -> int:
        """The smaller count of both ends of a stream; a side that was not heard agrees to all."""
        one, other = stream.address_pair
        return min(self._announced.get((one, other), MAX_PATHS), self._announced.get((other, one), MAX_PATHS))


def announcements(view: View, streams: StreamTable) -> list[Announcement]:
    """The handshake messages of a batch in their order."""
    replies = view.kind == MessageKind.PROBE_REPLY
    at = np.flatnonzero(replies | (view.kind == MessageKind.PROBE))
    columns = (column[at].tolist() for column in (view.flow, view.frame, view.time, replies))
    found = []
    for row, flow, frame, time, reply in zip(at.tolist(), *columns, strict=True):
        source, destination = streams[flow >> 1].ends(flow & 1)
        items = extensions_at(view, row).items
        found.append(Announcement(row, frame, time, flow, source.address, destination.address, reply, items))
    return found
