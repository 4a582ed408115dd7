"""Real captures, and ways to damage them. The same seed gives the same file."""

from __future__ import annotations

import gzip
import lzma
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random

import zstandard

PCAPS = Path(__file__).parents[2] / "pcaps"
FILE_HEADER_BYTES = 24
RECORD_HEADER_BYTES = 16
ETHERNET_BYTES = 14
MAX_FRAMES = 250
"""Frames of a capture that one case is made from: enough for handshakes and messages, few enough to be quick."""
_SMALL = (0, 1, 2, 15, 47, 48, 49, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x100000, 0x100001)
ABSURD = (*_SMALL, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF)
"""Numbers next to the limits of formats and of machine words."""

Frames = list[bytes]
"""Records of a pcap file, each with its header."""


@cache
def sources() -> tuple[tuple[str, bytes], ...]:
    """The real captures: name and contents."""
    return tuple((path.parent.name, gzip.decompress(path.read_bytes())) for path in sorted(PCAPS.glob("*/a.pcap.gz")))


def split(content: bytes) -> tuple[bytes, Frames]:
    """File header and records of a whole little-endian pcap file."""
    frames = []
    position = FILE_HEADER_BYTES
    while position < len(content):
        (captured,) = struct.unpack_from("<8xI", content, position)
        frames.append(content[position : position + RECORD_HEADER_BYTES + captured])
        position += RECORD_HEADER_BYTES + captured
    return content[:FILE_HEADER_BYTES], frames


@cache
def _split_source(number: int) -> tuple[bytes, Frames]:
    return split(sources()[number][1])


# ---- Damage to single frames: what a hostile or broken sender puts on the wire.


def flip_bits(frame: bytearray, random: Random) -> None:
    for _ in range(random.randint(1, 8)):
        frame[random.randrange(RECORD_HEADER_BYTES, len(frame))] ^= 1 << random.randrange(8)


def overwrite(frame: bytearray, random: Random) -> None:
    start = random.randrange(RECORD_HEADER_BYTES, len(frame))
    piece = random.randbytes(random.randint(1, 64))[: len(frame) - start]
    frame[start : start + len(piece)] = piece


def absurd_number(frame: bytearray, random: Random) -> None:
    """A number of 1, 2 or 4 bytes where headers are."""
    size = random.choice((1, 2, 4))
    last = min(len(frame) - size, RECORD_HEADER_BYTES + 160)
    value = random.choice(ABSURD) & (1 << 8 * size) - 1
    start = random.randint(RECORD_HEADER_BYTES, last)
    frame[start : start + size] = value.to_bytes(size, random.choice(("big", "little")))


def absurd_rds_length(frame: bytearray, random: Random) -> None:
    """A length in what is, in most frames, the RDS header: behind the headers of TCP, or of UDP and BTH."""
    ip = RECORD_HEADER_BYTES + ETHERNET_BYTES
    if len(frame) > ip + 110:
        transport = ip + 4 * (frame[ip] & 15)
        header = transport + (4 * (frame[transport + 12] >> 4) if frame[ip + 9] == 6 else 20)
        if header + 20 <= len(frame):
            frame[header + 16 : header + 20] = random.choice(ABSURD).to_bytes(4, "big")


FRAME_DAMAGE: tuple[Callable[[bytearray, Random], None], ...] = (
    flip_bits,
    overwrite,
    absurd_number,
    absurd_rds_length,
)


def cut_frame(frame: bytes, random: Random) -> bytes:
    """A frame that the snapshot length cut."""
    kept = random.randint(0, len(frame) - RECORD_HEADER_BYTES)
    return frame[:8] + struct.pack("<I", kept) + frame[12 : RECORD_HEADER_BYTES + kept]


# ---- Damage to the order of frames: what networks and captures do.


def lose(frames: Frames, random: Random) -> None:
    start = random.randrange(len(frames))
    del frames[start : start + random.choice((1, 1, 2, 10, 50))]


def repeat(frames: Frames, random: Random) -> None:
    start = random.randrange(len(frames))
    frames[start:start] = frames[start : start + random.choice((1, 1, 2, 10, 50))]


