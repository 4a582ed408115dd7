"""A grown capture is the source again and again: other hosts, later, and every checksum right."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.grow import FILE_HEADER_BYTES, bytes_of, grow, read

ROOT = Path(__file__).parents[2]
TCP = ROOT / "pcaps" / "tcp-basic-73" / "a.pcap.gz"
IB = ROOT / "pcaps" / "ib-rdma-73" / "a.pcap.gz"
SIZES = {TCP: 8_000_000, IB: 1_400_000}
COPIES = 3


def grown(source: Path, interleave: int = 2) -> bytes:
    """Three copies of a capture."""
    output = io.BytesIO()
    assert grow(source, output, SIZES[source], interleave) == COPIES
    return output.getvalue()


def records(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Time in microseconds and bytes of each frame."""
    position = FILE_HEADER_BYTES
    while position < len(content):
        seconds, micros, captured = struct.unpack_from("<III", content, position)
        yield seconds * 10**6 + micros, content[position + 16 : position + 16 + captured]
        position += 16 + captured


def is_ipv4(frame: bytes) -> bool:
    return frame[12:14] == b"\x08\x00"


def network_of(frame: bytes) -> bytes:
    """The network of the sender's copy: 10.x.y."""
    return frame[26:29]


def ones_complement_sum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@pytest.mark.parametrize("source", [TCP, IB])
def test_every_copy_has_hosts_of_its_own(source: Path) -> None:
    frames = [frame for _, frame in records(grown(source)) if is_ipv4(frame)]
    assert {network_of(frame) for frame in frames} == {bytes((10, 0, copy)) for copy in range(COPIES)}
    assert all(frame[26:29] == frame[30:33] for frame in frames)


@pytest.mark.parametrize("source", [TCP, IB])
def test_a_copy_is_the_source_but_for_addresses_and_checksums(source: Path) -> None:
    original = read(source)
    lengths = [int(length) - 16 for length in original.lengths]
    assert [len(frame) for _, frame in records(grown(source, interleave=1))] == lengths * COPIES


def test_copies_that_run_together_alternate_frame_by_frame() -> None:
    networks = [network_of(frame)[2] for _, frame in records(grown(TCP)) if is_ipv4(frame)]
    assert networks[:6] == [0, 1, 0, 1, 0, 1]
    assert networks[-6:] == [2] * 6


def test_a_group_of_copies_comes_after_the_one_before() -> None:
    times: dict[int, list[int]] = {0: [], 1: [], 2: []}
    for time, frame in records(grown(TCP)):
        if is_ipv4(frame):
            times[network_of(frame)[2]].append(time)
    assert max(times[0] + times[1]) < min(times[2])


@pytest.mark.parametrize("source", [TCP, IB])
def test_ipv4_header_checksums_are_right(source: Path) -> None:
    assert {ones_complement_sum(frame[14:34]) for _, frame in records(grown(source)) if is_ipv4(frame)} == {0xFFFF}


def test_tcp_checksums_are_right() -> None:
    for _, frame in records(grown(TCP)):
        if is_ipv4(frame):
            segment = frame[34 : 14 + struct.unpack_from(">H", frame, 16)[0]]
            assert ones_complement_sum(frame[26:34] + struct.pack(">HH", 6, len(segment)) + segment) == 0xFFFF


def test_invariant_crcs_are_right() -> None:
    seen = 0
    for _, frame in records(grown(IB)):
        if is_ipv4(frame):
            packet = bytearray(frame[14:])
            for masked in (1, 8, 10, 11, 26, 27, 32):  # TOS, TTL, the two checksums, the BTH's variant byte
                packet[masked] = 0xFF
            assert zlib.crc32(bytes([0xFF] * 8) + packet[:-4]).to_bytes(4, "little") == packet[-4:]
            seen += 1
    assert seen


def test_connection_requests_name_the_hosts_of_their_copy() -> None:
    original = read(IB).hosts
    datagrams = [frame for _, frame in records(grown(IB)) if is_ipv4(frame) and frame[42] == 0x64]
    assert datagrams
    assert not any(host in frame for frame in datagrams for host in original)
    assert any(frame.count(frame[26:30]) > 1 for frame in datagrams)


def test_the_same_arguments_give_the_same_file() -> None:
    assert grown(TCP) == grown(TCP)


def test_sizes_are_decimal() -> None:
    assert (bytes_of("300M"), bytes_of("3g"), bytes_of("1.5K"), bytes_of("77")) == (
        300_000_000,
        3_000_000_000,
        1500,
        77,
    )
