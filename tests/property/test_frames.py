"""Whatever happens to a file, its frames up to there come out, and nothing but CaptureError is raised."""

from __future__ import annotations

import gzip
import io
import itertools
import lzma

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from rdstool.capture.counts import FrameCounts
from rdstool.capture.files import erf, pcap, pcapng
from rdstool.capture.files.frames import CHUNK_BYTES, batches_of
from rdstool.capture.files.source import Input
from rdstool.capture.packets.network import parse
from rdstool.errors import CaptureError
from tests.unit.capture.capture_files import (
    KUZNETZOV_MAGIC,
    NANOSECOND_MAGIC,
    SECOND,
    Frame,
    block,
    custom,
    enhanced,
    erf_record,
    frames_in,
    interface,
    journal_entry,
    old_packet,
    option,
    pcap_file,
    pcap_header,
    pcap_record,
    section,
    simple,
    system_call,
)
from tests.unit.capture.parsing import batch_of, check_columns, check_counts, parse_frames
from tests.unit.capture.test_links import LINKS
from tests.unit.capture.test_network import INFINIBAND

PACKETS = [(link, frame) for link, *frames in LINKS.values() for frame in frames]
PACKETS += [(link, frame) for link, frame, *_ in INFINIBAND.values()]
LINK_TYPES = sorted({link for link, _ in PACKETS})
ETHERNET = [frame for link, frame in PACKETS if link == 1]


def pcapng_file() -> bytes:
    parts = [section(), block(5, bytes(12)), custom(b"")]
    parts += [interface(link=link, options=option(9, b"\x09")) for link in LINK_TYPES]
    parts += [enhanced(frame, interface_id=LINK_TYPES.index(link)) for link, frame in PACKETS]
    parts += [system_call(0x216), journal_entry(b"MESSAGE=a link is up", SECOND * 10**6)]
    parts += [
        section(">"),
        interface(">", link=1, snaplen=60),
        custom(b"mine", ">"),
        old_packet(ETHERNET[0], ">"),
        simple(ETHERNET[1], ">"),
    ]
    parts += [enhanced(frame, ">", options=option(1, b"comment", ">")) for frame in ETHERNET[2:6]]
    return b"".join(parts)


KUZNETZOV = pcap_header(">", KUZNETZOV_MAGIC) + b"".join(pcap_record(f, ">", more_header=bytes(8)) for f in ETHERNET)
FILES = {
    "pcap": pcap_file(ETHERNET),
    "pcap, big-endian, nanoseconds": pcap_file(ETHERNET, ">", NANOSECOND_MAGIC),
    "pcap, modified": KUZNETZOV,
    "pcapng": pcapng_file(),
    "ERF": b"".join(erf_record(2, frame) for frame in ETHERNET) + 2 * erf_record(48, b""),
}
FILES["gzip"] = gzip.compress(FILES["pcap"], mtime=0)
FILES["xz"] = lzma.compress(FILES["pcapng"])
FILES["zstd"] = zstandard.ZstdCompressor().compress(FILES["pcap"])
names = st.sampled_from(sorted(FILES))


def read(content: bytes, chunk_bytes: int = CHUNK_BYTES) -> tuple[list[Frame], CaptureError | None]:
    """Read and parse; any other exception than CaptureError fails the test."""
    source = Input("a file", io.BytesIO(content), None, follow=False, wait=lambda: False)
    frames: list[Frame] = []
    counts = FrameCounts()
    error = None
    try:
        for batch in batches_of(source, 0, 1, chunk_bytes):
            frames += frames_in(batch)
            parsed = parse(batch, counts)
            check_columns(parsed.tcp, batch)
            check_columns(parsed.ib, batch)
    except CaptureError as caught:
        error = caught
    check_counts(counts)
    assert counts.frames == len(frames)
    if error is not None:
        assert "\n" not in str(error)
        assert error.position is None or error.position >= 0
    return frames, error


@given(names, st.data())
def test_a_cut_file_gives_the_first_of_its_frames(name: str, data: st.DataObject) -> None:
    content = FILES[name]
    whole, error = read(content)
    assert error is None
    size = data.draw(st.integers(0, len(content) - 1))
    frames, error = read(content[:size])
    assert frames == whole[: len(frames)]
    if error is None:
        # Cut at a boundary, so another record can follow.
        assert name not in {"gzip", "xz", "zstd"}
        assert read(content[:size] + content[size:])[0][: len(frames)] == frames
    elif name.startswith("pcap") and size >= 28:
        assert error.position is not None
        assert read(content[: error.position]) == (frames, None)


