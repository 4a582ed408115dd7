"""pcapng: sections, interfaces, all kinds of packet blocks, and blocks that cannot be."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from rdstool.capture.files.pcapng import MAX_INTERFACES
from tests.unit.capture.capture_files import (
    NS,
    SECOND,
    Frame,
    block,
    enhanced,
    interface,
    old_packet,
    option,
    pcap_header,
    read_all,
    section,
    simple,
)

NAME_RESOLUTION, STATISTICS, DECRYPTION_SECRETS, CUSTOM = 4, 5, 10, 0xBAD


def read(tmp_path: Path, content: bytes, chunk_bytes: int = 1 << 20) -> tuple[list[Frame], str, int | None]:
    """Frames, the error's text ("" without one) and its position."""
    path = tmp_path / "a.pcapng"
    path.write_bytes(content)
    frames, error = read_all(path, chunk_bytes=chunk_bytes)
    return frames, str(error) if error else "", error.position if error else None


def test_sections_have_a_byte_order_and_interfaces_of_their_own(tmp_path: Path) -> None:
    content = (
        section("<") + interface("<", link=1) + interface("<", link=101) + enhanced(b"one", interface_id=1)
        + enhanced(b"two", interface_id=0, wire=1500)
        + section(">") + interface(">", link=247) + enhanced(b"three", ">", interface_id=0)
        + section("<") + interface("<", link=276) + enhanced(b"four")
    )  # fmt: skip
    for chunk_bytes in (1, 50, 1 << 20):
        frames, error, _ = read(tmp_path, content, chunk_bytes)
        assert not error
        assert [(frame.data, frame.link, frame.wire) for frame in frames] == [
            (b"one", 101, 3),
            (b"two", 1, 1500),
            (b"three", 247, 5),
            (b"four", 276, 4),
        ]
        assert {frame.time for frame in frames} == {SECOND * NS}


