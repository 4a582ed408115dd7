"""IP datagrams that came in fragments, put together as Linux does on receipt (RFC 791 §3.2, RFC 8200 §4.5, RFC 5722).

A fragment that the datagram has already is passed over. One that overlaps others in part costs the whole datagram, for
nobody can tell which bytes a receiver would take. A fragment that was captured in part counts with all of its length:
the datagram is whole then, but was captured up to there only.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from rdstool.capture.columns import NS_PER_S, Fragments, FrameBatch
from rdstool.capture.counts import FrameCounts
from rdstool.capture.packets.links import LINKTYPE_RAW
from rdstool.capture.packets.network import Parsed, parse

LIFETIME_NS = 30 * NS_PER_S
"""Fragments this far apart are of different datagrams; Linux gives up one over IPv4 after that time."""
MAX_DATAGRAMS = 4096
"""Datagrams under way; the one that was begun first is given up for another."""
MAX_HELD_BYTES = 16 << 20
"""Memory for the fragments of all datagrams under way; likewise."""
MAX_REMEMBERED = 1024
"""Datagrams that were put together, of which copies are recognised: on "any", Linux captures a frame more than once."""
_REMEMBERED_PIECES = 128
"""Fragments of a datagram that is remembered: as many as 64 KiB have in packets of 576 bytes."""
_PIECE_BYTES = 256
"""Memory that a fragment takes besides its bytes."""
_MAX_BYTES = 0xFFFF
"""Of a datagram over IPv4, its header included, and behind the header of one over IPv6."""
_V4_BYTES, _V6_BYTES = 20, 40
_KEPT_FLAGS = 0xC0
"""Flags of IPv4, all but "more fragments"."""

_Key = tuple[int, int, int, int, int, int]
"""Addresses, identification, and for IPv4 the protocol."""


@dataclass(slots=True)
class _Fragment:
    key: _Key
    frame: int
    time: int
    protocol: int
    place: int
    end: int
    more: bool
    data: bytes
    header: bytes

    @property
    def possible(self) -> bool:
        """A receiver takes it."""
        header = _V4_BYTES if len(self.header) == _V4_BYTES else 0
        return self.place < self.end <= _MAX_BYTES - header and not (self.more and self.end % 8)


@dataclass(slots=True)
class _Datagram:
    """One under way. Its pieces lie in order and apart."""

    begun: int
    """Time of the first fragment that was seen."""
    frames: int = 0
    held: int = 0
    """Bytes of memory."""
    covered: int = 0
    """Bytes that the pieces have on the wire."""
    size: int | None = None
    """Bytes of the whole, once the last fragment has come."""
    header: bytes = b""
    """Of the fragment that begins it, with what that says it carries."""
    protocol: int = 0
    places: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        return self.covered == self.size

    def put(self, one: _Fragment) -> bool:
        """Add a fragment; False where it contradicts others."""
        self.frames += 1
        last = self.ends[-1] if self.ends else 0
        if not one.more:
            if one.end < last or self.size not in (None, one.end):
                return False
            self.size = one.end
        elif self.size is not None and one.end > self.size:
            return False
        if one.place < last:
            at = bisect_left(self.places, one.place)
            if self._has(one, at):
                return True
            if (at and self.ends[at - 1] > one.place) or (at < len(self.places) and self.places[at] < one.end):
                return False
        else:
            at = len(self.places)
        self.places.insert(at, one.place)
        self.ends.insert(at, one.end)
        self.pieces.insert(at, one.data)
        self.covered += one.end - one.place
        self.held += len(one.data) + _PIECE_BYTES
        if one.place == 0:
            self.header, self.protocol = one.header, one.protocol
        return True

    def _has(self, one: _Fragment, at: int) -> bool:
        """Tell whether pieces without a hole between them hold all of a fragment; ``at`` is where it would be put."""
        if at and self.ends[at - 1] > one.place:
            at -= 1
        elif at == len(self.places) or self.places[at] != one.place:
            return False
        while self.ends[at] < one.end:
            if at + 1 == len(self.places) or self.places[at + 1] != self.ends[at]:
                return False
            at += 1
        return True

    def packet(self) -> tuple[bytes, int]:
        """The datagram without options and extension headers as far as it was captured, and its length on the wire."""
        assert self.size is not None
        head = bytearray(self.header)
        if len(head) == _V4_BYTES:
            head[0] = 0x40 | _V4_BYTES // 4
            head[2:4] = (_V4_BYTES + self.size).to_bytes(2)
            head[6:8] = head[6] & _KEPT_FLAGS, 0
        else:
            head[4:6] = self.size.to_bytes(2)
            head[6] = self.protocol
        parts = [bytes(head)]
        for place, end, piece in zip(self.places, self.ends, self.pieces, strict=True):
            parts.append(piece)
            if len(piece) < end - place:
                break
        return b"".join(parts), len(head) + self.size


class Datagrams:
    """All datagrams of a capture that came in fragments. Feed it those of one chunk after the other."""

    def __init__(self, tcp_ports: frozenset[int], *, tcp_checksums: bool) -> None:
        self._tcp_ports = tcp_ports
        self._tcp_checksums = tcp_checksums
        self._under_way: OrderedDict[_Key, _Datagram] = OrderedDict()
        self._remembered: OrderedDict[_Key, frozenset[int]] = OrderedDict()
        """A hash of each piece and its place."""
        self._held = 0

    @property
    def held_bytes(self) -> int:
        """Memory for datagrams under way."""
        return self._held

    @property
    def under_way(self) -> int:
        """Datagrams that are not whole yet."""
        return len(self._under_way)

    def feed(self, fragments: Fragments, counts: FrameCounts) -> Parsed | None:
        """Take the fragments of a chunk, in capture order; returns what the datagrams hold that they complete, if any.

        That has the frame and the time of the fragment that completed it. Its bytes are behind those of the chunk.
        """
        data = bytearray()
        whole: list[tuple[int, int, int, int, int]] = []
        for one in _each(fragments):
            datagram = self._take(one, counts) if one.possible else None
            if datagram is not None:
                packet, wire = datagram.packet()
                data = data or bytearray(fragments.data)
                whole.append((one.frame, len(data), len(packet), wire, one.time))
                data += packet
        if not whole:
            return None
        frame, at, captured, wire_bytes, time = np.array(whole, np.int64).T.copy()
        link = np.full(len(whole), LINKTYPE_RAW, np.uint16)
        batch = FrameBatch(np.frombuffer(data, np.uint8), frame, at, captured, wire_bytes, time, link, 0, 0)
        own = FrameCounts()
        parsed = parse(batch, own, self._tcp_ports, tcp_checksums=self._tcp_checksums)
        own.frames = own.bytes = own.snapped = 0
        counts.add(own)
        return parsed

    def _take(self, one: _Fragment, counts: FrameCounts) -> _Datagram | None:
        """Take one fragment; returns the datagram that it completes."""
        key = one.key
        if key in self._remembered and hash((one.place, one.data)) in self._remembered[key]:
            counts.fragments_lost -= 1
            counts.fragments += 1
            return None
        datagram = self._under_way.get(key)
        if datagram is not None and abs(one.time - datagram.begun) > LIFETIME_NS:
            self._give_up(key)
            datagram = None
        if datagram is None:
            datagram = self._under_way[key] = _Datagram(one.time)
        before = datagram.held
        if not datagram.put(one):
            self._give_up(key)
            return None
        self._held += datagram.held - before
        if datagram.whole:
            self._give_up(key)
            self._remember(key, datagram)
            counts.fragments_lost -= datagram.frames
            counts.fragments += datagram.frames - 1
            return datagram
        while self._held > MAX_HELD_BYTES or len(self._under_way) > MAX_DATAGRAMS:
            self._give_up(next(iter(self._under_way)))
        return None

    def _give_up(self, key: _Key) -> None:
        self._held -= self._under_way.pop(key).held

    def _remember(self, key: _Key, datagram: _Datagram) -> None:
        self._remembered.pop(key, None)
        if len(datagram.pieces) > _REMEMBERED_PIECES:
            return
        self._remembered[key] = frozenset(map(hash, zip(datagram.places, datagram.pieces, strict=True)))
        if len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)


def _each(fragments: Fragments) -> Iterator[_Fragment]:
    data = fragments.data.data
    for row in zip(*(column.tolist() for column in fragments.columns()), strict=True):
        frame, time, src_hi, src_lo, dst_hi, dst_lo, network, ident, protocol, place, more, at, captured, length = row
        version = data[network] >> 4
        yield _Fragment(
            (src_hi, src_lo, dst_hi, dst_lo, ident, protocol if version == 4 else -1),
            frame,
            time,
            protocol,
            place,
            place + length,
            more,
            bytes(data[at : at + captured]),
            bytes(data[network : network + (_V4_BYTES if version == 4 else _V6_BYTES)]),
        )
