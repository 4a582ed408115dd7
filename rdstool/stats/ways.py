"""Which lanes belong together: the streams of a connection, its two ways, and the paths of each way.

All of it in columns: a capture can have a hundred thousand connections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rdstool.capture.columns import Ints
from rdstool.capture.streams import Stream
from rdstool.protocol.kinds import Transport


@dataclass(frozen=True, slots=True)
class Runs:
    """Numbers that lie in groups, group behind group."""

    order: Ints
    bounds: Ints
    """Where each group begins, and the end of the last."""

    @classmethod
    def of(cls, *keys: Ints) -> Runs:
        """Group what has equal keys, in the order of the keys: the first one weighs most."""
        order = np.lexsort(keys[::-1])
        differs = np.zeros(max(0, len(order) - 1), np.bool_)
        for key in keys:
            differs |= key[order][1:] != key[order][:-1]
        at = np.flatnonzero(np.concatenate(([True], differs))) if len(order) else order
        return cls(order, np.append(at, len(order)))

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __getitem__(self, group: int) -> list[int]:
        members: list[int] = self.order[self.bounds[group] : self.bounds[group + 1]].tolist()
        return members


class Ways:
    """The lanes of some streams, which are numbered from 0."""

    def __init__(self, streams: Sequence[Stream], used: NDArray[np.bool_]) -> None:
        """``used`` tells of each lane whether it carried anything; paths without a used lane are left out."""
        self._streams = streams
        places = sorted({end.address for stream in streams for end in (stream.a, stream.b)})
        rank = {address: place for place, address in enumerate(places)}
        a = np.fromiter((rank[stream.a.address] for stream in streams), np.int64, len(streams))
        b = np.fromiter((rank[stream.b.address] for stream in streams), np.int64, len(streams))
        transport = np.fromiter((stream.transport for stream in streams), np.int64, len(streams))
        path = np.fromiter((stream.path for stream in streams), np.int64, len(streams))
        source, destination = np.stack((a, b), 1).reshape(-1), np.stack((b, a), 1).reshape(-1)
        of_lane, paths = np.repeat(transport, 2), np.repeat(path, 2)
        lanes = Runs.of(source, destination, of_lane, paths)
        busy = np.logical_or.reduceat(used[lanes.order], lanes.bounds[:-1]) if len(lanes) else used
        self.paths = [lanes[group] for group in np.flatnonzero(busy).tolist()]
        """The lanes of each (source, destination, transport, path), in that order."""
        self.connections = Runs.of(np.fromiter((stream.pair for stream in streams), np.int64, len(streams)))
        """Streams, by the RDS connection that they serve."""
        first = np.fromiter((group[0] for group in self.paths), np.int64, len(self.paths))
        keys = (source * len(places) + destination) * len(Transport) + of_lane
        ways = keys[first]
        self._bounds = np.searchsorted(ways, keys), np.searchsorted(ways, keys, side="right")
        """For each lane, where its way begins in ``paths``, and ends."""

    def way_of(self, lane: int) -> dict[int, list[int]]:
        """Path -> lanes, for all that goes from the source of this lane to its destination over its transport."""
        start, stop = (bound.item(lane) for bound in self._bounds)
        return {self._streams[lanes[0] >> 1].path: lanes for lanes in self.paths[start:stop]}
