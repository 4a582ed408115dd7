"""Pieces of real captures, damaged: what they lack, what stands late or twice, what is corrupt, what is mixed in.

The same seed gives the same capture.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from random import Random

from dissectors.wire.checksum import with_checksum
from dissectors.wire.infiniband import BTH, Opcode
from dissectors.wire.rds import HEADER_BYTES, RDS_HEADER
from tests.fuzz.damage import ETHERNET_BYTES, FRAME_DAMAGE
from tests.thinned.thinning import CASES, RECORD_HEADER_BYTES, WAYS, Frame, Frames, whole

SIZES = (40, 120, 300)
"""Frames of a piece: few enough to be quick."""
IP = RECORD_HEADER_BYTES + ETHERNET_BYTES
SETUP_FRAMES = 60
"""At the start of a capture, in which connections are set up."""
TCP, UDP = 6, 17
UDP_BYTES = 8
SYN = 0x02
BARE_BYTES = 60
"""The least that Ethernet sends: no longer TCP segment is only an acknowledgement."""

Way = Callable[[Frames, Random], Frames]


def transport(record: bytes | bytearray) -> tuple[int, int]:
    """Protocol number over IP and where its header begins; 0 where the record is neither IPv4 nor IPv6."""
    kind = record[IP - 2 : IP]
    if kind == b"\x08\x00" and len(record) > IP + 20:
        return record[IP + 9], IP + 4 * (record[IP] & 15)
    if kind == b"\x86\xdd" and len(record) > IP + 40:
        return record[IP + 6], IP + 40
    return 0, 0


def payload_at(record: bytes | bytearray) -> int:
    """Where a message's header stands in most records: behind TCP, or behind UDP and BTH; 0 where nothing does."""
    protocol, at = transport(record)
    if protocol == TCP and len(record) > at + 12:
        return at + 4 * (record[at + 12] >> 4)
    return at + UDP_BYTES + BTH.size if protocol == UDP else 0


def opcode(record: bytes | bytearray) -> int:
    """That of a RoCE packet; -1 for all else."""
    protocol, at = transport(record)
    return record[at + UDP_BYTES] if protocol == UDP and len(record) > at + UDP_BYTES else -1


def sets_up(record: bytes) -> bool:
    """Tell a SYN, and a message of RDMA-CM."""
    protocol, at = transport(record)
    if protocol == TCP and len(record) > at + 13:
        return bool(record[at + 13] & SYN)
    return opcode(record) == Opcode.UD_SEND_ONLY


def acknowledges(record: bytes) -> bool:
    """Tell a packet that does nothing else."""
    if transport(record)[0] == TCP:
        return len(record) <= max(payload_at(record), RECORD_HEADER_BYTES + BARE_BYTES)
    return opcode(record) == Opcode.ACKNOWLEDGE


# ---- What can happen to a capture, beside what is missing.


def no_set_up(frames: Frames, random: Random) -> Frames:
    """All connections, or half of them, were there before the capture."""
    chance = random.choice((0.5, 1.0))
    return [frame for frame in frames if not sets_up(frame.record) or random.random() >= chance]


def no_acknowledgements(frames: Frames, random: Random) -> Frames:
    """Some of them, or all, are missing."""
    chance = random.choice((0.3, 1.0))
    return [frame for frame in frames if not acknowledges(frame.record) or random.random() >= chance]


def delay(frames: Frames, random: Random) -> Frames:
    """Some frames stand late."""
    frames = list(frames)
    for _ in range(random.choice((1, 1, 3, 10))):
        at = random.randrange(len(frames))
        if not sets_up(frames[at].record):
            frames.insert(at + random.choice((1, 2, 5, 20, 70)), frames.pop(at))
    return frames


def duplicate(frames: Frames, random: Random) -> Frames:
    """Some frames come again later."""
    frames = list(frames)
    for _ in range(random.choice((1, 3, 10))):
        at = random.randrange(len(frames))
        frames.insert(at + random.choice((0, 1, 2, 10, 70, 150)), frames[at])
    return frames


def _changed(frames: Frames, random: Random, change: Callable[[bytearray, Random], None], times: int) -> Frames:
    frames = list(frames)
    for _ in range(times):
        at = random.randrange(len(frames))
        record = bytearray(frames[at].record)
        change(record, random)
        frames[at] = Frame(frames[at].number, bytes(record))
    return frames


def _flip(record: bytearray, random: Random, begin: int, end: int) -> None:
    if RECORD_HEADER_BYTES < begin < min(end, len(record)):
        record[random.randrange(begin, min(end, len(record)))] ^= 1 << random.randrange(8)


def corrupt_header(frames: Frames, random: Random) -> Frames:
    """Bits of message headers, or of what stands in their place."""

    def change(record: bytearray, random: Random) -> None:
        at = payload_at(record)
        _flip(record, random, at, at + HEADER_BYTES)

    return _changed(frames, random, change, random.choice((1, 3, 9)))


