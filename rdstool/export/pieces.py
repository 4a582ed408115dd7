"""Batches cut to pieces whose text has a bounded size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import TypeVar

import numpy as np

from rdstool.capture.columns import MessageBatch
from rdstool.protocol.kinds import MessageKind

T = TypeVar("T")
PIECE_ROWS = 8192
"""Messages."""
PIECE_BITMAPS = 64
"""Congestion bitmaps: each can name 65,536 ports."""


def pieces(batch: MessageBatch) -> Iterator[MessageBatch]:
    """The batch in order, in pieces of at most ``PIECE_ROWS`` messages and ``PIECE_BITMAPS`` bitmaps."""
    count = len(batch)
    bitmaps = np.flatnonzero(batch.rows["kind"] == MessageKind.CONGESTION)
    cuts = {*range(0, count, PIECE_ROWS), *bitmaps[::PIECE_BITMAPS].tolist(), 0, count}
    for start, end in pairwise(sorted(cuts)):
        yield batch if (start, end) == (0, count) else piece(batch, start, end)


def piece(batch: MessageBatch, start: int, end: int) -> MessageBatch:
    """Rows ``start`` to ``end`` with what belongs to them."""
    return MessageBatch(
        batch.rows[start:end],
        _slice(batch.payloads, start, end),
        _slice(batch.digests, start, end),
        _slice(batch.rdma, start, end),
    )


def _slice(values: Mapping[int, T], start: int, end: int) -> dict[int, T]:
    if len(values) < end - start:
        return {index - start: value for index, value in values.items() if start <= index < end}
    return {index - start: values[index] for index in range(start, end) if index in values}
