"""Where the records of a pcap file begin: what is guessed is what step by step is found."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

import numpy as np
import pytest

from rdstool.capture.files.boundaries import LANE_FRAMES, MIN_LANES, RecordHeader, boundaries
from rdstool.capture.files.records import MAX_FRAMES
from tests.unit.capture.capture_files import SECOND, pcap_record

LONG_BYTES = (MIN_LANES + 40) * LANE_FRAMES * 1024
"""Enough for guesses."""
Walk = tuple[list[int], int]


def step_by_step(content: bytes, start: int, order: str, size: int) -> Walk:
    """What the format says, and nothing else."""
    starts: list[int] = []
    while start + size <= len(content) and len(starts) < MAX_FRAMES:
        starts.append(start)
        start += size + struct.unpack_from(order + "I", content, start + 8)[0]
    return starts, start


def found(content: bytes, start: int = 0, order: str = "<", size: int = 16) -> Walk:
    starts, behind = boundaries(
        np.frombuffer(content, np.uint8), start, len(content), RecordHeader(order, size), MAX_FRAMES
    )
    return starts.tolist(), behind


def records(sizes: Sequence[int], filling: bytes, order: str = "<", seconds: int = SECOND, more: bytes = b"") -> bytes:
    texts = {size: (filling * (size // len(filling) + 1))[:size] for size in set(sizes)}
    return b"".join(
        pcap_record(texts[size], order, seconds=seconds + number // 1000, more_header=more)
        for number, size in enumerate(sizes)
    )


def sizes_of(seed: int, biggest: int) -> list[int]:
    chance = random.Random(seed)
    sizes: list[int] = []
    while sum(sizes) < LONG_BYTES:
        sizes += [chance.choice([0, 1, 66, chance.randrange(biggest), biggest]) for _ in range(64)]
    return sizes


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("biggest", [200, 1514, 9014, 70_000])
@pytest.mark.parametrize("more", [b"", bytes(8)])
def test_frames_of_any_size(order: str, biggest: int, more: bytes) -> None:
    size = 16 + len(more)
    content = bytes(24) + records(sizes_of(biggest, biggest), b"\xa5\0\x7f", order, more=more)
    assert found(content, 24, order, size) == step_by_step(content, 24, order, size)


def test_a_frame_may_hold_what_looks_like_records() -> None:
    lookalikes = b"".join(pcap_record(bytes(size)) for size in (60, 60, 60, 200))
    content = records(sizes_of(1, 1514), lookalikes)
    assert found(content) == step_by_step(content, 0, "<", 16)


def test_a_time_that_looks_like_anything_is_no_help() -> None:
    content = records(sizes_of(2, 1514), bytes(1), seconds=0)
    assert found(content) == step_by_step(content, 0, "<", 16)


def test_times_may_leap() -> None:
    half = records(sizes_of(3, 300), b"x")
    content = half + records(sizes_of(4, 300), b"y", seconds=SECOND + 10_000_000)
    assert found(content) == step_by_step(content, 0, "<", 16)


def test_one_look_has_no_more_than_so_many() -> None:
    content = records([1] * (MAX_FRAMES + 1000), b"z")
    starts, behind = found(content)
    assert len(starts) == MAX_FRAMES
    assert behind == starts[-1] + 17
    assert found(content, behind) == step_by_step(content, behind, "<", 16)


@pytest.mark.parametrize("length", [5_000, 1 << 20, 0xFFFF_FFFF])
@pytest.mark.parametrize("place", [0.1, 0.5, 0.999])
def test_a_length_may_lie(length: int, place: float) -> None:
    content = bytearray(records(sizes_of(5, 1514), b"w"))
    starts, _ = step_by_step(bytes(content), 0, "<", 16)
    struct.pack_into("<I", content, starts[int(len(starts) * place)] + 8, length)
    assert found(bytes(content)) == step_by_step(bytes(content), 0, "<", 16)


@pytest.mark.parametrize("seed", range(20))
def test_bytes_may_be_damaged_anywhere(seed: int) -> None:
    chance = random.Random(seed)
    content = bytearray(records(sizes_of(seed, 1514), b"v"))
    for _ in range(chance.choice([1, 10, 1000])):
        content[chance.randrange(len(content))] = chance.randrange(256)
    cut = bytes(content[: chance.randrange(len(content) // 2, len(content))])
    assert found(cut) == step_by_step(cut, 0, "<", 16)
