"""The columns of one batch that statistics use, side by side in memory and in the machine's byte order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dissectors.wire.rds import HEADER_BYTES
from rdstool.capture.columns import Ints, MessageBatch
from rdstool.protocol.kinds import MessageKind
from rdstool.stats.groups import OTHERS, Lanes, Sockets


@dataclass(slots=True)
class Columns:
    """Columns of a batch, one entry for each message in capture order."""

    number: Ints
    frame: Ints
    time: Ints
    """ns since 1970."""
    lane: NDArray[np.intp]
    kind: NDArray[np.uint8]
    sport: Ints
    dport: Ints
    length: Ints
    """Payload bytes."""
    size: Ints
    """Bytes of headers and payload."""
    end: Ints
    sequence: NDArray[np.uint64]
    flags: NDArray[np.uint8]
    complete: NDArray[np.bool_]
    sender: NDArray[np.intp]
    """Socket that sent it, ``OTHERS`` for what no application sends."""
    receiver: NDArray[np.intp]
    """Socket that it goes to, ``OTHERS`` for what no application receives."""

    def __len__(self) -> int:
        return len(self.number)

    @classmethod
    def of(cls, messages: MessageBatch, lanes: Lanes, sockets: Sockets) -> Columns:
        """Take the columns out of the rows."""
        rows = messages.rows
        header = rows["header"]
        lane = rows["stream"].astype(np.intp) * 2 + rows["direction"]
        kind = np.ascontiguousarray(rows["kind"])
        sport, dport = header["sport"].astype(np.int64), header["dport"].astype(np.int64)
        length = header["length"].astype(np.int64)
        data = kind == MessageKind.DATA
        sent = np.flatnonzero(data | (kind == MessageKind.PING))
        received = np.flatnonzero(data | (kind == MessageKind.PONG))
        sender = np.full(len(rows), OTHERS, np.intp)
        receiver = np.full(len(rows), OTHERS, np.intp)
        sender[sent] = sockets.index(lanes.source[lane[sent]], sport[sent])
        receiver[received] = sockets.index(lanes.destination[lane[received]], dport[received])
        return cls(
            number=np.ascontiguousarray(rows["number"]),
            frame=np.ascontiguousarray(rows["frame"]),
            time=np.ascontiguousarray(rows["time"]),
            lane=lane,
            kind=kind,
            sport=sport,
            dport=dport,
            length=length,
            size=length + HEADER_BYTES * np.maximum(rows["fragments"], 1).astype(np.int64),
            sequence=header["sequence"].astype(np.uint64),
            end=np.ascontiguousarray(rows["end"]),
            flags=header["flags"].astype(np.uint8),
            complete=np.ascontiguousarray(rows["complete"]),
            sender=sender,
            receiver=receiver,
        )
