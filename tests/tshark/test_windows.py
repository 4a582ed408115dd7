"""What Wireshark shows beside the tree of a frame: packet list and statistics; and protocols that are switched off."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdstool.endpoint.recorder import APPLICATION
from rdstool.export.pcapng import PcapngWriter
from rdstool.tshark.program import Tshark
from tests.tshark.running import CAPTURE, ROOT, rows, run

TCP = ROOT / "pcaps" / "tcp-basic-73" / "a.pcap.gz"
CAPTURES = pytest.mark.parametrize("path", [TCP, CAPTURE], ids=["tcp", "ib"])
COLUMNS = ("frame.number", "_ws.col.Protocol", "_ws.col.Info")


@CAPTURES
def test_the_packet_list_tells_of_the_same_messages_once_the_file_has_settled(path: Path, tshark: Tshark) -> None:
    shown = rows(tshark, path, COLUMNS, "-2", "-Y", "rds")
    assert {row[1] for row in shown} == {"RDS"}
    assert rows(tshark, path, COLUMNS, "-2", "-Y", "rds", "-o", "rds.settle:TRUE") == shown


@CAPTURES
def test_the_protocol_hierarchy_counts_the_frames_that_complete_a_message(path: Path, tshark: Tshark) -> None:
    words = [line.split() for line in run(tshark, "-r", str(path), "-q", "-z", "io,phs").splitlines()]
    frames = len(rows(tshark, path, ("frame.number",), "-Y", "rds"))
    counted = [row[1] for row in words if row[:1] == ["rds"]]
    # 4.6 has a row of its own, below, for those with a second message.
    assert counted[: 1 if tshark.version >= (4, 6) else None] == [f"frames:{frames}"]


@CAPTURES
def test_nothing_is_shown_of_rds_where_it_is_switched_off(path: Path, tshark: Tshark) -> None:
    wanted = ("-Y", "rds || rds_part || rds_cm || rds_rdma")
    off = ("--disable-protocol", "rds")
    assert rows(tshark, path, COLUMNS, *wanted)
    assert rows(tshark, path, COLUMNS, *wanted, *off) == []
    assert rows(tshark, path, COLUMNS, *off) == rows(tshark, path, COLUMNS, scripts=())


def test_frames_that_a_node_recorded_came_in_by_an_interface_with_a_name(tmp_path: Path, tshark: Tshark) -> None:
    recording = PcapngWriter(tmp_path / "node.pcapng", APPLICATION)
    recording.frame(0, bytes(60))
    recording.close()
    assert rows(tshark, tmp_path / "node.pcapng", ("frame.interface_name",)) == [("rdstool",)]
