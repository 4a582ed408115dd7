"""Capture files made byte by byte, and what reading them gives, for the tests of reading."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rdstool.capture.columns import FrameBatch
from rdstool.capture.files.frames import CHUNK_BYTES, read_frames
from rdstool.capture.files.source import Wait, wait_for_growth
from rdstool.errors import CaptureError

MICROSECOND_MAGIC = 0xA1B2C3D4
NANOSECOND_MAGIC = 0xA1B23C4D
KUZNETZOV_MAGIC = 0xA1B2CD34
SECOND = 1_700_000_000
NS = 1_000_000_000


class Frame(NamedTuple):
    """A frame as a test sees it."""

    data: bytes
    time: int
    wire: int
    link: int


def pcap_header(order: str = "<", magic: int = MICROSECOND_MAGIC, link: int = 1, snaplen: int = 262144) -> bytes:
    return struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, snaplen, link)


def pcap_record(
    data: bytes,
    order: str = "<",
    *,
    seconds: int = SECOND,
    fraction: int = 0,
    wire: int | None = None,
    captured: int | None = None,
    more_header: bytes = b"",
) -> bytes:
    lengths = (len(data) if captured is None else captured, len(data) if wire is None else wire)
    return struct.pack(order + "IIII", seconds, fraction, *lengths) + more_header + data


def pcap_file(frames: Sequence[bytes], order: str = "<", magic: int = MICROSECOND_MAGIC, link: int = 1) -> bytes:
    records = (pcap_record(data, order, fraction=number) for number, data in enumerate(frames))
    return pcap_header(order, magic, link) + b"".join(records)


def block(kind: int, body: bytes, order: str = "<", trailer: int | None = None) -> bytes:
    """A pcapng block; ``body`` is padded to four bytes."""
    body += bytes(-len(body) % 4)
    size = len(body) + 12
    return struct.pack(order + "II", kind, size) + body + struct.pack(order + "I", size if trailer is None else trailer)


def option(code: int, value: bytes, order: str = "<") -> bytes:
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def section(order: str = "<", major: int = 1) -> bytes:
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, major, 0, -1), order)


def interface(order: str = "<", link: int = 1, snaplen: int = 0, options: bytes = b"") -> bytes:
    return block(1, struct.pack(order + "HHI", link, 0, snaplen) + options, order)


def enhanced(
    data: bytes,
    order: str = "<",
    *,
    interface_id: int = 0,
    stamp: int = SECOND * 1_000_000,
    wire: int | None = None,
    captured: int | None = None,
    options: bytes = b"",
) -> bytes:
    lengths = (len(data) if captured is None else captured, len(data) if wire is None else wire)
    head = struct.pack(order + "IIIII", interface_id, stamp >> 32, stamp & 0xFFFFFFFF, *lengths)
    return block(6, head + data + bytes(-len(data) % 4) + options, order)


def simple(data: bytes, order: str = "<", wire: int | None = None) -> bytes:
    return block(3, struct.pack(order + "I", len(data) if wire is None else wire) + data, order)


def old_packet(data: bytes, order: str = "<", *, interface_id: int = 0, drops: int = 0, stamp: int = 0) -> bytes:
    head = struct.pack(order + "HHIIII", interface_id, drops, stamp >> 32, stamp & 0xFFFFFFFF, len(data), len(data))
    return block(2, head + data, order)


def custom(data: bytes, order: str = "<", *, enterprise: int = 99_999, copied: bool = True) -> bytes:
    """A block of an enterprise's own; programs that do not know it may have to leave it out of copies."""
    return block(0xBAD if copied else 0x40000BAD, struct.pack(order + "I", enterprise) + data, order)


def journal_entry(field: bytes, microseconds: int | None, order: str = "<") -> bytes:
    """An entry of systemd's journal in its export format, with the time at which the journal took it."""
    time = b"" if microseconds is None else b"__REALTIME_TIMESTAMP=%d\n" % microseconds
    return block(9, b"__CURSOR=s=0123\n" + time + field + b"\n", order)


def system_call(kind: int, order: str = "<", *, stamp: int = SECOND * NS, flags: bool = False) -> bytes:
    """An event of sysdig without parameters: processor, perhaps flags, ns since 1970, thread, size, type."""
    head = struct.pack(order + "H", 3) + (struct.pack(order + "I", 0) if flags else b"")
    return block(kind, head + struct.pack(order + "QQIHI", stamp, 4711, 26, 1, 0), order)


def erf_record(kind: int, data: bytes, *, extensions: int = 0, seconds: int = SECOND, fraction: int = 0) -> bytes:
    """An ERF record; extension headers are zero but for the bit that says that another follows."""
    more = b"".join(bytes([0x80 if index < extensions - 1 else 0]) + bytes(7) for index in range(extensions))
    pad = bytes(2) if kind in {2, 11, 16, 20} else b""
    size = 16 + len(more) + len(pad) + len(data)
    head = struct.pack("<II", fraction, seconds) + struct.pack(
        ">BBHHH", kind | (0x80 if extensions else 0), 4, size, 0, len(data)
    )
    return head + more + pad + data


def frames_in(batch: FrameBatch) -> list[Frame]:
    """Copy the frames out of a batch."""
    return [
        Frame(batch.data[offset : offset + captured].tobytes(), time, wire, link)
        for offset, captured, time, wire, link in zip(
            batch.offset.tolist(),
            batch.captured.tolist(),
            batch.time.tolist(),
            batch.wire.tolist(),
            batch.link.tolist(),
            strict=True,
        )
    ]


def read_all(
    *paths: Path | str, chunk_bytes: int = CHUNK_BYTES, follow: bool = False, wait: Wait = wait_for_growth
) -> tuple[list[Frame], CaptureError | None]:
    """All frames, and the error that came behind them."""
    frames: list[Frame] = []
    numbers: list[int] = []
    error = None
    try:
        for batch in read_frames([str(path) for path in paths], chunk_bytes=chunk_bytes, follow=follow, wait=wait):
            frames += frames_in(batch)
            numbers += batch.frame.tolist()
    except CaptureError as caught:
        error = caught
    assert numbers == list(range(1, len(frames) + 1))
    return frames, error