@pytest.mark.parametrize(
    ("resolution", "stamp", "ns"),
    [
        (None, SECOND * 10**6 + 123_456, 123_456_000),
        (6, SECOND * 10**6 + 1, 1000),
        (9, SECOND * 10**9 + 123_456_789, 123_456_789),
        (3, SECOND * 10**3 + 5, 5_000_000),
        (0, SECOND, 0),
        (10, SECOND * 10**10 + 19, 1),
        (0x80 | 10, SECOND * 1024 + 512, 500_000_000),
        (0x80 | 0, SECOND, 0),
        (0x80 | 32, (SECOND << 32) + (1 << 30), 250_000_000),
        (0x80 | 33, (SECOND << 33) + (3 << 31), 750_000_000),
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_stamps_of_any_resolution_are_read_as_nanoseconds(
    tmp_path: Path, order: str, resolution: int | None, stamp: int, ns: int
) -> None:
    options = b"" if resolution is None else option(9, bytes([resolution]), order) + option(0, b"", order)
    frames, error, _ = read(
        tmp_path, section(order) + interface(order, options=options) + enhanced(b"x", order, stamp=stamp)
    )
    assert not error
    assert frames[0].time == SECOND * NS + ns


def test_a_time_offset_is_added_in_seconds(tmp_path: Path) -> None:
    options = option(2, b"eth0") + option(14, struct.pack("<q", -3600)) + option(9, b"\x09") + option(0, b"")
    frames, _, _ = read(tmp_path, section() + interface(options=options) + enhanced(b"x", stamp=SECOND * NS))
    assert frames[0].time == (SECOND - 3600) * NS


@pytest.mark.parametrize("resolution", [0, 19, 20, 127, 0x80 | 34, 0x80 | 63, 0x80 | 127])
def test_nonsense_of_time_is_no_error(tmp_path: Path, resolution: int) -> None:
    options = option(9, bytes([resolution])) + option(14, b"\x7f" * 8)
    frames, error, _ = read(tmp_path, section() + interface(options=options) + enhanced(b"x", stamp=(1 << 64) - 1))
    assert not error
    assert len(frames) == 1


def test_a_simple_packet_has_what_the_interface_lets_through(tmp_path: Path) -> None:
    cut = section() + interface(link=113, snaplen=6) + simple(b"123456", wire=100) + simple(b"1234567")
    frames, error, _ = read(tmp_path, cut)
    assert not error
    assert frames == [Frame(b"123456", 0, 100, 113), Frame(b"123456", 0, 7, 113)]
    whole = section(">") + interface(">") + simple(b"1234567", ">") + simple(b"", ">")
    assert read(tmp_path, whole)[0] == [Frame(b"1234567", 0, 7, 1), Frame(b"", 0, 0, 1)]


@pytest.mark.parametrize("order", ["<", ">"])
def test_old_packet_blocks_have_a_short_interface_number(tmp_path: Path, order: str) -> None:
    content = section(order) + interface(order, 1) + interface(order, 101)
    content += old_packet(b"abc", order, interface_id=1, drops=7, stamp=5) + enhanced(b"def", order, stamp=6)
    frames, error, _ = read(tmp_path, content)
    assert not error
    assert frames == [Frame(b"abc", 5000, 3, 101), Frame(b"def", 6000, 3, 1)]


def test_other_blocks_and_comments_are_passed_over(tmp_path: Path) -> None:
    comment = option(1, b"what a strange packet") + option(0, b"")
    content = section() + block(NAME_RESOLUTION, bytes(8)) + interface(options=comment) + block(CUSTOM, b"?" * 77)
    content += enhanced(b"one", options=comment) + block(STATISTICS, bytes(12)) + block(DECRYPTION_SECRETS, bytes(8))
    content += block(CUSTOM, b"") + enhanced(b"two")
    frames, error, _ = read(tmp_path, content)
    assert not error
    assert [frame.data for frame in frames] == [b"one", b"two"]


def test_an_interface_may_come_late(tmp_path: Path) -> None:
    content = section() + interface() + enhanced(b"one") + interface(link=101) + enhanced(b"two", interface_id=1)
    frames, error, _ = read(tmp_path, content)
    assert not error
    assert [frame.link for frame in frames] == [1, 101]


GOOD = section() + interface() + enhanced(b"good") + enhanced(b"too")


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (struct.pack("<II", 6, 1 << 31) + bytes(100), "a block of 2147483648 bytes is not possible"),
        (struct.pack("<II", 6, 0xFFFFFFFC) + bytes(100), "a block of 4294967292 bytes is not possible"),
        (struct.pack("<II", 6, 0) + bytes(100), "a block of 0 bytes is not possible"),
        (struct.pack("<II", 6, 28) + bytes(100), "a block of 28 bytes is not possible"),
        (struct.pack("<II", 77, 13) + bytes(100), "a block of 13 bytes is not possible"),
        (struct.pack("<II", 1, 16) + bytes(100), "a block of 16 bytes is not possible"),
        (block(77, bytes(8), trailer=24), "a block of 20 bytes that ends with the length 24"),
        (block(6, bytes(20), trailer=0), "a block of 32 bytes that ends with the length 0"),
        (block(3, bytes(20), trailer=1), "a block of 32 bytes that ends with the length 1"),
        (enhanced(b"x", interface_id=1), "a packet of interface 1, which is not described"),
        (enhanced(b"x", captured=5), "a packet of 5 bytes in a block of 36"),
        (enhanced(b"x", captured=0xFFFFFFFF), "a packet of 4294967295 bytes in a block of 36"),
        (section(">") + simple(b"x", ">"), "a packet of interface 0, which is not described"),
        (section(major=2), "version 2.0 of pcapng is not known"),
        (block(0x0A0D0D0A, bytes(16)), "a section header without byte order"),
        (block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1), trailer=32), "ends with the length 32"),
        (struct.pack("<IIIHHqI", 0x0A0D0D0A, 26, 0x1A2B3C4D, 1, 0, -1, 26), "a section header of 26 bytes"),
    ],
)
def test_a_block_that_cannot_be_ends_the_file_at_its_byte(tmp_path: Path, bad: bytes, words: str) -> None:
    position = len(GOOD) + (28 if bad.startswith(section(">")) else 0)
    for chunk_bytes in (1, 1 << 20):
        frames, error, at = read(tmp_path, GOOD + bad + enhanced(b"later"), chunk_bytes)
        assert [frame.data for frame in frames] == [b"good", b"too"]
        assert words in error
        assert at == position


def test_a_cut_block_is_named(tmp_path: Path) -> None:
    whole = len(GOOD)
    last = len(enhanced(b"too"))
    for cut in (1, 10, last - 12, last - 11, last - 1):
        frames, error, at = read(tmp_path, GOOD[:-cut])
        assert [frame.data for frame in frames] == [b"good"]
        assert "ends too early" in error
        assert at == whole - last


def test_a_cut_section_header_is_named(tmp_path: Path) -> None:
    for cut in range(1, 28):
        frames, error, at = read(tmp_path, GOOD + section(">")[:-cut])
        assert len(frames) == 2
        assert error
        assert at == len(GOOD)


def test_a_section_block_alone_is_a_capture_of_nothing(tmp_path: Path) -> None:
    assert read(tmp_path, section()) == ([], "", None)


def test_options_that_run_over_their_block_end_there(tmp_path: Path) -> None:
    content = section() + interface(options=struct.pack("<HH", 9, 60_000) + bytes(4)) + enhanced(b"x")
    frames, error, _ = read(tmp_path, content)
    assert not error
    assert frames[0].time == SECOND * NS


def test_interfaces_are_limited(tmp_path: Path) -> None:
    frames, error, _ = read(tmp_path, section() + interface() * (MAX_INTERFACES + 1) + enhanced(b"x"), 1 << 22)
    assert not frames
    assert f"more than {MAX_INTERFACES} interfaces" in error


def test_pcap_and_pcapng_may_be_mixed(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(GOOD)
    second.write_bytes(pcap_header())
    frames, error = read_all(first, second, first)
    assert error is None
    assert [frame.data for frame in frames] == [b"good", b"too"] * 2
