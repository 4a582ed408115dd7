"""Captures made to exhaust a reader: memory stays bounded, every command ends, its exit status tells what happened."""

from __future__ import annotations

import gzip
import lzma
import os
import resource
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import zstandard

from dissectors.wire.checksum import with_checksum
from dissectors.wire.rds import RdsHeader
from rdstool.capture.ib.table import MAX_DIRECTIONS
from tests.fuzz.crafted import ACK, FIN, PCAP_HEADER, SYN, rds_header, record, roce_frame, tcp_frame, write_pcap

MEMORY_BYTES = 2 << 30
"""Address space that a command may have; what it maps at start is a good part of it."""
PEAK_BYTES = 400_000_000
"""Memory that a command may take of a capture of any size."""
TELLING_MEMORY = """\
import pathlib, sys
from rdstool.__main__ import main
try:
    main()
finally:
    sys.stderr.write(pathlib.Path("/proc/self/status").read_text())
"""
"""The command as a program that tells at last how much memory it had at most."""
SECONDS = 300
"""What never ends is a fault; how long the rest takes depends on what else the machine does."""
CLEAN, PROBLEMS, UNUSABLE = 0, 1, 2
COMMANDS = (("decode", "--json"), ("validate",), ("stats", "--json"))


def rdstool(*arguments: str, program: tuple[str, ...] = ("-m", "rdstool")) -> subprocess.CompletedProcess[str]:
    """Run the command with little memory."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))

    return subprocess.run(
        [sys.executable, *program, *arguments],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        preexec_fn=limit,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )


def peak_bytes(done: subprocess.CompletedProcess[str]) -> int:
    """The most memory that a command took which was run with ``TELLING_MEMORY``."""
    return int(done.stderr.rpartition("VmHWM:")[2].split()[0]) << 10


def expect(command: tuple[str, ...], path: Path, *statuses: int) -> str:
    """Run a command on a file and return its results; its status is one of those, and no traceback was written."""
    done = rdstool(*command, str(path))
    assert done.returncode in statuses, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert "a fault of rdstool" not in done.stderr
    if done.returncode == UNUSABLE:
        assert done.stderr.splitlines()[-1].startswith("rdstool: error: ")
    return done.stdout


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_length_of_four_gibibytes_is_not_waited_for(command: tuple[str, ...], tmp_path: Path) -> None:
    chunk = bytes(60_000)

    def frames() -> Iterator[bytes]:
        yield tcp_frame(1, 0, SYN)
        yield tcp_frame(1, 1, ACK, rds_header(1, 0xFFFFFFFF))
        for number in range(1000):
            yield tcp_frame(1, 49 + number * len(chunk), ACK, chunk)

    expect(command, write_pcap(tmp_path / "length.pcap", frames()), CLEAN, PROBLEMS)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_what_waits_behind_a_hole_does_not_fill_the_memory(command: tuple[str, ...], tmp_path: Path) -> None:
    chunk = bytes(60_000)

    def frames() -> Iterator[bytes]:
        yield tcp_frame(1, 0, SYN)
        for number in range(5000):  # 300 MB, each piece behind a hole of one byte
            yield tcp_frame(1, 10 + number * (len(chunk) + 1), ACK, chunk)

    expect(command, write_pcap(tmp_path / "hole.pcap", frames()), CLEAN, PROBLEMS)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_hundred_thousand_streams_are_read_in_little_memory(command: tuple[str, ...], tmp_path: Path) -> None:
    headers = [rds_header(1 + number, 0, 4000, 0) for number in range(3)]

    def frames() -> Iterator[bytes]:
        for client in range(100_000):
            yield tcp_frame(client, 0, SYN)
            for number, header in enumerate(headers):
                yield tcp_frame(client, 1 + 48 * number, ACK, header)
            yield tcp_frame(client, 1 + 48 * 3, ACK | FIN)

    done = rdstool(*command, str(write_pcap(tmp_path / "streams.pcap", frames())), program=("-c", TELLING_MEMORY))
    assert done.returncode in (CLEAN, PROBLEMS), done.stderr[-2000:]
    if command[0] == "decode":
        assert done.stdout.count("\n") == 300_000
    assert peak_bytes(done) < PEAK_BYTES


def test_more_queue_pairs_than_are_followed_take_no_more_memory(tmp_path: Path) -> None:
    headers = {psn: with_checksum(RdsHeader(sequence=psn, sport=4000, dport=4001)) for psn in (1, 2)}

    def frames() -> Iterator[bytes]:
        for pair in range(MAX_DIRECTIONS // 2 + 1000):
            for psn, header in headers.items():
                for back in (False, True):
                    yield roce_frame(pair, back, psn, header)

    done = rdstool(
        "stats", "--json", str(write_pcap(tmp_path / "pairs.pcap", frames())), program=("-c", TELLING_MEMORY)
    )
    assert done.returncode == CLEAN, done.stderr[-2000:]
    assert "only the first 32,768 streams were followed" in done.stderr
    assert done.stdout.count('"section": "streams"') == MAX_DIRECTIONS // 2
    assert peak_bytes(done) < PEAK_BYTES


@pytest.mark.parametrize(
    "compress",
    [gzip.compress, partial(lzma.compress, preset=0), zstandard.compress],
    ids=["gzip", "xz", "zstd"],
)
def test_a_decompression_bomb_is_read_in_pieces(compress: Callable[[bytes], bytes], tmp_path: Path) -> None:
    # The largest legal frames, so that the time goes into bytes and not into frames.
    frame = bytes(262_144)
    content = PCAP_HEADER + record(frame, 1) * 2500  # 650 MB
    path = tmp_path / "bomb.pcap"
    path.write_bytes(compress(content))
    assert path.stat().st_size < len(content) / 500
    expect(("decode",), path, CLEAN)


def test_a_block_of_two_gibibytes_is_refused_where_it_stands(tmp_path: Path) -> None:
    section = struct.pack("<IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28)
    path = tmp_path / "block.pcapng"
    path.write_bytes(section + struct.pack("<II", 6, 1 << 31) + bytes(1000))
    done = rdstool("decode", str(path))
    assert done.returncode == UNUSABLE
    assert "28" in done.stderr  # the byte at which the file went bad


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("content", [b"", b"\n", b"not a capture at all\n" * 50, PCAP_HEADER[:10]])
def test_what_is_no_capture_is_called_so(command: tuple[str, ...], content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.pcap"
    path.write_bytes(content)
    assert expect(command, path, UNUSABLE).count("\n") <= 1


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_capture_of_no_frames_has_nothing_wrong(command: tuple[str, ...], tmp_path: Path) -> None:
    expect(command, write_pcap(tmp_path / "none.pcap", []), CLEAN)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_folder_and_a_missing_file_are_named_in_the_error(command: tuple[str, ...], tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.pcap"):
        done = rdstool(*command, str(path))
        assert done.returncode == UNUSABLE
        assert str(path) in done.stderr
