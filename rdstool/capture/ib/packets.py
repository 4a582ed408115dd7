"""Packets of the InfiniBand transport as columns, with what their opcodes mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dissectors.wire.infiniband import BTH, EXTENDED, PSN_MASK, PSN_MODULUS, Opcode
from rdstool.capture.columns import Bytes, IbPackets, Ints
from rdstool.capture.gather import gather

_BTH_WORDS = np.dtype(("V", BTH.size))
_WORD = np.dtype(">u4")
_PSN_HALF = PSN_MODULUS // 2

_Numbers = TypeVar("_Numbers", int, Ints)


class Part:
    """What a packet of a reliable connection is part of."""

    NONE = 0
    """Nothing that a reliable connection carries."""
    SEND = 1
    WRITE = 2
    READ = 3
    ATOMIC = 4
    RESPONSE = 5


_SEND = (
    Opcode.SEND_FIRST,
    Opcode.SEND_MIDDLE,
    Opcode.SEND_LAST,
    Opcode.SEND_LAST_IMMEDIATE,
    Opcode.SEND_ONLY,
    Opcode.SEND_ONLY_IMMEDIATE,
    Opcode.SEND_LAST_INVALIDATE,
    Opcode.SEND_ONLY_INVALIDATE,
)
_WRITE = (
    Opcode.WRITE_FIRST,
    Opcode.WRITE_MIDDLE,
    Opcode.WRITE_LAST,
    Opcode.WRITE_LAST_IMMEDIATE,
    Opcode.WRITE_ONLY,
    Opcode.WRITE_ONLY_IMMEDIATE,
)
_ATOMIC = (Opcode.COMPARE_SWAP, Opcode.FETCH_ADD)
_RESPONSE = (
    Opcode.READ_RESPONSE_FIRST,
    Opcode.READ_RESPONSE_MIDDLE,
    Opcode.READ_RESPONSE_LAST,
    Opcode.READ_RESPONSE_ONLY,
    Opcode.ACKNOWLEDGE,
    Opcode.ATOMIC_ACKNOWLEDGE,
)
_MIDDLE = (Opcode.SEND_MIDDLE, Opcode.WRITE_MIDDLE)
_FIRST = (Opcode.SEND_FIRST, Opcode.WRITE_FIRST)
_LAST = (
    Opcode.SEND_LAST,
    Opcode.SEND_LAST_IMMEDIATE,
    Opcode.SEND_LAST_INVALIDATE,
    Opcode.WRITE_LAST,
    Opcode.WRITE_LAST_IMMEDIATE,
)


def _by_opcode(values: Mapping[Any, int], dtype: Any) -> NDArray[Any]:
    table = np.zeros(256, dtype)
    for opcode, value in values.items():
        table[int(opcode)] = value
    return table


PART_OF = _by_opcode(
    dict.fromkeys(_SEND, Part.SEND)
    | dict.fromkeys(_WRITE, Part.WRITE)
    | dict.fromkeys(_ATOMIC, Part.ATOMIC)
    | dict.fromkeys(_RESPONSE, Part.RESPONSE)
    | {Opcode.READ_REQUEST: Part.READ},
    np.uint8,
)
"""Opcode -> :class:`Part`."""
_REQUESTS = (*_SEND, *_WRITE, *_ATOMIC, Opcode.READ_REQUEST)
STARTS = _by_opcode({op: op not in _MIDDLE + _LAST for op in _REQUESTS}, np.bool_)
"""Opcode -> the packet begins a request."""
ENDS = _by_opcode({op: op not in _MIDDLE + _FIRST for op in _REQUESTS}, np.bool_)
"""Opcode -> the packet ends a request."""
LEARNS_MTU = _by_opcode(dict.fromkeys((*_FIRST, Opcode.READ_RESPONSE_FIRST), 1), np.bool_)
"""Opcode -> the packet's payload is as long as the path MTU."""
HEADER_OF = _by_opcode({op: sum(codec.size for codec in codecs) for op, codecs in EXTENDED.items()}, np.int64)
"""Opcode -> bytes of extended transport headers between BTH and payload."""


@dataclass(slots=True)
class Packets:
    """Packets behind one another in one buffer. BTH's pad bytes are not counted."""

    data: Bytes
    frame: Ints
    time: Ints
    opcode: NDArray[np.uint8]
    solicited: NDArray[np.bool_]
    psn: Ints
    """24 bits as they came; unwrapped after :mod:`~rdstool.capture.ib.order`."""
    at: Ints
    """Offset in ``data`` of the first byte behind BTH."""
    captured: Ints
    """Bytes behind BTH in ``data``, at most ``length``."""
    length: Ints
    """Bytes behind BTH on the wire."""

    def __len__(self) -> int:
        return len(self.frame)

    def part(self, some: slice) -> Packets:
        """The packets of a slice, in the same buffer; nothing is copied."""
        return Packets(self.data, *(column[some] for column in self._columns()))

    def take(self, index: NDArray[Any]) -> Packets:
        """The packets of an index array or a mask, in the same buffer."""
        if index.dtype == np.bool_:
            index = np.flatnonzero(index)
        return Packets(self.data, *(column.take(index) for column in self._columns()))

    def _columns(self) -> tuple[NDArray[Any], ...]:
        return (
            self.frame,
            self.time,
            self.opcode,
            self.solicited,
            self.psn,
            self.at,
            self.captured,
            self.length,
        )

    def owned(self) -> Packets:
        """The same with a buffer and columns of their own, to be kept beyond the batch."""
        own = Packets(self.data, *(column.copy() for column in self._columns()))
        pieces = [self.data[at : at + size] for at, size in zip(own.at.tolist(), own.captured.tolist(), strict=True)]
        own.data = np.concatenate(pieces) if pieces else self.data[:0].copy()
        own.at = np.cumsum(own.captured) - own.captured
        return own

    @property
    def bytes_held(self) -> int:
        """Bytes of the packets themselves."""
        return int(self.captured.sum())


def psn_distance(psn: _Numbers, reference: int) -> _Numbers:
    """How far 24-bit numbers lie ahead of another one, the short way round; below 0 where they lie behind it."""
    return ((psn - reference + _PSN_HALF) & PSN_MASK) - _PSN_HALF


def words_at(data: Bytes, at: Ints) -> Ints:
    """The big-endian 32-bit words that begin at ``at``; all must lie in ``data``."""
    return gather(data, at, _WORD).astype(np.int64)


def parse_bth(packets: IbPackets) -> tuple[Packets, Ints]:
    """Read the BTH of each packet: the columns, and the destination queue pairs."""
    count = len(packets)
    words = gather(packets.data, packets.bth, _BTH_WORDS).view(_WORD).reshape(count, 3)
    first, second, third = (words[:, word].astype(np.uint32) for word in range(3))
    flags = first >> 16 & 0xFF
    padding = (flags >> 4 & 3).astype(np.int64)
    length = np.maximum(packets.length - padding, 0)
    parsed = Packets(
        packets.data,
        packets.frame,
        packets.time,
        (first >> 24).astype(np.uint8),
        (flags & 0x80) != 0,
        (third & PSN_MASK).astype(np.int64),
        packets.bth + BTH.size,
        np.minimum(packets.captured, length),
        length,
    )
    return parsed, (second & PSN_MASK).astype(np.int64)