def move(frames: Frames, random: Random) -> None:
    frames.insert(random.randrange(len(frames)), frames.pop(random.randrange(len(frames))))


def reverse(frames: Frames, random: Random) -> None:
    start = random.randrange(len(frames))
    end = start + random.randint(2, 20)
    frames[start:end] = frames[start:end][::-1]


def splice(frames: Frames, random: Random) -> None:
    """Frames of another capture in between."""
    _, others = _split_source(random.randrange(len(sources())))
    start = random.randrange(len(others))
    frames[random.randrange(len(frames)) : 0] = others[start : start + 30]


ORDER_DAMAGE: tuple[Callable[[Frames, Random], None], ...] = (lose, repeat, move, reverse, splice)


# ---- Damage to the file.


def to_pcapng(header: bytes, frames: Frames, random: Random) -> bytes:
    """The same frames as a pcapng file, with blocks that a reader has to pass over."""
    (link,) = struct.unpack_from("<20xI", header)
    blocks = [
        _block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)),
        _block(1, struct.pack("<HHI", link, 0, 0)),
    ]
    for frame in frames:
        second, micro, captured, wire = struct.unpack_from("<IIII", frame)
        time = second * 10**6 + micro
        body = struct.pack("<IIIII", 0, time >> 32 & 0xFFFFFFFF, time & 0xFFFFFFFF, captured, wire)
        blocks.append(_block(6, body + frame[RECORD_HEADER_BYTES:]))
        if random.random() < 0.02:
            blocks.append(
                _block(random.choice((2, 3, 4, 5, 10, 0xBAD, 0x40000BAD)), random.randbytes(random.randint(0, 40)))
            )
    return b"".join(blocks)


def _block(kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    size = struct.pack("<I", 12 + len(body))
    return struct.pack("<I", kind) + size + body + size


def damage_file(content: bytes, random: Random) -> bytes:
    """Damage that knows nothing of frames."""
    file = bytearray(content)
    how = random.randrange(5)
    if how == 0:
        del file[random.randrange(len(file)) :]
    elif how == 1:
        for _ in range(random.randint(1, 20)):
            file[random.randrange(len(file))] ^= 1 << random.randrange(8)
    elif how == 2:
        start = random.randrange(len(file))
        del file[start : start + random.randint(1, 2000)]
    elif how == 3:
        start = random.randrange(len(file))
        file[start:start] = random.randbytes(random.randint(1, 2000))
    else:
        start = 4 * random.randrange(min(len(file), 4000) // 4)
        file[start : start + 4] = random.choice(ABSURD).to_bytes(4, "little")
    return bytes(file)


def compress(content: bytes, random: Random) -> bytes:
    """One of the three wrappers that captures come in."""
    how = random.randrange(3)
    if how == 0:
        return gzip.compress(content, 1, mtime=0)
    if how == 1:
        return lzma.compress(content, preset=0)
    return zstandard.ZstdCompressor(level=1).compress(content)


def damaged(seed: int) -> bytes:
    """The damaged capture that belongs to ``seed``."""
    random = Random(seed)
    header, original = _split_source(random.randrange(len(sources())))
    start = 0 if random.random() < 0.7 else random.randrange(len(original))
    frames = original[start : start + random.randint(5, MAX_FRAMES)]
    for _ in range(random.choice((0, 1, 1, 2, 5))):
        random.choice(ORDER_DAMAGE)(frames, random)
        if not frames:
            break
    for _ in range(random.choice((0, 1, 3, 10, 40)) if frames else 0):
        number = random.randrange(len(frames))
        frame = bytearray(frames[number])
        if len(frame) > RECORD_HEADER_BYTES + 4:
            random.choice(FRAME_DAMAGE)(frame, random)
        frames[number] = cut_frame(bytes(frame), random) if random.random() < 0.1 else bytes(frame)
    content = to_pcapng(header, frames, random) if random.random() < 0.3 else header + b"".join(frames)
    if random.random() < 0.4:
        content = damage_file(content, random)
    if content and random.random() < 0.3:
        content = compress(content, random)
        if random.random() < 0.5:
            content = damage_file(content, random)
    return content
