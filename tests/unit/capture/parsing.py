"""Frames handed to the parsers of headers without a file, for the tests of links and networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np

from rdstool.capture.columns import FrameBatch, IbPackets, Segments
from rdstool.capture.counts import FrameCounts
from rdstool.capture.packets.fragments import Datagrams
from rdstool.capture.packets.network import RDS_TCP_PORTS, Parsed, parse
from rdstool.capture.streams import address_bytes, address_text


def batch_of(frames: Sequence[bytes], links: Sequence[int] | int = 1, wire: Sequence[int] | None = None) -> FrameBatch:
    """Frames in one batch, some bytes apart, the last one at the very end of the data."""
    gap = b"\xee" * 5
    data = bytearray()
    offsets = []
    for frame in frames:
        data += gap
        offsets.append(len(data))
        data += frame
    lengths = np.array([len(frame) for frame in frames], np.int64)
    count = len(frames)
    return FrameBatch(
        data=np.frombuffer(bytes(data), np.uint8),
        frame=np.arange(101, 101 + count, dtype=np.int64),
        offset=np.array(offsets, np.int64),
        captured=lengths,
        wire=lengths if wire is None else np.array(wire, np.int64),
        time=np.arange(count, dtype=np.int64) * 1000,
        link=np.full(count, links, np.uint16) if isinstance(links, int) else np.array(links, np.uint16),
        file=0,
        consumed=len(data),
    )


def parse_frames(
    frames: Sequence[bytes],
    links: Sequence[int] | int = 1,
    wire: Sequence[int] | None = None,
    ports: frozenset[int] | None = RDS_TCP_PORTS,
) -> tuple[Parsed, FrameCounts]:
    """Parse frames; checks what holds for each result."""
    counts = FrameCounts()
    batch = batch_of(frames, links, wire)
    parsed = parse(batch, counts, ports)
    check_counts(counts)
    for columns in (parsed.tcp, parsed.ib):
        check_columns(columns, batch)
    return parsed, counts


def put_together(batches: Sequence[FrameBatch], datagrams: Datagrams | None = None) -> tuple[list[Parsed], FrameCounts]:
    """Parse batches, and put together the fragments in them; checks what holds for each result."""
    datagrams = datagrams or Datagrams(RDS_TCP_PORTS, tcp_checksums=False)
    counts = FrameCounts()
    found = []
    for batch in batches:
        parsed = parse(batch, counts, RDS_TCP_PORTS)
        more = datagrams.feed(parsed.fragments, counts)
        found.append(parsed.joined(more) if more else parsed)
        check_counts(counts)
    return found, counts


def check_counts(counts: FrameCounts) -> None:
    """Each frame is counted once."""
    kept = counts.tcp + counts.ib
    others = (counts.other_protocols, counts.other_ethertypes, counts.other_links)
    single = (
        counts.tcp_other,
        counts.tcp_damaged,
        counts.udp_other,
        counts.fragments,
        counts.fragments_lost,
        counts.cut,
        counts.malformed,
        counts.too_deep,
        counts.no_packet,
    )
    rest = sum(single) + counts.arp + sum(counter.total() for counter in others)
    assert counts.passed_over == counts.frames - kept == rest


def check_columns(columns: Segments | IbPackets, batch: FrameBatch) -> None:
    """Columns are of one length, in order, and refer to captured bytes."""
    assert columns.data is batch.data
    for column in fields(columns):
        if column.name != "data":
            assert len(getattr(columns, column.name)) == len(columns), column.name
    assert (np.diff(columns.frame) > 0).all()
    row = np.searchsorted(batch.frame, columns.frame)
    assert (columns.time == batch.time[row]).all()
    start = columns.payload if isinstance(columns, Segments) else columns.bth + 12
    assert (columns.captured >= 0).all()
    assert (columns.captured <= columns.length).all()
    assert (start >= batch.offset[row]).all()
    assert (start + columns.captured <= batch.offset[row] + batch.captured[row]).all()


def payloads(columns: Segments | IbPackets) -> list[bytes]:
    """Captured bytes of each segment's payload, or behind each packet's BTH."""
    start = columns.payload if isinstance(columns, Segments) else columns.bth + 12
    return [
        columns.data[at : at + size].tobytes()
        for at, size in zip(start.tolist(), columns.captured.tolist(), strict=True)
    ]


def ends(columns: Segments | IbPackets, row: int = 0) -> tuple[str, str]:
    """Source and destination as text."""
    src = address_bytes(int(columns.src_hi[row]), int(columns.src_lo[row]))
    dst = address_bytes(int(columns.dst_hi[row]), int(columns.dst_lo[row]))
    return address_text(src), address_text(dst)
