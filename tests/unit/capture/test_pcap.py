"""Classic pcap files and bare ERF files, whole, cut and broken; several files in order; parts of one file."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from rdstool.capture.files.erf import is_erf
from rdstool.capture.files.frames import FrameReader
from rdstool.capture.files.records import MAX_RECORD_BYTES
from rdstool.capture.packets.links import LINKTYPE_ERF
from tests.unit.capture.capture_files import (
    KUZNETZOV_MAGIC,
    MICROSECOND_MAGIC,
    NANOSECOND_MAGIC,
    NS,
    SECOND,
    Frame,
    erf_record,
    pcap_file,
    pcap_header,
    pcap_record,
    read_all,
)

FRAMES = [bytes([number]) * (20 + number % 90) for number in range(100)]


def written(tmp_path: Path, content: bytes, name: str = "a.pcap") -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("magic", "unit"), [(MICROSECOND_MAGIC, 1000), (NANOSECOND_MAGIC, 1)])
def test_both_byte_orders_and_resolutions(tmp_path: Path, order: str, magic: int, unit: int) -> None:
    content = pcap_header(order, magic) + b"".join(
        pcap_record(data, order, fraction=999_999 - number, wire=len(data) + 7) for number, data in enumerate(FRAMES)
    )
    seen, error = read_all(written(tmp_path, content))
    assert error is None
    assert seen == [
        Frame(data, SECOND * NS + (999_999 - number) * unit, len(data) + 7, 1) for number, data in enumerate(FRAMES)
    ]


def test_the_modified_format_has_longer_record_headers(tmp_path: Path) -> None:
    records = (pcap_record(data, ">", more_header=struct.pack(">IHBB", 2, 0x800, 0, 0)) for data in FRAMES)
    seen, error = read_all(written(tmp_path, pcap_header(">", KUZNETZOV_MAGIC) + b"".join(records)))
    assert error is None
    assert [frame.data for frame in seen] == FRAMES


def test_times_after_2038_are_not_negative(tmp_path: Path) -> None:
    seen, _ = read_all(written(tmp_path, pcap_header() + pcap_record(b"x", seconds=0xFFFF_FFFF)))
    assert seen[0].time == 0xFFFF_FFFF * NS


def test_the_link_type_has_no_upper_bits(tmp_path: Path) -> None:
    content = pcap_file(FRAMES, link=0x1400_0000 | 276)
    assert {frame.link for frame in read_all(written(tmp_path, content))[0]} == {276}


def test_a_wire_length_below_the_captured_length_is_not_believed(tmp_path: Path) -> None:
    seen, _ = read_all(written(tmp_path, pcap_header() + pcap_record(b"12345", wire=3)))
    assert seen[0].wire == 5


def test_a_header_without_frames_is_a_capture_of_nothing(tmp_path: Path) -> None:
    assert read_all(written(tmp_path, pcap_header())) == ([], None)


def test_the_error_names_the_record_that_is_not_whole(tmp_path: Path) -> None:
    content = pcap_file(FRAMES)
    seen, error = read_all(written(tmp_path, content[:-1]))
    assert [frame.data for frame in seen] == FRAMES[:-1]
    assert error is not None
    assert error.position == len(content) - 16 - len(FRAMES[-1])
    assert "ends too early" in str(error)


@pytest.mark.parametrize("length", [MAX_RECORD_BYTES + 1, 0x8000_0000, 0xFFFF_FFFF])
def test_an_absurd_length_ends_the_file_at_its_byte(tmp_path: Path, length: int) -> None:
    good = pcap_file(FRAMES)
    seen, error = read_all(written(tmp_path, good + pcap_record(b"", captured=length) + pcap_record(b"later")))
    assert [frame.data for frame in seen] == FRAMES
    assert error is not None
    assert error.position == len(good)
    assert f"a frame of {length} bytes is not possible" in str(error)


@pytest.mark.parametrize("order", "<>")
def test_where_files_were_strung_together_is_told(tmp_path: Path, order: str) -> None:
    good = pcap_file(FRAMES, order)
    seen, error = read_all(written(tmp_path, good + good))
    assert [frame.data for frame in seen] == FRAMES
    assert error is not None
    assert error.position == len(good)
    assert "another pcap file begins here" in str(error)


def test_a_frame_larger_than_a_chunk_is_read(tmp_path: Path) -> None:
    frames = [b"small", bytes(range(256)) * 400, b"small again", b"x" * 3000]
    seen, error = read_all(written(tmp_path, pcap_file(frames)), chunk_bytes=1000)
    assert error is None
    assert [frame.data for frame in seen] == frames


@pytest.mark.parametrize("chunk_bytes", [1, 7, 100, 1 << 20])
def test_the_size_of_chunks_does_not_matter(tmp_path: Path, chunk_bytes: int) -> None:
    seen, error = read_all(written(tmp_path, pcap_file(FRAMES)), chunk_bytes=chunk_bytes)
    assert error is None
    assert [frame.data for frame in seen] == FRAMES


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\n", "too short for a capture file"),
        (pcap_header()[:23], "too short for a capture file"),
        (b"#!/bin/sh\necho this is no capture\n", "not a capture file: it begins with 23 21 2f 62"),
        (b"BZh91AY&SY" + bytes(50), "compressed with bzip2"),
        (b"\x04\x22\x4d\x18" + bytes(50), "compressed with lz4"),
        (b"PK\x03\x04" + bytes(50), "a zip archive"),
        (b"snoop\0\0\0" + bytes(50), "a snoop file"),
        (b"GMBU" + bytes(50), "a Network Monitor file: convert it to pcapng first (editcap -F pcapng)"),
        (bytes(100_000), "not a capture file"),
    ],
)
def test_what_is_no_capture_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    seen, error = read_all(written(tmp_path, content))
    assert not seen
    assert error is not None
    assert words in str(error)
    assert error.position == 0


def test_frames_are_numbered_over_several_files(tmp_path: Path) -> None:
    paths = [str(written(tmp_path, pcap_file(FRAMES[:count]), f"{count}.pcap")) for count in (3, 0, 5)]
    reader = FrameReader(paths)
    batches = [(batch.file, batch.frame.tolist(), batch.consumed) for batch in reader]
    sizes = [Path(path).stat().st_size for path in paths]
    assert batches == [(0, [1, 2, 3], sizes[0]), (2, [4, 5, 6, 7, 8], sizes[2])]
    assert reader.bases == [0, 3, 3]
    assert [reader.frame_label(frame) for frame in (1, 3, 4, 8)] == [(0, 1), (0, 3), (2, 1), (2, 5)]
    assert reader.frames == 8


def test_a_broken_file_does_not_hide_the_next_one(tmp_path: Path) -> None:
    paths = [
        written(tmp_path, pcap_file(FRAMES[:3])[:-1], "cut"),
        tmp_path / "missing",
        written(tmp_path, pcap_file(FRAMES[3:5]), "whole"),
    ]
    seen, error = read_all(*paths)
    assert [frame.data for frame in seen] == FRAMES[:2] + FRAMES[3:5]
    assert error is not None
    assert str(error).startswith(f"{paths[0]}: the file ends too early")


def test_a_broken_file_ends_following(tmp_path: Path) -> None:
    cut = written(tmp_path, pcap_file(FRAMES[:3])[:-1], "cut")
    seen, error = read_all(cut, written(tmp_path, pcap_file(FRAMES)), follow=True, wait=lambda: False)
    assert len(seen) == 2
    assert error is not None


def test_pads_of_an_erf_file_take_no_number(tmp_path: Path) -> None:
    first, second = erf_record(2, b"first frame"), erf_record(21, b"second frame")
    pad, extended, provenance = erf_record(48, b""), erf_record(48, b"", extensions=1), erf_record(27, bytes(24))
    content = pad + first + pad + pad + provenance + extended + second + pad
    path = written(tmp_path, content)
    for chunk_bytes in (1, 50, 1 << 20):
        seen, error = read_all(path, chunk_bytes=chunk_bytes)
        assert error is None
        assert [frame.data for frame in seen] == [first, provenance, extended, second]
    seen, error = read_all(written(tmp_path, content[:-1]))
    assert len(seen) == 4
    assert error is not None
    assert "15 of 16 bytes" in str(error)
    assert read_all(written(tmp_path, pad * 3)) == ([], None)


def erf_file(count: int, kind: int = 21) -> tuple[bytes, list[Frame]]:
    records = [erf_record(kind, data, fraction=1 << 31, seconds=SECOND + n) for n, data in enumerate(FRAMES[:count])]
    frames = [Frame(data, (SECOND + n) * NS + NS // 2, len(data), LINKTYPE_ERF) for n, data in enumerate(records)]
    return b"".join(records), frames


@pytest.mark.parametrize("count", [1, 2, 100])
@pytest.mark.parametrize("chunk_bytes", [1, 1 << 20])
def test_erf_records_without_a_file_header(tmp_path: Path, count: int, chunk_bytes: int) -> None:
    content, frames = erf_file(count)
    assert read_all(written(tmp_path, content), chunk_bytes=chunk_bytes) == (frames, None)


def test_a_broken_erf_record_ends_the_file(tmp_path: Path) -> None:
    content, frames = erf_file(10)
    bad = struct.pack("<II", 0, SECOND) + struct.pack(">BBHHH", 21, 4, 15, 0, 0)
    seen, error = read_all(written(tmp_path, content + bad + content))
    assert seen == frames
    assert error is not None
    assert error.position == len(content)
    seen, error = read_all(written(tmp_path, content[:-1]))
    assert seen == frames[:-1]
    assert error is not None


def test_erf_is_not_seen_where_it_is_not() -> None:
    content, _ = erf_file(3)
    assert is_erf(content, whole=True)
    assert is_erf(content[:20], whole=False) is None
    far = erf_record(21, b"x" * 30) + erf_record(21, b"x" * 30, seconds=SECOND + 365 * 24 * 3600)
    for other in (erf_record(90, b"x" * 30), erf_record(21, b"", seconds=0), far, b""):
        assert not is_erf(other, whole=True)
