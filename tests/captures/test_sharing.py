"""Several processes decode exactly as one does: the same streams, messages, numbers and findings in the same order."""

from __future__ import annotations

import gzip
import os
import pty
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.grow import grow
from dissectors.wire.icrc import icrc
from rdstool.capture import streams
from rdstool.capture.columns import MESSAGE
from rdstool.capture.files import pcap
from rdstool.capture.files import pcapng as pcapng_format
from rdstool.capture.limits import MAX_PROCESSES
from rdstool.capture.pipeline import CaptureOptions, open_capture
from rdstool.capture.sharing import decode_shared, files_to_share
from rdstool.capture.streams import StreamTable
from rdstool.cli.progress import LONG_INPUT_BYTES
from rdstool.errors import CaptureError
from tests.kit.sharing import all_of, is_shared, options
from tests.kit.tunnels import in_tunnels
from tests.unit.capture.capture_files import custom, pcap_file
from tests.unit.cli.running import TIMEOUT_S, environment, rdstool, rdstool_here

PCAPS = Path(__file__).parents[2] / "pcaps"
SECTION = struct.pack("<IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28)
INTERFACE = struct.pack("<IIHHII", 1, 20, 1, 0, 0, 20)


def grown(name: str, path: Path, copies: int = 3) -> str:
    """A real capture that runs several times at once, each time between other hosts."""
    source = PCAPS / name / "a.pcap.gz"
    with path.open("wb") as output:
        grow(source, output, 1, 1)
        size = output.tell()
        output.seek(0)
        assert grow(source, output, copies * size - 24 * copies, 4) == copies
    return str(path)


def pcapng(path: str, behind: bytes = b"") -> str:
    """The same frames in blocks of a pcapng file, and another block ``behind`` each of them."""
    content = Path(path).read_bytes()
    blocks = [SECTION, INTERFACE]
    at = 24
    while at < len(content):
        seconds, micros, captured, wire = struct.unpack_from("<IIII", content, at)
        padded = -(-captured // 4) * 4
        time = seconds * 10**6 + micros
        head = struct.pack("<IIIIIII", 6, padded + 32, 0, time >> 32, time & 0xFFFFFFFF, captured, wire)
        frame = content[at + 16 : at + 16 + captured].ljust(padded, b"\0")
        blocks.append(head + frame + struct.pack("<I", padded + 32) + behind)
        at += 16 + captured
    new = path.removesuffix(".pcap") + ".pcapng"
    Path(new).write_bytes(b"".join(blocks))
    return new


def test_segments_that_were_changed_are_passed_over_by_all_processes(tmp_path: Path) -> None:
    path = Path(grown("tcp-lossy-61", tmp_path / "grown.pcap"))
    content = bytearray(path.read_bytes())
    for at in range(100_000, len(content), 100_000):
        content[at] ^= 1
    path.write_bytes(content)
    one = all_of([str(path)], options(1, tcp_checksums=True))
    assert one["frames"].tcp_damaged > 0
    assert is_shared(str(path), tcp_checksums=True)
    assert all_of([str(path)], options(2, tcp_checksums=True)) == one


@pytest.mark.parametrize("name", sorted(path.parent.name for path in PCAPS.glob("*/a.pcap.gz")))
def test_any_number_of_processes_decodes_the_same(name: str, tmp_path: Path) -> None:
    path = grown(name, tmp_path / "many.pcap") if "ipv6" not in name else unpacked(name, tmp_path)
    one = all_of([path], options(1))
    assert len(one["streams"]) > 1
    assert is_shared(path, jobs=3)
    assert all_of([path], options(3)) == one


def test_bursts_of_the_shortest_packets_are_shared_too(tmp_path: Path) -> None:
    head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 44, 0, 0x4000, 64, 17, 0, b"\x0a\0\0\1", b"\x0a\0\0\2")
    udp = struct.pack(">HHHH", 50000, 4791, 24, 0xABCD)
    bth = bytes.fromhex("0400ffff0000001100000001")
    burst = (bth + icrc(head + udp + bth)) * 4000
    datagram = head[:2] + struct.pack(">H", 28 + len(burst)) + head[4:] + udp[:4] + struct.pack(">H", 8 + len(burst))
    path = tmp_path / "bursts.pcap"
    path.write_bytes(pcap_file([datagram + udp[6:] + burst] * 200, link=101))
    big = {"chunk_bytes": 4 << 20}
    one = all_of([str(path)], options(1, **big))
    assert one["frames"].ib == 200
    assert is_shared(str(path), **big)
    assert all_of([str(path)], options(2, **big)) == one


@pytest.mark.parametrize("name", ["tcp-basic-73", "ib-basic-73"])
def test_ip_fragments_are_put_together_by_all_processes(name: str, tmp_path: Path) -> None:
    whole = grown(name, tmp_path / "whole.pcap")
    cut = str(tmp_path / "cut.pcap")
    in_fragments(Path(whole), Path(cut))
    plain, one = all_of([whole], options(1, digests=True)), all_of([cut], options(1, digests=True))
    assert one["frames"].fragments > 1000
    assert one["frames"].fragments_lost == 0
    assert said(one) == said(plain)
    assert digests(one) == digests(plain)
    assert is_shared(cut, jobs=3)
    assert all_of([cut], options(3, digests=True)) == one


@pytest.mark.parametrize("name", ["tcp-basic-73", "ib-basic-73"])
def test_streams_in_tunnels_belong_to_the_process_of_the_inner_addresses(name: str, tmp_path: Path) -> None:
    whole = grown(name, tmp_path / "whole.pcap")
    inside = str(tmp_path / "inside.pcap")
    Path(inside).write_bytes(in_tunnels(Path(whole).read_bytes()))
    plain, one = all_of([whole], options(1, digests=True)), all_of([inside], options(1, digests=True))
    assert one["frames"].tunnelled > 1000
    assert said(one) == said(plain)
    assert digests(one) == digests(plain)
    assert is_shared(inside, jobs=3)
    assert all_of([inside], options(3, digests=True)) == one


def said(told: dict[str, Any]) -> list[Any]:
    """The messages, without the frames that they are in."""
    rows = np.frombuffer(told["messages"], MESSAGE)
    return [rows[name].tolist() for name in rows.dtype.names or () if name not in ("frame", "first_frame")]


def digests(told: dict[str, Any]) -> list[str]:
    """Of the payloads, in order."""
    return [item for _, item in told["beside"] if isinstance(item, str)]


def in_fragments(whole: Path, cut: Path) -> None:
    """The same packets, those over IPv4 that are not short in fragments of 800 bytes, the last one first."""
    content = whole.read_bytes()
    records = [content[:24]]
    at, ident = 24, 0
    while at < len(content):
        times, captured, wire = content[at : at + 8], *struct.unpack_from("<II", content, at + 8)
        frame = content[at + 16 : at + 16 + captured]
        at += 16 + captured
        size = struct.unpack_from(">H", frame, 16)[0]
        frames = [frame]
        if frame[12:14] == b"\x08\0" and size > 820 and captured == wire:
            ident = ident % 0xFFFF + 1
            ends = range(20, size, 800)
            frames = [
                frame[:16]
                + struct.pack(">HHH", 20 + len(frame[14 + end : min(14 + end + 800, 14 + size)]), ident, bits)
                + frame[22:34]
                + frame[14 + end : min(14 + end + 800, 14 + size)]
                for end in reversed(ends)
                for bits in [(end - 20) // 8 | (0x2000 if end + 800 < size else 0)]
            ]
        records += [times + struct.pack("<II", len(one), len(one)) + one for one in frames]
    cut.write_bytes(b"".join(records))


def unpacked(name: str, folder: Path) -> str:
    """A capture as it was before it was compressed."""
    path = folder / "plain.pcap"
    path.write_bytes(gzip.decompress((PCAPS / name / "a.pcap.gz").read_bytes()))
    return str(path)


def test_several_files_of_several_formats_and_digests(tmp_path: Path) -> None:
    first = grown("tcp-lossy-61", tmp_path / "tcp.pcap", 2)
    second = grown("ib-rdma-73", tmp_path / "ib.pcap", 3)
    paths = [first, pcapng(second), first]
    assert all_of(paths, options(2, digests=True)) == all_of(paths, options(1, digests=True))


@pytest.mark.parametrize("name", ["tcp-basic-73", "ib-basic-73"])
def test_all_processes_number_the_blocks_between_packets(name: str, tmp_path: Path) -> None:
    plain = grown(name, tmp_path / "plain.pcap")
    packets = all_of([plain], options(1))
    path = pcapng(plain, behind=custom(b"in front of the next"))
    one = all_of([path], options(1))
    assert (one["frames"].frames, one["frames"].no_packet) == (2 * packets["frames"].frames, packets["frames"].frames)
    assert frames(one) == [2 * frame - 1 for frame in frames(packets)]
    assert is_shared(path, jobs=3)
    assert all_of([path], options(3)) == one


def frames(told: dict[str, Any]) -> list[int]:
    """Of the messages."""
    return list(np.frombuffer(told["messages"], MESSAGE)["frame"].tolist())


@pytest.mark.parametrize("name", ["tcp-cut-61", "tcp-restart-73", "ib-reconnect-73"])
@pytest.mark.parametrize("limit", [1, 5])
def test_streams_beyond_the_limit_are_passed_over_by_any_number_of_processes(
    name: str, limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = grown(name, tmp_path / "many.pcap")
    whole = all_of([path], options(1))
    monkeypatch.setattr(streams, "MAX_STREAMS", limit)
    one = all_of([path], options(1))
    assert len(one["streams"]) == limit < len(whole["streams"])
    assert (one["passed over"], whole["passed over"]) == (True, False)
    assert len(one["messages"]) < len(whole["messages"])
    two = all_of([path], options(3))
    # What flows hold up that are not followed in the end: the batches differ, not what is in them.
    for batched in ("beside", "fragments", "consumed"):
        del one[batched], two[batched]
    assert two == one


@pytest.mark.parametrize("command", ["decode", "validate", "stats"])
def test_commands_say_that_streams_were_passed_over(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MAX_STREAMS", 2)
    done = rdstool_here(command, PCAPS / "tcp-basic-73" / "a.pcap.gz")
    assert "warning: only the first 2 streams were followed; " in done.stderr
    assert done.returncode in {0, 1}


def test_files_that_break_off_tell_the_same_byte(tmp_path: Path) -> None:
    good = grown("tcp-cut-61", tmp_path / "good.pcap", 3)
    content = Path(good).read_bytes()
    cut, bad = tmp_path / "cut.pcap", tmp_path / "bad.pcap"
    cut.write_bytes(content[:-7])
    bad.write_bytes(content[:300_000] + b"\xff" * 100_000 + content[300_000:])
    for paths in ([str(cut)], [str(bad)], [good, str(bad), str(cut), good]):
        one = all_of(paths, options(1))
        assert one["problem"] is not None
        assert all_of(paths, options(3)) == one


def test_looks_that_bring_few_frames_are_shared_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = grown("tcp-cut-61", tmp_path / "tcp.pcap", 2)
    second = pcapng(grown("ib-basic-73", tmp_path / "ib.pcap", 2))
    Path(first).write_bytes(Path(first).read_bytes()[:-7])
    whole = all_of([first, second], options(1))
    for form in (pcap, pcapng_format):
        monkeypatch.setattr(form, "MAX_FRAMES", 50)
    one = all_of([first, second], options(1))
    assert len(one["consumed"]) > 2 * len(whole["consumed"])
    assert all_of([first, second], options(3)) == one


def test_what_cannot_be_shared_is_read_by_one_process(tmp_path: Path) -> None:
    plain = grown("tcp-basic-73", tmp_path / "plain.pcap", 2)
    compressed = str(PCAPS / "tcp-basic-73" / "a.pcap.gz")
    missing = str(tmp_path / "missing.pcap")
    assert is_shared(plain)
    for path in (compressed, missing, "-", str(tmp_path)):
        assert not is_shared(plain, path)
    assert not is_shared(plain, payloads=True)
    assert not is_shared(plain, follow=True)
    assert not is_shared(plain, chunk_bytes=8 << 20)  # not longer than a chunk for each
    assert all_of([compressed], options(2)) == all_of([compressed], options(1))
    assert all_of([plain, missing], options(2)) == all_of([plain, missing], options(1))


def test_a_file_that_becomes_shorter_ends_the_reading(tmp_path: Path) -> None:
    path = grown("tcp-basic-73", tmp_path / "shrinking.pcap", 2)
    files = files_to_share((path,), options(2))
    assert files is not None
    os.truncate(path, 1000)
    with pytest.raises(CaptureError, match=r"shrinking\.pcap: became shorter while it was read"):
        list(decode_shared(files, options(2), StreamTable()))
    assert not children()


def test_a_process_that_dies_ends_the_reading(tmp_path: Path) -> None:
    files = files_to_share((grown("tcp-basic-73", tmp_path / "long.pcap", 12),), options(2))
    assert files is not None
    steps = decode_shared(files, options(2), StreamTable())
    next(steps)
    for child in children():
        os.kill(int(child), signal.SIGKILL)
    with pytest.raises(CaptureError, match="try again with --jobs 1"):
        list(steps)
    assert not children()


def test_reading_that_is_given_up_leaves_no_process(tmp_path: Path) -> None:
    path = grown("tcp-basic-73", tmp_path / "long.pcap", 12)
    with open_capture(path, options(2)) as capture:
        next(iter(capture))
        assert children()
    assert not children()


def test_more_processes_than_can_be_of_use_are_not_started(tmp_path: Path) -> None:
    path = grown("tcp-basic-73", tmp_path / "long.pcap", 6)
    one = all_of([path], options(1))
    with open_capture(path, options(64)) as capture:
        next(iter(capture))
        assert len(children()) == MAX_PROCESSES
    assert all_of([path], options(64)) == one


def test_processes_share_the_work_beside_a_progress_bar(tmp_path: Path) -> None:
    path = grown("ib-basic-73", tmp_path / "long.pcap", 26)
    assert Path(path).stat().st_size > LONG_INPUT_BYTES
    program = (
        "import resource, sys; from rdstool.cli.app import run; run(sys.argv[1:]);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    arguments = [sys.executable, "-c", program, "validate", "--select", "RDS-HDR", "--jobs", "2", path]
    terminal, end = pty.openpty()
    try:
        # On a dumb terminal the bar runs without being drawn, so nobody has to read what it draws.
        done = subprocess.run(
            arguments,
            stdout=subprocess.PIPE,
            stderr=end,
            env=environment(TERM="dumb"),
            timeout=TIMEOUT_S,
            check=True,
        )
    finally:
        os.close(end)
        os.close(terminal)
    assert int(done.stdout.split()[-1]) > 0


def children() -> list[str]:
    """Processes that this one has started."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


@pytest.mark.parametrize(
    "command", [("validate",), ("decode", "--json"), ("decode",), ("stats", "--json")], ids=" ".join
)
def test_commands_write_the_same(command: tuple[str, ...], tmp_path: Path) -> None:
    path = grown("ib-basic-73", tmp_path / "long.pcap", 26)
    assert Path(path).stat().st_size > 2 * CaptureOptions().chunk_bytes
    one, two = (rdstool(*command, "--jobs", jobs, path) for jobs in "12")
    assert (two.returncode, two.stdout, two.stderr) == (one.returncode, one.stdout, one.stderr)
