"""Volume of operations on remote memory, by who asked whom for what."""

from __future__ import annotations

from dataclasses import dataclass

from rdstool.capture.events import Event, RdmaKind, RdmaOperation
from rdstool.capture.streams import StreamTable

VOLUMES = 4096
"""Combinations of addresses and kinds that are told apart."""


@dataclass(slots=True)
class Volume:
    """Operations of one kind that ``requester`` asked of ``responder``."""

    requester: bytes
    responder: bytes
    kind: RdmaKind
    operations: int = 0
    bytes: int = 0
    """Bytes that were asked for."""
    seen: int = 0
    """Payload bytes in the capture."""
    unanswered: int = 0
    """No answer was captured."""
    failed: int = 0
    """Refused by the responder."""


class Rdma:
    """Collects RDMA operations."""

    def __init__(self, streams: StreamTable) -> None:
        self._streams = streams
        self._volumes: dict[tuple[bytes, bytes, RdmaKind], Volume] = {}

    def add(self, events: list[Event]) -> None:
        """Take in the events of one batch."""
        for event in events:
            if not isinstance(event, RdmaOperation) or event.stream < 0:
                continue
            source, destination = self._streams[event.stream].ends(event.direction)
            key = source.address, destination.address, event.kind
            volume = self._volumes.get(key)
            if volume is None:
                if len(self._volumes) >= VOLUMES:
                    continue
                volume = self._volumes[key] = Volume(*key)
            volume.operations += 1
            volume.bytes += event.length
            volume.seen += event.seen
            volume.unanswered += event.status == "unknown"
            volume.failed += event.status not in ("ok", "unknown")

    @property
    def volumes(self) -> list[Volume]:
        """The volumes in the order of their first operation."""
        return list(self._volumes.values())
