"""Filters are one language: rdstool and tshark let the same frames pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rdstool.capture.events import CmMessage, RdmaOperation
from rdstool.capture.pipeline import open_capture
from rdstool.field_columns import EventColumns, MessageColumns
from rdstool.filter import compile_filter
from rdstool.tshark.program import Tshark
from tests.tshark.running import PLUGIN, ROOT, rows, run

TCP = (
    "rds",
    "frame.time_relative < 2.5",
    "tcp.srcport == 16385",
    "(ip.addr eq 192.168.13.102 and ip.addr eq 192.168.13.147) and (tcp.port eq 32776 and tcp.port eq 16385)",
    "rds.sequence == 1",
    "rds.sequence > 10",
    "rds.sequence >= 10 && rds.sequence < 20",
    "rds.length == 0",
    "rds.length > 4096",
    "rds.length <= 48",
    "rds.sport == 1",
    "rds.dport == 0",
    "rds.port == 0",
    "rds.port == 1",
    "rds.port in {0, 1}",
    "rds.flags == 0x01",
    "rds.flags == 1",
    "rds.flags & 1",
    "rds.flags.cong_bitmap == 1",
    "rds.flags.cong_bitmap == 0",
    "rds.flags.retransmitted == 1",
    'rds.kind == "data"',
    'rds.kind == "probe" || rds.kind == "probe-reply"',
    'rds.kind contains "probe"',
    'rds.kind matches "^p(i|o)ng$"',
    'rds.kind in {"congestion", "probe"}',
    'rds.transport == "tcp"',
    'rds.transport == "ib"',
    'rds.src == "192.168.13.102"',
    'rds.dst == "192.168.13.102"',
    'rds.addr == "192.168.13.147"',
    "ip.src == 192.168.13.102 && rds",
    "ip.dst == 192.168.13.0/24 && rds.sequence == 2",
    "rds.stream == 0",
    "rds.stream >= 4 && rds.stream <= 6",
    "rds.complete == 1",
    "rds.complete == 0",
    "rds.inferred == 1",
    "rds.fragments == 1",
    "rds.seen == 8192",
    "rds.checksum == 0",
    'rds.checksum.status == "absent"',
    "rds.exthdr.npaths",
    "rds.exthdr.npaths == 8",
    "rds.exthdr.gen_num",
    "rds.exthdr.gen_num == 0x974598e3",
    "rds.exthdr.sport_idx == 0",
    "rds.exthdr.type == 5",
    "rds.exthdr.type == 2 or rds.exthdr.type == 6",
    "rds.padding == 00:00:00:00",
    "rds.exthdr == 05:00:08:06:97:45:98:e3:08:00:00:00:00:00:00:00",
    "rds.congested",
    "frame.number < 100 && rds",
    "rds.credit == 0 and rds.ack == 0 and rds.sequence == 3",
)
INFINIBAND = (
    "rds",
    "rds.ack > 5",
    "rds.flags.ack_required == 1",
    "rds.flags.exthdr_extension == 1",
    "rds.flags & 0x20",
    'rds.kind == "ack"',
    'rds.kind == "cm"',
    'rds.cm.message == "REQ"',
    'rds.cm.message in {"REP", "RTU"}',
    "rds_cm",
    "rds_rdma",
    "rds.cm.major == 3",
    "rds.cm.minor_mask == 0x0003",
    "rds.cm.ip.ip_version == 4",
    'rds.cm.saddr == "192.168.164.15"',
    "rds.exthdr.rdma",
    "rds.exthdr.rdma.rkey == 0x300",
    "rds.exthdr.rdma_dest.offset == 0",
    "rds.exthdr.rdma_bytes.length > 1000",
    "rds.exthdr.rdma_bytes.direction == 1",
    'rds.rdma.kind == "rdma-write"',
    "rds.rdma.length >= 65536",
    'rds.rdma.status == "ok"',
    'rds.checksum.status == "good"',
    "rds.fragments > 1",
    "rds.sequence == 0 && rds.length == 0",
    "rds.sequence != 1",
    "!(rds.flags.ack_required == 1) && rds",
    "not rds.flags.ack_required == 1 and rds",
    "rds.sport != 0",
)
TCP_SOURCE, IB_SOURCE = "tcp-basic-73", "ib-rdma-73"
CASES = [(TCP_SOURCE, text) for text in TCP] + [(IB_SOURCE, text) for text in INFINIBAND]
OURS = "rds || rds_cm || rds_rdma"
"""Frames with a message of RDS or RDMA-CM, or with the outcome of an RDMA operation."""


def natively(path: Path, text: str) -> list[int]:
    """Frames of messages, RDMA-CM messages and RDMA operations that pass."""
    accepted = compile_filter(text)
    frames: set[int] = set()
    with open_capture(path) as capture:
        for decoded in capture.batches():
            columns = MessageColumns(decoded.messages, capture.streams)
            frames.update(decoded.messages.rows["frame"][np.flatnonzero(accepted.mask(columns))].tolist())
            shown = [event for event in decoded.events if isinstance(event, CmMessage | RdmaOperation)]
            events = EventColumns(shown, capture.streams)
            passed = accepted.mask(events).tolist()
            frames.update(event.frame for event, passes in zip(events.events, passed, strict=True) if passes)
    return sorted(frames)


@pytest.mark.parametrize("source", [TCP_SOURCE, IB_SOURCE])
def test_the_same_frames_pass(source: str, tshark: Tshark, tmp_path: Path) -> None:
    path = ROOT / "pcaps" / source / "a.pcap.gz"
    texts = [text for name, text in CASES if name == source]
    found = by_taps(tshark, path, texts, tmp_path)
    assert found == {text: natively(path, text) for text in texts}


def by_taps(tshark: Tshark, path: Path, texts: list[str], folder: Path) -> dict[str, list[int]]:
    """The frames that pass each filter in tshark: a tap for each, all in one run."""
    script = folder / "taps.lua"
    lines = ["local function tap(number, filter)", "   local one = Listener.new('frame', filter)"]
    lines += ["   function one.packet(pinfo) print(number, pinfo.number) end", "end"]
    # Filters can be compiled once all fields are there, which -z waits for.
    lines += ["register_stat_cmd_arg('taps', function()"]
    lines += [f"   tap({number}, [==[({text}) && ({OURS})]==])" for number, text in enumerate(texts)]
    lines += ["end)"]
    script.write_text("\n".join(lines))
    found: dict[str, list[int]] = {text: [] for text in texts}
    for line in run(tshark, "-q", "-z", "taps", "-r", str(path), scripts=(PLUGIN, script)).splitlines():
        number, frame = line.split()
        found[texts[int(number)]].append(int(frame))
    return found


def test_the_table_is_as_long_as_promised() -> None:
    assert len(CASES) >= 60


def test_a_filter_that_tshark_does_not_know_would_be_seen(tshark: Tshark) -> None:
    path = ROOT / "pcaps" / TCP_SOURCE / "a.pcap.gz"
    with pytest.raises(AssertionError):
        rows(tshark, path, ("frame.number",), "-Y", "rds.nonsense == 1")
