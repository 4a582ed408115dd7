"""Another connection on the same two ports whose SYN was not captured: told by numbers that jump.

A connection begins at random sequence numbers, in both directions. A hole in the capture moves the numbers of a
direction too, but hardly both by so much at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rdstool.capture.columns import Ints, Segments
from rdstool.capture.tcp.half import Half, nearest

STRAY_BYTES = 8 << 20
"""Nothing that a connection sends out of order, or repeats, lies further from what it sent before."""


def first_jump(
    segments: Segments, rows: Ints, directions: NDArray[np.bool_], halves: Sequence[Half], *, over: bool
) -> int | None:
    """Index in ``rows`` of the first segment of another connection; None where all belong to the one of ``halves``.

    ``over``: that one has ended, and has nothing to say so far from its end. Else the acknowledgements must have
    jumped too, and a single segment with odd numbers begins nothing.
    """
    loaded = segments.length[rows] > 0
    found: list[int] = []
    for half, other in (halves, halves[::-1]):
        at = np.flatnonzero(loaded & (directions == half.direction))
        if not len(at):
            continue
        far = _far(segments.seq[rows[at]], half, half.next)
        if not far.any():
            continue
        stays = np.append(~far[1:], over or _waits(int(segments.seq[rows[at[-1]]]), half))
        proved = _far(segments.ack[rows[at]], other, other.acked) | over
        found += at[far & stays & proved][:1].tolist()
    if not found:
        return None
    cut = min(found)
    while cut and not loaded[cut - 1] and _is_far(segments, rows, directions, halves, cut - 1):
        cut -= 1
    return cut


def _far(numbers: NDArray[np.uint32], half: Half, position: int) -> NDArray[np.bool_]:
    """Which of the sequence numbers of a half are far from the one before; the first, from its stream offset."""
    values = numbers.astype(np.int64)
    reference = int(values[0]) if half.base is None else half.base + position
    distance = np.abs(nearest(np.diff(values, prepend=reference)))
    return np.asarray(distance > STRAY_BYTES)


def _waits(number: int, half: Half) -> bool:
    """Something waits behind a hole that is not far from this sequence number."""
    offset = half.next + int(nearest(np.array(number - (half.base or 0) - half.next)))
    return any(abs(piece.start - offset) <= STRAY_BYTES for piece in half.pending[-1:])


def _is_far(segments: Segments, rows: Ints, directions: NDArray[np.bool_], halves: Sequence[Half], index: int) -> bool:
    """A segment without payload is far from what its direction sent before."""
    half = halves[int(directions[index])]
    earlier = np.flatnonzero(directions[:index] == half.direction)
    if len(earlier):
        reference = int(segments.seq[rows[earlier[-1]]])
    elif half.base is not None:
        reference = half.base + half.next
    else:
        return False
    return abs(int(nearest(np.array(int(segments.seq[rows[index]]) - reference)))) > STRAY_BYTES
