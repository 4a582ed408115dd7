"""Opening capture files: compressed, piped, growing, or not readable at all."""

from __future__ import annotations

import gzip
import io
import itertools
import lzma
import os
import queue
import random
import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from rdstool.capture.files import source
from rdstool.capture.files.frames import read_frames
from rdstool.capture.files.source import Input, open_input
from rdstool.errors import CaptureError
from tests.unit.capture.capture_files import pcap_file, pcap_header, pcap_record, read_all

RANDOM = random.Random(61)
FRAMES = [bytes([number]) * (60 + number) for number in range(200)]
CAPTURE = pcap_file(FRAMES)
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}
WAIT_S = 60
"""For what takes milliseconds on an idle machine."""
compressions = pytest.mark.parametrize("name", COMPRESSORS)


def drain_into(content: bytearray, source: Input, step: int = 1 << 16) -> None:
    block = bytearray(step)
    while got := source.readinto(memoryview(block)):
        content += block[:got]


def drain(source: Input, step: int = 1 << 16) -> bytes:
    content = bytearray()
    drain_into(content, source, step)
    return bytes(content)


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_plain_file_is_read_as_it_is(tmp_path: Path) -> None:
    path = written(tmp_path / "a.pcap", CAPTURE)
    with open_input(str(path)) as source:
        assert drain(source, 100) == CAPTURE
        assert source.compression is None
        assert source.size == source.consumed == source.position == len(CAPTURE)


@compressions
def test_compression_is_told_by_content_not_by_name(tmp_path: Path, name: str) -> None:
    content = COMPRESSORS[name](CAPTURE)
    path = written(tmp_path / "a.pcap", content)
    with open_input(str(path)) as source:
        assert drain(source) == CAPTURE
        assert source.compression == name
        assert source.consumed == source.size == len(content)
        assert source.position == len(CAPTURE)


@compressions
def test_members_that_follow_each_other_are_one_file(tmp_path: Path, name: str) -> None:
    compress = COMPRESSORS[name]
    parts = (CAPTURE[:1000], b"", CAPTURE[1000:5000], CAPTURE[5000:])
    path = written(tmp_path / "a", b"".join(compress(part) for part in parts))
    with open_input(str(path)) as source:
        assert drain(source, 777) == CAPTURE


@compressions
def test_zero_bytes_behind_the_compressed_data_are_padding(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / "a", COMPRESSORS[name](CAPTURE) + bytes(200_000))
    with open_input(str(path)) as source:
        assert drain(source) == CAPTURE


@compressions
def test_a_cut_compressed_file_gives_what_it_holds_and_then_the_byte(tmp_path: Path, name: str) -> None:
    noise = RANDOM.randbytes(300_000)
    content = COMPRESSORS[name](noise)[:-100_000]
    path = written(tmp_path / "a", content)
    with open_input(str(path)) as source:
        got = bytearray()
        with pytest.raises(CaptureError, match=f"{name} data are cut off at byte {len(content)}") as caught:
            drain_into(got, source)
    assert got == noise[: len(got)]
    # zstd gives whole blocks of 128 KiB.
    assert len(got) > 100_000
    assert caught.value.position == len(got)


@compressions
def test_broken_compressed_data_cost_only_what_is_near(tmp_path: Path, name: str) -> None:
    frames = [RANDOM.randbytes(1000) for _ in range(1000)]
    content = bytearray(COMPRESSORS[name](pcap_file(frames)))
    middle = len(content) * 3 // 4
    content[middle : middle + 64] = bytes(64)
    path = written(tmp_path / "a", bytes(content))
    seen, error = read_all(path)
    assert error is not None
    # xz tells only at the end of a block that its checksum is wrong.
    good = [frame.data for frame in seen[:600]]
    assert good == frames[:600] if name != "xz" else len(seen) > 600


def test_a_wrong_checksum_at_the_end_of_gzip_loses_no_frames(tmp_path: Path) -> None:
    content = bytearray(gzip.compress(CAPTURE + pcap_file([RANDOM.randbytes(9000)] * 3)[24:]))
    content[-6] ^= 1
    seen, error = read_all(written(tmp_path / "a", bytes(content)))
    assert len(seen) >= len(FRAMES)
    assert error is not None
    assert "broken gzip data" in str(error)


def test_other_bytes_behind_gzip_data_are_an_error_behind_all_frames(tmp_path: Path) -> None:
    seen, error = read_all(written(tmp_path / "a", gzip.compress(CAPTURE) + b"rubbish"))
    assert [frame.data for frame in seen] == FRAMES
    assert error is not None
    assert error.position == len(CAPTURE)


@compressions
def test_a_decompression_bomb_costs_bounded_memory(tmp_path: Path, name: str) -> None:
    bomb = COMPRESSORS[name](pcap_header() + pcap_record(b"", captured=1 << 31) + bytes(200 << 20))
    assert len(bomb) < 1 << 20
    path = written(tmp_path / "bomb", bomb)
    with open_input(str(path)) as source:
        block = bytearray(1 << 20)
        tracemalloc.start()
        try:
            while source.readinto(memoryview(block)):
                pass
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert source.position > 200 << 20
    assert peak < 48 << 20


def test_compressed_data_that_need_gigabytes_are_to_be_decompressed_first(tmp_path: Path) -> None:
    window = zstandard.ZstdCompressionParameters.from_level(1, window_log=28)
    long = zstandard.ZstdCompressor(compression_params=window).compressobj()
    path = written(tmp_path / "long.pcap.zst", long.compress(CAPTURE) + long.flush())
    with open_input(str(path)) as source, pytest.raises(CaptureError) as caught:
        drain(source)
    assert str(caught.value) == f"{path}: the zstd data need too much memory: decompress the file first"


