"""Whole captures, and what a capture can lack: frames that tcpdump dropped, one direction, the beginning, the rest of
each frame. The same seed gives the same capture.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

PCAPS = Path(__file__).parents[2] / "pcaps"
FILE_HEADER_BYTES = 24
RECORD_HEADER_BYTES = 16
IP_ADDRESSES = RECORD_HEADER_BYTES + 14 + 12
"""Of the source and destination in a record: behind Ethernet, in an IPv4 header."""
MOST_OVERTAKEN = 8
"""Frames that one frame may be late: the queues of an adapter are emptied one after another."""
_HEADERS = (54, 66, 68, 96, 114, 128, 160, 200, 256, 1000)
"""Snapshot lengths that people use: TCP or BTH alone, with some of the RDS header, with all of it."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A record of a pcap file, and its number in the whole capture."""

    number: int
    record: bytes

    @property
    def ends(self) -> tuple[bytes, bytes]:
        """Source and destination address; the Ethernet addresses where the packet is not IPv4."""
        if self.record[RECORD_HEADER_BYTES + 12 : RECORD_HEADER_BYTES + 14] == b"\x08\x00":
            return self.record[IP_ADDRESSES : IP_ADDRESSES + 4], self.record[IP_ADDRESSES + 4 : IP_ADDRESSES + 8]
        at = RECORD_HEADER_BYTES
        return self.record[at + 6 : at + 12], self.record[at : at + 6]


Frames = list[Frame]
CASES = tuple(
    (path.parent.name, end) for path in sorted(PCAPS.glob("*/truth.json")) for end in ("a", "b")
)  # fmt: skip


@cache
def whole(name: str, end: str) -> tuple[bytes, Frames]:
    """File header and frames of a capture in pcaps/."""
    content = gzip.decompress((PCAPS / name / f"{end}.pcap.gz").read_bytes())
    frames: Frames = []
    position = FILE_HEADER_BYTES
    while position < len(content):
        (captured,) = struct.unpack_from("<8xI", content, position)
        frames.append(Frame(len(frames) + 1, content[position : position + RECORD_HEADER_BYTES + captured]))
        position += RECORD_HEADER_BYTES + captured
    return content[:FILE_HEADER_BYTES], frames


# ---- What can be missing.


def drop_some(frames: Frames, random: Random) -> Frames:
    """Each frame is dropped with the same chance."""
    chance = random.choice((0.0005, 0.002, 0.01, 0.05, 0.2, 0.5))
    return [frame for frame in frames if random.random() >= chance]


def drop_few(frames: Frames, random: Random) -> Frames:
    """One to five frames."""
    gone = {random.randrange(len(frames)) for _ in range(random.randint(1, 5))}
    return [frame for index, frame in enumerate(frames) if index not in gone]


def drop_ranges(frames: Frames, random: Random) -> Frames:
    """A buffer runs full, again and again."""
    frames = list(frames)
    for _ in range(random.choice((1, 1, 2, 5, 20))):
        if frames:
            start = random.randrange(len(frames))
            del frames[start : start + random.choice((2, 5, 20, 100, 400))]
    return frames


def one_direction(frames: Frames, random: Random) -> Frames:
    """Only what one end sends."""
    source = random.choice(sorted({frame.ends[0] for frame in frames}))
    return [frame for frame in frames if frame.ends[0] == source]


def weak_direction(frames: Frames, random: Random) -> Frames:
    """Most of what one end sends is missing."""
    source = random.choice(sorted({frame.ends[0] for frame in frames}))
    chance = random.choice((0.1, 0.5, 0.9))
    return [frame for frame in frames if frame.ends[0] != source or random.random() >= chance]


def snap(frames: Frames, random: Random) -> Frames:
    """Frames are cut short."""
    size = random.choice(_HEADERS)
    return [Frame(frame.number, _cut(frame.record, size)) for frame in frames]


def snap_some(frames: Frames, random: Random) -> Frames:
    """Some frames are cut short."""
    chance, size = random.choice((0.01, 0.2)), random.choice(_HEADERS)
    return [
        Frame(frame.number, _cut(frame.record, size)) if random.random() < chance else frame for frame in frames
    ]  # fmt: skip


def middle(frames: Frames, random: Random) -> Frames:
    """The capture starts late and stops early."""
    first, last = sorted(random.randrange(len(frames)) for _ in range(2))
    return frames[first : last + 1]


def start_late(frames: Frames, random: Random) -> Frames:
    """The capture starts in mid-stream."""
    return frames[random.randrange(len(frames)) :]


def stop_early(frames: Frames, random: Random) -> Frames:
    """The capture stops in mid-stream."""
    return frames[: random.randrange(len(frames)) + 1]


def overtake(frames: Frames, random: Random) -> Frames:
    """Frames stand a little late in the file."""
    most = random.randint(1, MOST_OVERTAKEN)
    late = [(index + random.uniform(0, most), frame) for index, frame in enumerate(frames)]
    return [frame for _, frame in sorted(late, key=lambda item: item[0])]


def late_few(frames: Frames, random: Random) -> Frames:
    """A few frames stand late in the file."""
    late = [
        (index + (random.uniform(1, MOST_OVERTAKEN) if random.random() < 0.01 else 0), frame)
        for index, frame in enumerate(frames)
    ]
    return [frame for _, frame in sorted(late, key=lambda item: item[0])]


def twice(frames: Frames, random: Random) -> Frames:
    """A mirror port shows frames twice."""
    chance = random.choice((0.01, 0.2, 1.0))
    return [copy for frame in frames for copy in (frame,) * (1 + (random.random() < chance))]


def _cut(record: bytes, size: int) -> bytes:
    kept = min(size, len(record) - RECORD_HEADER_BYTES)
    return record[:8] + struct.pack("<I", kept) + record[12 : RECORD_HEADER_BYTES + kept]


WAYS: tuple[Callable[[Frames, Random], Frames], ...] = (
    drop_some,
    drop_few,
    drop_ranges,
    one_direction,
    weak_direction,
    snap,
    snap_some,
    middle,
    start_late,
    stop_early,
    overtake,
    late_few,
    twice,
)


def thinned(name: str, end: str, seed: int) -> tuple[bytes, Frames, str]:
    """A capture with something missing: its file header, its frames, and what was done to it."""
    random = Random(f"{name}/{end}/{seed}")
    header, frames = whole(name, end)
    ways = [WAYS[seed % len(WAYS)]]
    if random.random() < 0.3:
        ways.append(random.choice(WAYS))
    for way in ways:
        frames = way(frames, random) if frames else frames
    return header, frames, " + ".join(way.__name__ for way in ways)


def write(path: Path, header: bytes, frames: Frames) -> Path:
    """Write a pcap file and return its path."""
    path.write_bytes(header + b"".join(frame.record for frame in frames))
    return path
