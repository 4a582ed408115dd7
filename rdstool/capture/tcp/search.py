"""Find message boundaries again in a TCP stream whose framing was lost, or was never seen.

Over TCP a header has neither magic number nor checksum, so one plausible header proves nothing. What proves is a
chain: headers each of which lies where the length of the one before says, with sequences that go on. Evidence that a
chain begins right is counted: a header each, one more where the first lies at the start of a segment (kernels send
with TCP_NODELAY, so most segments begin with a header), one where the last message ends with a segment, and one where
its sequence goes on from the last message before the gap.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass

import numpy as np

from dissectors.wire.rds import HEADER_BYTES, MAX_MESSAGE_BYTES, RDS_HEADER, Flags, RdsHeader
from rdstool.capture.columns import Bytes
from rdstool.capture.headers import TCP_FLAGS, oddities

EVIDENCE = 3
"""Points that a chain needs."""
SEQUENCE_STEP = 1 << 16
"""Most numbers that a connection may skip from one message to the next (cancelled messages leave holes)."""
SLACK = 16
"""Numbers more than the bytes of a gap can hold that a sequence may have gone on over it."""
MAX_CANDIDATES = 8192
"""Plausible headers that one search looks at; more come only from bytes made to mislead."""


@dataclass(frozen=True, slots=True)
class Found:
    """A boundary: ``position`` in the stream, and how many headers agree from there."""

    position: int
    chain: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of a search. Without ``found``, bytes from ``keep_from`` on may still belong to a chain."""

    found: Found | None
    keep_from: int


@dataclass(frozen=True, slots=True)
class Segmentation:
    """How the bytes that are searched came. All are stream offsets."""

    starts: Container[int]
    """Where segments begin."""
    ends: Container[int]
    """Where segments end."""
    missing: Callable[[int, int], int]
    """Bytes that are absent between two offsets."""


@dataclass(slots=True)
class _Candidate:
    position: int
    header: RdsHeader
    chain: int = 1
    last_end: int = 0
    open: bool = False
    """The next header would lie beyond the bytes at hand."""
    cut: bool = False
    """The next header lies in a hole: the chain cannot be followed."""


@dataclass(slots=True)
class BoundarySearch:
    """A search that goes on until a boundary is found. Positions are stream offsets."""

    since: int
    """Where the boundary was lost."""
    last_sequence: int
    """Sequence of the last message before, 0 without one."""
    cut: int = -1
    """Where bytes begin that were kept for the next look, though their segment began before."""

    def note_cut(self, position: int, starts: Container[int]) -> None:
        """Bytes are kept from ``position`` on; segments, or what was kept of them before, begin at ``starts``."""
        if position not in starts:
            self.cut = position

    def look(
        self, data: Bytes, origin: int, segments: Segmentation, *, final: bool = False, more: bool = False
    ) -> Outcome:
        """Search stream bytes that begin at ``origin``.

        ``final``: no more will follow them; ``more``: more are at hand, and can be asked for.
        """
        limit = origin + len(data)
        candidates = _candidates(data, origin)
        by_position = {item.position: item for item in candidates}
        for item in reversed(candidates):
            item.last_end = item.position + HEADER_BYTES + item.header.length
            after = by_position.get(item.last_end)
            if after is not None and _goes_on(item.header, after.header):
                item.chain += after.chain
                item.last_end, item.open, item.cut = after.last_end, after.open, after.cut
            else:
                item.open = item.last_end + HEADER_BYTES > limit
                item.cut = not item.open and segments.missing(item.last_end, item.last_end + HEADER_BYTES) > 0
        for item in candidates:
            ends = item.last_end in segments.ends
            points = item.chain + (item.position in segments.starts) + ends + self._continues(item)
            all_there_is = item.cut or (item.open and not more and (final or item.chain > 1))
            # Where a chain ends with a segment, it was all there was when that came, whatever has followed since.
            all_there_is |= item.chain > 1 and ends
            if item.chain >= EVIDENCE or (all_there_is and points >= EVIDENCE):
                return Outcome(Found(item.position, item.chain), item.position)
        alive = [item.position for item in candidates if item.open and not final]
        return Outcome(None, min(alive, default=max(origin, limit - HEADER_BYTES + 1)))

    def _continues(self, candidate: _Candidate) -> bool:
        """Tell whether its sequence goes on from the last message, by no more than the bytes between can hold."""
        ahead = candidate.header.sequence - self.last_sequence
        room = (candidate.position - self.since) // HEADER_BYTES + SLACK
        return self.last_sequence > 0 and 0 < ahead <= room


def _goes_on(header: RdsHeader, after: RdsHeader) -> bool:
    """Tell whether two headers can follow each other on one connection (protocol.md §4.7)."""
    unnumbered = Flags.CONG_BITMAP in (header.flags, after.flags)
    resent = Flags.RETRANSMITTED in (header.flags, after.flags)
    return unnumbered or resent or 0 < after.sequence - header.sequence <= SEQUENCE_STEP


def _candidates(data: Bytes, origin: int) -> list[_Candidate]:
    """All places in ``data`` at which 48 bytes could be a header, ascending."""
    count = len(data) - HEADER_BYTES + 1
    if count <= 0:
        return []
    zeros = np.zeros(len(data) + 1, np.int32)
    np.cumsum(data == 0, out=zeros[1:])

    def column(at: int) -> Bytes:
        return data[at : at + count]

    def zero_run(begin: int, end: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        run: np.ndarray[tuple[int], np.dtype[np.bool_]] = zeros[end : end + count] - zeros[begin : begin + count] == (
            end - begin
        )
        return run

    # ack; credit, padding and checksum: fifteen zero bytes leave few places in anything but zeros.
    likely = zero_run(8, 16) & zero_run(25, 32)
    likely &= np.isin(column(24), TCP_FLAGS)
    likely &= (column(16) == 0) & (column(17) <= MAX_MESSAGE_BYTES >> 16) & (column(0) == 0)
    likely &= ~zero_run(20, 24) | (column(24) == Flags.CONG_BITMAP.value)
    found: list[_Candidate] = []
    for at in np.flatnonzero(likely)[:MAX_CANDIDATES].tolist():
        raw = data[at : at + HEADER_BYTES].tobytes()
        if oddities(raw) == 0:
            found.append(_Candidate(origin + at, RDS_HEADER.unpack_from(raw)))
    return found