def corrupt_payload(frames: Frames, random: Random) -> Frames:
    """Bits behind message headers."""

    def change(record: bytearray, random: Random) -> None:
        _flip(record, random, payload_at(record) + HEADER_BYTES, len(record))

    return _changed(frames, random, change, random.choice((1, 3, 9)))


def corrupt_transport(frames: Frames, random: Random) -> Frames:
    """Bits of the headers of TCP or BTH: ports, opcodes, queue pairs, numbers."""

    def change(record: bytearray, random: Random) -> None:
        protocol, at = transport(record)
        begin = at + (UDP_BYTES if protocol == UDP else 0)
        _flip(record, random, begin, begin + BTH.size)

    return _changed(frames, random, change, random.choice((1, 1, 3)))


def corrupt_icrc(frames: Frames, random: Random) -> Frames:
    """Bits of the last bytes."""
    return _changed(frames, random, lambda record, rand: _flip(record, rand, len(record) - 4, len(record)), 3)


def odd_field(frames: Frames, random: Random) -> Frames:
    """A field of a message header has another value, and the checksum fits to it."""
    places = ((0, 8), (7, 1), (8, 8), (15, 1), (16, 4), (18, 2), (20, 2), (22, 2), (24, 1), (25, 1), (26, 4), (32, 16))

    def change(record: bytearray, random: Random) -> None:
        at = payload_at(record)
        begins = opcode(record) in {-1, Opcode.SEND_FIRST, Opcode.SEND_ONLY}
        if not (at and begins and len(record) >= at + HEADER_BYTES):
            return
        place, size = random.choice(places)
        value = random.choice((random.randbytes(size), *(number.to_bytes(size, "big") for number in (0, 1, 2, 4, 32))))
        record[at + place : at + place + size] = value
        if opcode(record) >= 0:
            record[at : at + HEADER_BYTES] = with_checksum(RDS_HEADER.unpack_from(record, at))

    return _changed(frames, random, change, random.choice((3, 10)))


def odd_bytes(frames: Frames, random: Random) -> Frames:
    """Whatever a hostile sender may send."""

    def change(record: bytearray, random: Random) -> None:
        if len(record) > RECORD_HEADER_BYTES + BARE_BYTES:
            random.choice(FRAME_DAMAGE)(record, random)

    return _changed(frames, random, change, random.choice((1, 3, 10)))


def merge(frames: Frames, random: Random) -> Frames:
    """Frames of another capture in between, or behind."""
    _, others = whole(*random.choice(CASES))
    start = random.choice((0, random.randrange(len(others))))
    rest = others[start : start + random.randint(10, 120)]
    if random.random() < 0.3:
        return [*frames, *rest]
    places = sorted(random.randrange(len(frames) + 1) for _ in rest)
    merged = list(frames)
    for place, frame in zip(reversed(places), reversed(rest), strict=True):
        merged.insert(place, frame)
    return merged


def again(frames: Frames, random: Random) -> Frames:
    """The same once more, as if ports and queue pairs were used again with the same numbers."""
    return [*frames, *frames[: random.randint(1, len(frames))]]


def link_headers(record: bytes) -> bytes:
    """The record with a VLAN tag."""
    at = RECORD_HEADER_BYTES + 12
    tagged = record[:at] + b"\x81\x00\x00\x2a" + record[at:]
    captured, wire = struct.unpack_from("<II", record, 8)
    return tagged[:8] + struct.pack("<II", captured + 4, wire + 4) + tagged[RECORD_HEADER_BYTES:]


def in_a_vlan(frames: Frames, _: Random) -> Frames:
    """Each frame has a tag."""
    return [Frame(frame.number, link_headers(frame.record)) for frame in frames]


DAMAGE: tuple[Way, ...] = (
    *WAYS,
    no_set_up,
    no_acknowledgements,
    delay,
    duplicate,
    corrupt_header,
    corrupt_payload,
    corrupt_transport,
    corrupt_icrc,
    odd_field,
    odd_bytes,
    merge,
    again,
)
IN_A_VLAN = 0.1
"""Share of captures with tags."""


def damaged(seed: int) -> tuple[bytes, Frames, str]:
    """A damaged capture: its file header, its frames, and what was done to it. Each way comes up in its turn."""
    random = Random(seed)
    name, end = random.choice(CASES)
    header, frames = whole(name, end)
    size, start = random.choice(SIZES), random.randrange(len(frames))
    begin = random.random()
    if begin < 0.4:
        piece = frames[:size]
    elif begin < 0.7:
        piece = frames[start : start + size]
    else:
        piece = [frame for frame in frames[:SETUP_FRAMES] if sets_up(frame.record)] + frames[start : start + size]
    ways = [DAMAGE[seed % len(DAMAGE)], *random.choices(DAMAGE, k=random.choice((0, 0, 1, 2)))]
    for way in ways:
        piece = way(piece, random) if piece else piece
    if random.random() < IN_A_VLAN:
        ways.append(in_a_vlan)
        piece = in_a_vlan(piece, random)
    return header, piece, f"{name} {end}, {' + '.join(way.__name__ for way in ways)}"
