"""How the InfiniBand tests read a capture: all of it through the stage under test, as one part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from rdstool.capture.columns import IbPackets
from rdstool.capture.events import Event, RdmaOperation
from rdstool.capture.files.frames import FrameCounts, read_frames
from rdstool.capture.ib.streams import IbStreams
from rdstool.capture.packets.network import parse
from rdstool.capture.part import Part, PayloadOptions
from rdstool.capture.streams import StreamTable

RDMA_CM_QP = 1


class Reading:
    """Everything that a capture gave, over all its batches."""

    def __init__(self, batches: Iterator[IbPackets] | list[IbPackets], options: PayloadOptions | None = None) -> None:
        self.streams = StreamTable()
        self.stage = IbStreams(self.streams, options or PayloadOptions(digests=True))
        parts = [*(self.stage.feed(packets) for packets in batches), self.stage.finish()]
        self.rows = np.concatenate([part.rows for part in parts])
        self.acks = np.concatenate([part.acks for part in parts])
        self.events: list[Event] = [event for part in parts for event in part.events]
        self.payloads: dict[int, bytes] = {}
        self.digests: dict[int, str] = {}
        self.rdma: dict[int, tuple[RdmaOperation, ...]] = {}
        fragments = []
        base = 0
        for part in parts:
            self.payloads |= {base + index: payload for index, payload in part.payloads.items()}
            self.digests |= {base + index: digest for index, digest in part.digests.items()}
            self.rdma |= {base + index: operations for index, operations in part.rdma.items()}
            fragments.append(_shifted(part, base))
            base += len(part.rows)
        self.fragments = np.concatenate(fragments)

    def messages(self) -> list[tuple[Any, ...]]:
        """What does not depend on how the capture was cut into batches, in order within each direction."""
        names = [name for name in self.rows.dtype.names or () if name not in ("number", "stream")]
        return sorted(
            (
                self.ends(row),
                int(row["position"]),
                tuple(bytes(row[name].tobytes()) for name in names),
                self.digests.get(index),
                tuple(self.rdma.get(index, ())),
            )
            for index, row in enumerate(self.rows)
        )

    def ends(self, row: Any) -> tuple[str, str]:
        """Source and destination address."""
        source, target = self.streams[int(row["stream"])].ends(int(row["direction"]))
        return source.host, target.host

    def of_type(self, kind: type[Any]) -> list[Any]:
        """The events of one class."""
        return [event for event in self.events if isinstance(event, kind)]


def _shifted(part: Part, base: int) -> Any:
    fragments = part.fragments.copy()
    fragments["message"][fragments["message"] >= 0] += base
    return fragments


def packets_of(path: Path) -> list[IbPackets]:
    """The InfiniBand packets of a capture, batch by batch."""
    counts = FrameCounts()
    return [parse(batch, counts).ib for batch in read_frames([str(path)])]


def chosen(packets: IbPackets, index: Any) -> IbPackets:
    """Some packets, in the order of ``index``, which may repeat; they keep their frame numbers."""
    columns = {item.name: getattr(packets, item.name) for item in fields(packets)}
    return IbPackets(**{name: column if name == "data" else column[index] for name, column in columns.items()})


def in_pieces(packets: IbPackets, size: int) -> Iterator[IbPackets]:
    """The same packets in batches of ``size``."""
    for begin in range(0, len(packets), size):
        yield chosen(packets, np.arange(begin, min(begin + size, len(packets))))


def queue_pairs(packets: IbPackets) -> Any:
    """The destination queue pair of each packet."""
    at = packets.bth[:, None] + np.arange(5, 8)
    return packets.data[at].astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])


def without_cm(packets: IbPackets) -> IbPackets:
    """The packets without the exchange that tells whose queue pairs they are."""
    return chosen(packets, np.flatnonzero(queue_pairs(packets) != RDMA_CM_QP))
