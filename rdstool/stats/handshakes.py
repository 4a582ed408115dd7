"""What the two sides say of themselves in the multipath handshake, and restarts that follow from it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from dissectors.wire.rds import Flags
from rdstool.capture.columns import MessageBatch
from rdstool.capture.streams import StreamTable
from rdstool.capture.tcp.path_evidence import Announcement
from rdstool.protocol.kinds import MessageKind, Transport
from rdstool.stats.batch import Columns

SIDES = 4096
"""Addresses whose announcements are kept."""
PROBES_PER_BATCH = 4096
"""Probes and replies of one batch that are read; real connections have a handful."""
RESTARTS = 1000
"""Changes of a generation number that are kept."""


@dataclass(slots=True)
class Side:
    """What an address announced last."""

    address: bytes
    announced: Announcement | None = None
    several_extensions: bool = False
    """An InfiniBand message had the flag EXTHDR_EXTENSION."""
    probes: int = 0
    generations: dict[int, int] = field(default_factory=dict)
    """Stream -> generation number that was announced on it."""

    @property
    def kernel(self) -> str:
        """What the announcement tells of the kernel (protocol.md §2, 5.1)."""
        said = self.announced
        if self.several_extensions:
            return "Linux 7.0 or later (EXTHDR_EXTENSION)"
        if said is None:
            return "not known, no probe seen"
        if said.npaths is None:
            return "single-path peer, no extensions"
        return _KERNELS[said.gen_num is not None, said.sport_idx]


_KERNELS = {
    (False, False): "Linux 4.10 to 6.x (NPATHS only)",
    (False, True): "UEK (NPATHS, SPORT_IDX)",
    (True, True): "Linux 7.0 or later (NPATHS, GEN_NUM, SPORT_IDX)",
    (True, False): "no kernel that is known (NPATHS, GEN_NUM)",
}
"""Kernel generations by the presence of GEN_NUM and SPORT_IDX beside NPATHS."""


@dataclass(frozen=True, slots=True)
class Restart:
    """An address announced another generation number than before. Time in ns since 1970."""

    address: bytes
    frame: int
    time: int
    stream: int
    before: int
    after: int


class Handshakes:
    """Collects what peers announce in handshakes."""

    def __init__(self, streams: StreamTable) -> None:
        self._streams = streams
        self.sides: dict[bytes, Side] = {}
        self.restarts: list[Restart] = []

    def add(self, columns: Columns, messages: MessageBatch) -> None:
        """Take in one batch."""
        kind = columns.kind
        probes = np.flatnonzero((kind == MessageKind.PROBE) | (kind == MessageKind.PROBE_REPLY))
        for row in probes[-PROBES_PER_BATCH:].tolist():
            self._hear(row, columns, Announcement.of(messages.rows["header"]["exthdr"][row].tobytes()))
        flagged = columns.flags & Flags.EXTHDR_EXTENSION != 0
        if flagged.any():
            for lane in np.unique(columns.lane[flagged]).tolist():
                stream = self._streams[lane >> 1]
                side = self._side(stream.ends(lane & 1)[0].address)
                if side is not None and stream.transport is Transport.IB:
                    side.several_extensions = True

    def _hear(self, row: int, columns: Columns, announced: Announcement) -> None:
        lane = int(columns.lane[row])
        side = self._side(self._streams[lane >> 1].ends(lane & 1)[0].address)
        if side is None:
            return
        side.probes += 1
        before = side.announced.gen_num if side.announced is not None else None
        after = announced.gen_num
        if before and after and before != after and len(self.restarts) < RESTARTS:
            frame, time = int(columns.frame[row]), int(columns.time[row])
            self.restarts.append(Restart(side.address, frame, time, lane >> 1, before, after))
        side.announced = announced
        if after and len(side.generations) < SIDES:
            side.generations[lane >> 1] = after

    def _side(self, address: bytes) -> Side | None:
        if address not in self.sides and len(self.sides) < SIDES:
            self.sides[address] = Side(address)
        return self.sides.get(address)
