"""pcapng: sections, interfaces, all kinds of packet blocks, and blocks that cannot be."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from rdstool.capture.columns import NO_PACKET, NO_TIME
from rdstool.capture.counts import FrameCounts
from rdstool.capture.files.frames import FrameReader
from rdstool.capture.files.pcapng import MAX_INTERFACES
from rdstool.capture.packets.network import parse
from rdstool.capture.reading import Reading, read_here
from tests.unit.capture.capture_files import (
    NS,
    SECOND,
    Frame,
    block,
    custom,
    enhanced,
    interface,
    journal_entry,
    old_packet,
    option,
    pcap_header,
    read_all,
    section,
    simple,
    system_call,
)

NAME_RESOLUTION, STATISTICS, DECRYPTION_SECRETS = 4, 5, 10
UNKNOWN = 0x7777
PLAIN_EVENTS, EVENTS_WITH_FLAGS = (0x204, 0x216, 0x221), (0x208, 0x217, 0x222)
"""What sysdig calls events: versions 1, 2, and 2 with long parameters."""


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
    content = section() + block(NAME_RESOLUTION, bytes(8)) + interface(options=comment) + block(UNKNOWN, b"?" * 77)
    content += enhanced(b"one", options=comment) + block(STATISTICS, bytes(12)) + block(DECRYPTION_SECRETS, bytes(8))
    content += block(UNKNOWN, b"") + enhanced(b"two")
    frames, error, _ = read(tmp_path, content)
    assert not error
    assert [frame.data for frame in frames] == [b"one", b"two"]


def without_packet(time: int = NO_TIME) -> Frame:
    return Frame(b"", time, 0, NO_PACKET)


def events(order: str) -> list[bytes]:
    """A block of each kind that Wireshark shows as a frame, though it holds no packet."""
    calls = [system_call(kind, order, stamp=7 * NS, flags=kind in EVENTS_WITH_FLAGS) for kind in EVENTS_WITH_FLAGS]
    calls += [system_call(kind, order, stamp=7 * NS) for kind in PLAIN_EVENTS]
    entry = journal_entry(b"MESSAGE=up", 5_000_000, order)
    return [custom(b"mine", order), custom(b"", order, copied=False), entry, *calls]


@pytest.mark.parametrize("order", ["<", ">"])
def test_custom_blocks_journal_entries_and_system_calls_are_frames_without_packet(tmp_path: Path, order: str) -> None:
    first, *others = events(order)
    content = section(order) + first + interface(order) + enhanced(b"one", order) + b"".join(others)
    content += enhanced(b"two", order) + first
    for chunk_bytes in (1, 50, 1 << 20):
        frames, error, _ = read(tmp_path, content, chunk_bytes)
        assert not error
        assert frames[0] == without_packet()
        assert frames[1].data == b"one"
        assert frames[2:4] == [without_packet(), without_packet(5 * NS)]
        assert frames[4:10] == [without_packet(7 * NS)] * 6
        assert frames[10].data == b"two"
        assert frames[11:] == [without_packet()]


def test_frames_without_packet_need_no_interface(tmp_path: Path) -> None:
    content = section() + custom(b"a") + section(">") + custom(b"b", ">") + interface(">") + enhanced(b"x", ">")
    frames, error, _ = read(tmp_path, content)
    assert not error
    assert [frame.data for frame in frames] == [b"", b"", b"x"]


@pytest.mark.parametrize(
    "event",
    [
        journal_entry(b"_PID=1", None),
        journal_entry(b"COPY__REALTIME_TIMESTAMP=5000000", None),
        block(0x204, bytes(8)),
        block(0x208, bytes(12)),
        block(9, b""),
        block(0xBAD, b""),
    ],
)
def test_an_event_that_tells_no_time_has_none(tmp_path: Path, event: bytes) -> None:
    frames, error, _ = read(tmp_path, section() + interface() + event + enhanced(b"x"))
    assert not error
    assert frames[0] == without_packet()
    assert frames[1].time == SECOND * NS


@pytest.mark.parametrize("event", [journal_entry(b"", 10**19), system_call(0x204, stamp=(1 << 64) - 1)])
def test_nonsense_of_an_events_time_is_no_error(tmp_path: Path, event: bytes) -> None:
    frames, error, _ = read(tmp_path, section() + interface() + event + enhanced(b"x"))
    assert not error
    assert [frame.data for frame in frames] == [b"", b"x"]


def test_a_capture_begins_with_the_first_frame_that_tells_a_time(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    for events_first, began in ((custom(b""), SECOND * NS), (custom(b"") + journal_entry(b"", 5_000_000), 5 * NS)):
        path.write_bytes(section() + events_first + interface() + enhanced(b"x" * 60))
        assert [about.time for _, about in read_here(Reading((str(path),), frozenset()))] == [began]
    path.write_bytes(section() + custom(b""))
    assert [about.time for _, about in read_here(Reading((str(path),), frozenset()))] == [None]


def test_frames_without_packet_are_counted_as_such(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    path.write_bytes(section() + custom(b"a" * 50) + interface(link=147) + enhanced(b"x") + custom(b"b"))
    counts = FrameCounts()
    for batch in FrameReader([str(path)]):
        parse(batch, counts)
    assert (counts.frames, counts.bytes, counts.snapped, counts.no_packet) == (3, 1, 0, 2)
    assert counts.reasons() == {"without a packet": 2, "other link types": 1}


def test_half_an_event_of_a_followed_file_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    entry = journal_entry(b"MESSAGE=up", 5_000_000)
    path.write_bytes(GOOD + entry[:30])
    rest = [entry[30:] + enhanced(b"three")]

    def grow() -> bool:
        if not rest:
            return False
        with path.open("ab") as file:
            file.write(rest.pop())
        return True

    frames, error = read_all(path, follow=True, wait=grow)
    assert not error
    assert [frame.data for frame in frames] == [b"good", b"too", b"", b"three"]


def test_frames_run_on_behind_those_without_packet_in_each_file(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    path.write_bytes(GOOD + custom(b"a"))
    reader = FrameReader([str(path)] * 2)
    assert [number for batch in reader for number in batch.frame.tolist()] == [1, 2, 3, 4, 5, 6]
    assert [reader.frame_label(frame) for frame in (3, 4, 6)] == [(0, 3), (1, 1), (1, 3)]


def test_a_packet_that_cannot_be_ends_the_file_behind_the_events_before_it(tmp_path: Path) -> None:
    good = GOOD + custom(b"before")
    frames, error, at = read(tmp_path, good + enhanced(b"x", interface_id=1) + custom(b"behind") + enhanced(b"later"))
    assert [frame.data for frame in frames] == [b"good", b"too", b""]
    assert "interface 1, which is not described" in error
    assert at == len(good)


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
        (block(0xBAD, bytes(20), trailer=1), "a block of 32 bytes that ends with the length 1"),
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


def test_a_cut_event_is_named(tmp_path: Path) -> None:
    for event in events("<"):
        for cut in (1, len(event) - 12, len(event) - 1):
            frames, error, at = read(tmp_path, GOOD + event[:-cut])
            assert [frame.data for frame in frames] == [b"good", b"too"]
            assert f"{len(event) - cut} of" in error
            assert at == len(GOOD)


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