@given(names, st.data())
def test_a_corrupted_file_gives_frames_or_an_error(name: str, data: st.DataObject) -> None:
    content = bytearray(FILES[name])
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + 4] = data.draw(st.binary(min_size=1, max_size=4))
    read(bytes(content), data.draw(st.sampled_from([100, CHUNK_BYTES])))


@given(st.binary(max_size=300), st.sampled_from([b"", *(content[:48] for content in FILES.values())]))
def test_any_bytes_give_frames_or_an_error(rubbish: bytes, head: bytes) -> None:
    read(head + rubbish)


@pytest.mark.parametrize("name", FILES)
def test_chunks_do_not_matter(name: str) -> None:
    whole, error = read(FILES[name])
    assert error is None
    assert len(whole) >= len(ETHERNET)
    for chunk_bytes in (1, 2, 61, 1000):
        assert read(FILES[name], chunk_bytes) == (whole, None)


@pytest.mark.parametrize("most", [1, 2, 5])
@pytest.mark.parametrize("name", FILES)
def test_how_many_frames_one_look_brings_does_not_matter(name: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, error = read(FILES[name])
    assert error is None
    plain = {"gzip": "pcap", "xz": "pcapng", "zstd": "pcap"}.get(name, name)
    broken = FILES[plain][:-5]
    rest = read(broken)
    for form in (pcap, pcapng, erf):
        monkeypatch.setattr(form, "MAX_FRAMES", most)
    source = Input("a file", io.BytesIO(FILES[name]), None, follow=False, wait=lambda: False)
    assert max(len(batch) for batch in batches_of(source, 0, 1)) == most
    for chunk_bytes in (1, 61, 1000, CHUNK_BYTES):
        assert read(FILES[name], chunk_bytes) == (whole, None)
        frames, error = read(broken, chunk_bytes)
        assert (frames, str(error)) == (rest[0], str(rest[1]))


@given(names, st.integers(1, 400), st.data())
def test_chunks_do_not_matter_in_a_broken_file(name: str, chunk_bytes: int, data: st.DataObject) -> None:
    content = bytearray(FILES[name])
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    frames, error = read(bytes(content), chunk_bytes)
    expected, expected_error = read(bytes(content))
    assert frames == expected
    assert str(error) == str(expected_error)


@given(
    st.lists(st.tuples(st.sampled_from(PACKETS), st.integers(0, 200), st.integers(0, 100_000)), max_size=8), st.data()
)
def test_any_change_of_headers_is_counted_somewhere(
    picks: list[tuple[tuple[int, bytes], int, int]], data: st.DataObject
) -> None:
    frames, links, wire = [], [], []
    for (link, packet), at, more in picks:
        changed = bytearray(packet)
        changed[at : at + 3] = data.draw(st.binary(max_size=3))
        frames.append(bytes(changed))
        links.append(link)
        wire.append(len(changed) + more)
    parse_frames(frames, links, wire, data.draw(st.sampled_from([None, frozenset({16385, 1})])))


@given(st.lists(st.binary(max_size=120), max_size=10), st.sampled_from([*LINK_TYPES, 147]))
def test_any_frames_are_counted_somewhere(frames: list[bytes], link: int) -> None:
    parse_frames(frames, link)


@given(st.permutations(range(len(PACKETS))))
def test_frames_are_parsed_alike_alone_and_together(order: list[int]) -> None:
    picked = [PACKETS[index] for index in order[:6]]
    together = parse(batch_of([frame for _, frame in picked], [link for link, _ in picked]), FrameCounts())
    tcp, ib = itertools.count(), itertools.count()
    for link, frame in picked:
        alone = parse(batch_of([frame], link), FrameCounts())
        for one, all_of_them, rows in ((alone.tcp, together.tcp, tcp), (alone.ib, together.ib, ib)):
            if len(one):
                row = next(rows)
                for name in ("src_hi", "src_lo", "dst_hi", "dst_lo", "captured", "length"):
                    assert getattr(one, name)[0] == getattr(all_of_them, name)[row]
