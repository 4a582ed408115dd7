"""What statistics are kept by: lanes (one direction of a stream) and sockets (address and RDS port)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rdstool.capture.columns import Ints
from rdstool.capture.streams import StreamTable, address_text

ADDRESSES = 128
"""Addresses whose sockets are told apart; messages of others are counted in lanes only."""
SOCKETS = 1024
"""Sockets that are told apart; the rest is summed up as one."""
LANE_HISTOGRAMS = 512
"""Lanes that have distributions of their own; the others have counts only."""
OTHERS = 0
"""Index of the group of everything beyond the limits."""
_PORTS = 65536
_DENSE = 16
"""With fewer groups for each message than this, all of them are counted in one pass."""


@dataclass(frozen=True, slots=True)
class Socket:
    """An RDS socket: an address and a port on it."""

    address: bytes
    port: int

    @property
    def host(self) -> str:
        """The address as text."""
        return address_text(self.address)


class Lanes:
    """The lanes of a stream table. Lane 2n is direction 0 of stream n, lane 2n+1 its direction 1."""

    def __init__(self, streams: StreamTable) -> None:
        self._streams = streams
        self._numbers: dict[bytes, int] = {}
        self.addresses: list[bytes] = [b""]
        self.source: NDArray[np.intp] = np.zeros(0, np.intp)
        """Number of the sending address, 0 beyond the limit."""
        self.destination: NDArray[np.intp] = np.zeros(0, np.intp)
        self.histogram: NDArray[np.intp] = np.zeros(0, np.intp)
        """Row of the lane in :class:`~rdstool.stats.histogram.Histograms`; ``OTHERS`` beyond the limit."""

    def __len__(self) -> int:
        return len(self.source)

    def catch_up(self) -> None:
        """Take in streams that are new in the table."""
        fresh = self._streams.streams[len(self) // 2 :]
        if not fresh:
            return
        ends = [(self._number(stream.a.address), self._number(stream.b.address)) for stream in fresh]
        there = np.array(ends, np.intp)
        begin = len(self)
        lanes = np.arange(begin, begin + 2 * len(fresh))
        self.source = np.concatenate((self.source, there.reshape(-1)))
        self.destination = np.concatenate((self.destination, there[:, ::-1].reshape(-1)))
        rows = np.where(lanes < LANE_HISTOGRAMS, lanes + 1, OTHERS)
        self.histogram = np.concatenate((self.histogram, rows))

    def _number(self, address: bytes) -> int:
        number = self._numbers.get(address)
        if number is None and len(self.addresses) <= ADDRESSES:
            number = self._numbers[address] = len(self.addresses)
            self.addresses.append(address)
        return number or 0


class Sockets:
    """Numbers sockets in the order of their first message; ``OTHERS`` is everything beyond the limits."""

    def __init__(self, lanes: Lanes) -> None:
        self._lanes = lanes
        # Most captures have few ports: what is never written to takes no memory.
        self._table: NDArray[np.uint16] = np.zeros((_PORTS, ADDRESSES + 1), np.uint16)
        self.known: list[Socket] = []
        """Socket n stands at n - 1."""

    def index(self, addresses: NDArray[np.intp], ports: Ints) -> NDArray[np.intp]:
        """Numbers of the sockets at these addresses (numbers of :class:`Lanes`) and ports."""
        found = self._table[ports, addresses]
        missing = np.flatnonzero((found == OTHERS) & (addresses > 0))
        if len(missing) and len(self.known) < SOCKETS:
            self._enter(addresses[missing], ports[missing])
            found = self._table[ports, addresses]
        return found.astype(np.intp)

    def _enter(self, addresses: NDArray[np.intp], ports: Ints) -> None:
        for key in np.unique(addresses << 16 | ports)[: SOCKETS - len(self.known)].tolist():
            address, port = key >> 16, key & 0xFFFF
            self.known.append(Socket(self._lanes.addresses[address], port))
            self._table[port, address] = len(self.known)


def count(counts: NDArray[np.int64], *at: NDArray[Any]) -> None:
    """Add one for each place that is named, by an index for each dimension. Most captures have few places."""
    flat = np.ravel_multi_index(at, counts.shape)
    whole = counts.reshape(-1)
    if len(whole) < _DENSE * len(flat):
        whole += np.bincount(flat, minlength=len(whole))
    else:
        np.add.at(whole, flat, 1)
