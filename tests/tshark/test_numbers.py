"""Frames have the numbers that Wireshark gives them, in files too that hold more than packets."""

from __future__ import annotations

import struct
from itertools import cycle
from pathlib import Path

from rdstool.capture.files.frames import read_frames
from rdstool.capture.pipeline import open_capture
from rdstool.tshark.program import Tshark
from tests.fuzz.damage import RECORD_HEADER_BYTES, Frames, sources, split
from tests.tshark.running import compare, rows
from tests.unit.capture.capture_files import (
    block,
    custom,
    enhanced,
    erf_record,
    interface,
    journal_entry,
    option,
    section,
    simple,
    system_call,
)

FLAGS_COUNT = (4, 6)
"""From here on, sysdig's events with flags take a number."""
NETFLIX = 10949
"""The enterprise of a custom block that Wireshark knows: here one of type 2, so many events are left out."""
SECOND = 1_700_000_000


def other_blocks(order: str, *, with_flags: bool) -> list[bytes]:
    """A block of each kind that is no packet, most of which take a number."""
    events = [system_call(kind, order) for kind in (0x204, 0x216, 0x221)]
    if with_flags:
        events += [system_call(kind, order, flags=True) for kind in (0x208, 0x217, 0x222)]
    return [
        custom(b"unknown", order),
        custom(b"", order, copied=False),
        custom(struct.pack("<II", 2, 5), order, enterprise=NETFLIX),
        journal_entry(b"MESSAGE=eth0: link is up", SECOND * 1_000_000, order),
        block(4, bytes(4), order),
        block(5, struct.pack(f"{order}III", 0, 0, 0), order),
        block(10, struct.pack(f"{order}II4s", 0x544C534B, 4, b"keys"), order),
        block(0x7777, b"nobody knows", order),
        *events,
    ]


def with_other_blocks(frames: Frames, *, with_flags: bool) -> bytes:
    """The frames in sections of both byte orders, with other blocks before, between and behind them."""
    parts = []
    for order, ours in (("<", frames[:60]), (">", frames[60:120]), ("<", frames[120:])):
        others = other_blocks(order, with_flags=with_flags)
        parts += [section(order), others[0], interface(order), *others]
        for frame, other in zip(ours, cycle(others), strict=False):
            seconds, fraction = struct.unpack_from("<II", frame)
            stamp = seconds * 1_000_000 + fraction
            parts += [enhanced(frame[RECORD_HEADER_BYTES:], order, stamp=stamp, options=option(0, b"")), other]
    parts.append(simple(bytes(60)))
    return b"".join(parts)


def test_no_difference_where_other_blocks_take_numbers(tmp_path: Path, tshark: Tshark) -> None:
    for name in ("tcp-basic-73", "ib-rdma-73"):
        path = tmp_path / f"{name}.pcapng"
        frames = split(dict(sources())[name])[1][:180]
        path.write_bytes(with_other_blocks(frames, with_flags=tshark.version >= FLAGS_COUNT))
        assert compare(path, tshark) == []
        with open_capture(path) as capture:
            numbers = [str(message.frame) for message in capture if message.complete]
            total = capture.frames.frames
        theirs = rows(tshark, path, ("frame.number", "rds.sequence"), quiet=False)
        assert [number for number, _ in theirs] == [str(number) for number in range(1, total + 1)]
        assert numbers
        assert [number for number, sequence in theirs for _ in filter(None, sequence.split("|"))] == numbers


def test_all_records_of_an_erf_file_but_pads_take_numbers(tmp_path: Path, tshark: Tshark) -> None:
    packets = [erf_record(2, frame[RECORD_HEADER_BYTES:]) for frame in split(dict(sources())["tcp-basic-73"])[1][:20]]
    others = [erf_record(kind, bytes(40), extensions=extensions) for kind in (1, 27, 48) for extensions in (0, 1)]
    path = tmp_path / "a.erf"
    path.write_bytes(b"".join(packets + others * 2 + packets))
    numbers = [str(number) for batch in read_frames([str(path)]) for number in batch.frame.tolist()]
    assert len(numbers) == 2 * len(packets) + 2 * (len(others) - 1)
    assert [number for (number,) in rows(tshark, path, ("frame.number",), quiet=False)] == numbers
