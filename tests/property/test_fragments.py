"""IP fragments are put together as by a reference that has a place for every byte, however they are cut into chunks."""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass, field

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rdstool.capture.columns import Segments
from tests.unit.capture.parsing import batch_of, payloads, put_together

HEADER = struct.pack(">HHIIBBHHH", 16385, 50000, 7, 9, 0x50, 0x10, 0, 0, 0)
MAX_UNITS = 12
"""Of 8 bytes, in a datagram; small, so that fragments meet."""


@dataclass(frozen=True)
class Fragment:
    """One over IPv4; ``start`` and ``end`` are in units of 8 bytes, but that an end may have some bytes less."""

    ident: int
    start: int
    end: int
    more: bool
    less: int
    fill: int
    """What the bytes behind the TCP header are."""

    @property
    def places(self) -> range:
        return range(8 * self.start, 8 * self.end - (0 if self.more else self.less))

    @property
    def data(self) -> bytes:
        return bytes(HEADER[place] if place < len(HEADER) else self.fill for place in self.places)

    def frame(self) -> bytes:
        bits = self.start | 0x2000 * self.more
        size = 20 + len(self.data)
        ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, size, self.ident, bits, 64, 6, 0, b"\x0a\0\0\1", b"\x0a\0\0\2")
        return bytes(12) + b"\x08\0" + ip + self.data


@dataclass
class Reference:
    """A receiver that knows each byte by its place."""

    held: dict[int, int] = field(default_factory=dict)
    size: int | None = None
    done: set[tuple[range, bytes]] = field(default_factory=set)
    """Fragments of the last datagram that was whole."""
    kept: set[tuple[range, bytes]] = field(default_factory=set)

    def take(self, one: Fragment) -> bytes | None:
        item = one.places, one.data
        if item in self.done:
            return None
        last = max(self.held, default=-1) + 1
        if one.more:
            contradicts = self.size is not None and one.places.stop > self.size
        else:
            contradicts = one.places.stop < last or self.size not in (None, one.places.stop)
        there = [place in self.held for place in one.places]
        if contradicts or (any(there) and not all(there)):
            self.held, self.size, self.kept = {}, None, set()
            return None
        if not one.more:
            self.size = one.places.stop
        if not all(there):
            self.held |= dict(zip(one.places, one.data, strict=True))
            self.kept.add(item)
        if len(self.held) != self.size:
            return None
        whole = bytes(self.held[place] for place in range(self.size))
        self.done, self.held, self.size, self.kept = self.kept, {}, None, set()
        return whole


@st.composite
def fragments(draw: st.DrawFn) -> list[Fragment]:
    """Those of some datagrams, in disorder, with copies and what does not belong."""
    found = []
    for ident in range(draw(st.integers(1, 3))):
        cuts = sorted(draw(st.sets(st.integers(1, MAX_UNITS - 1), max_size=4)) | {0, MAX_UNITS})
        less, fill = draw(st.integers(0, 7)), draw(st.integers(0, 2))
        pairs = list(itertools.pairwise(cuts))
        found += [Fragment(ident, start, end, end < MAX_UNITS, less, fill) for start, end in pairs]
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, MAX_UNITS - 1))
        end = draw(st.integers(start + 1, MAX_UNITS))
        found.append(Fragment(draw(st.integers(0, 2)), start, end, draw(st.booleans()), draw(st.integers(0, 7)), 3))
    found = [one for one in found if one.start or one.more]
    found += draw(st.lists(st.sampled_from(found), max_size=4)) if found else []
    return draw(st.permutations(found))


@given(fragments(), st.lists(st.integers(1, 6), max_size=8))
def test_datagrams_are_those_of_a_reference(several: list[Fragment], sizes: list[int]) -> None:
    expected: list[bytes] = []
    receivers = [Reference() for _ in range(3)]
    for one in several:
        whole = receivers[one.ident].take(one)
        if whole is not None and len(whole) >= len(HEADER):
            expected.append(whole[len(HEADER) :])
    frames = [one.frame() for one in several]
    batches = []
    for size in [*sizes, len(frames)]:
        batches.append(batch_of(frames[:size]))
        frames = frames[size:]
    found, counts = put_together(batches)
    assert [payload for parsed in found for payload in payloads(parsed.tcp)] == expected
    assert counts.frames == len(several)
    for parsed in found:
        assert isinstance(parsed.tcp, Segments)
        assert (np.diff(parsed.tcp.frame) > 0).all()