def test_what_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    empty = written(tmp_path / "empty", b"")
    for path, words in (
        (tmp_path, "is a directory"),
        (tmp_path / "missing", "No such file"),
        (empty, "is empty"),
        (Path("nul\0byte"), "cannot be opened"),
    ):
        seen, error = read_all(path)
        assert not seen
        assert error is not None
        assert words in str(error)
        assert "\n" not in str(error)


def test_no_permission_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_options: object) -> io.FileIO:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CaptureError, match="secret: cannot be opened: Permission denied"):
        open_input("secret")


def test_a_read_error_names_the_file() -> None:
    # Readable as a file, but not at address 0.
    _, error = read_all("/proc/self/mem")
    assert error is not None
    assert "/proc/self/mem: cannot be read: Input/output error" in str(error)


def test_standard_input_is_a_dash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(gzip.compress(CAPTURE))))
    seen, error = read_all("-")
    assert [frame.data for frame in seen] == FRAMES
    assert error is None


def test_a_terminal_is_no_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdin", terminal)
    with pytest.raises(CaptureError, match="standard input is a terminal"):
        open_input("-")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(CaptureError, match="standard input is closed"):
        open_input("-")


def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(CAPTURE,))
    writer.start()
    seen, error = read_all(pipe)
    writer.join()
    assert [frame.data for frame in seen] == FRAMES
    assert error is None


def test_a_followed_pipe_gives_what_has_come_while_its_writer_goes_on(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = os.open(tmp_path / "pipe", os.O_RDWR)  # which waits for no reader
    came: queue.SimpleQueue[int] = queue.SimpleQueue()

    def read() -> None:
        for batch in read_frames([str(tmp_path / "pipe")], follow=True):
            came.put(len(batch))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for part in (pcap_header() + pcap_record(b"1"), pcap_record(b"2")):
            os.write(writer, part)
            assert came.get(timeout=WAIT_S) == 1
    finally:
        os.close(writer)
        reader.join()
    assert came.empty()


class Growing:
    """A file that gets its next part each time that the reader waits for it."""

    def __init__(self, path: Path, parts: list[bytes]) -> None:
        self.path = path
        self.parts = parts
        self.waits = 0
        path.write_bytes(parts.pop(0))

    def __call__(self) -> bool:
        self.waits += 1
        if not self.parts:
            return False
        with self.path.open("ab") as file:
            file.write(self.parts.pop(0))
        return True


def test_a_followed_file_gives_a_batch_for_each_new_whole_record(tmp_path: Path) -> None:
    one, two, three = (pcap_record(bytes([number]) * 50) for number in range(3))
    grower = Growing(
        tmp_path / "a", [b"", pcap_header()[:10], pcap_header()[10:] + one, two[:20], two[20:] + three, b""]
    )
    batches = [len(batch) for batch in read_frames([str(grower.path)], follow=True, wait=grower)]
    assert batches == [1, 2]
    assert not grower.parts


@compressions
def test_a_followed_compressed_file_grows_too(tmp_path: Path, name: str) -> None:
    content = COMPRESSORS[name](CAPTURE)
    cuts = [0, 3, 20, len(content) // 2, len(content)]
    grower = Growing(tmp_path / "a", [content[start:end] for start, end in itertools.pairwise(cuts)])
    seen, error = read_all(grower.path, follow=True, wait=grower)
    assert [frame.data for frame in seen] == FRAMES
    assert error is None


def test_half_a_record_at_the_end_of_following_is_no_error(tmp_path: Path) -> None:
    grower = Growing(tmp_path / "a", [CAPTURE[:-1]])
    seen, error = read_all(grower.path, follow=True, wait=grower)
    assert len(seen) == len(FRAMES) - 1
    assert error is None
    assert grower.waits == 1


def test_a_followed_file_that_becomes_shorter_is_an_error(tmp_path: Path) -> None:
    path = written(tmp_path / "a", CAPTURE)

    def shorten() -> bool:
        os.truncate(path, 100)
        return True

    seen, error = read_all(path, follow=True, wait=shorten)
    assert len(seen) == len(FRAMES)
    assert error is not None
    assert "became shorter" in str(error)


@pytest.mark.parametrize("successor", [CAPTURE, None], ids=["replaced", "removed"])
def test_a_followed_file_that_is_replaced_is_read_to_its_end_first(tmp_path: Path, successor: bytes | None) -> None:
    path = written(tmp_path / "a", CAPTURE)

    def rotate() -> bool:
        with path.open("ab") as file:
            file.write(pcap_record(b"last"))
        path.rename(tmp_path / "a.1")
        if successor is not None:
            path.write_bytes(successor)
        return True

    seen, error = read_all(path, follow=True, wait=rotate)
    assert seen[-1].data == b"last"
    assert error is not None
    assert "removed or replaced" in str(error)


def test_waiting_takes_the_poll_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    assert source.wait_for_growth()
    assert waited == [source.FOLLOW_POLL_SECONDS]


def test_seeking_needs_an_uncompressed_file(tmp_path: Path) -> None:
    with open_input(str(written(tmp_path / "a", CAPTURE))) as source:
        source.seek(1000)
        assert drain(source) == CAPTURE[1000:]
    with (
        open_input(str(written(tmp_path / "b", gzip.compress(CAPTURE)))) as source,
        pytest.raises(CaptureError, match="only an uncompressed file"),
    ):
        source.seek(1000)
