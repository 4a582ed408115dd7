"""Every frame that tcpdump says it captured is read from the real captures, and none of them is a riddle."""

from __future__ import annotations

import json
from pathlib import Path

from rdstool.capture.counts import FrameCounts
from rdstool.capture.files.frames import FrameReader
from rdstool.capture.packets.network import parse

NEIGHBOURS = 58
"""ICMPv6, the only other traffic on these links besides ARP."""


def test_the_numbers_of_frames_are_those_of_tcpdump(pcaps: Path) -> None:
    folders = sorted(path.parent for path in pcaps.glob("*/truth.json"))
    assert folders
    for folder in folders:
        for capture in json.loads((folder / "truth.json").read_text())["captures"]:
            counts = FrameCounts()
            for batch in FrameReader([str(folder / f"{capture['file']}.gz")]):
                parse(batch, counts)
            assert counts.frames == capture["stats"]["captured"]
            rds = counts.tcp if folder.name.startswith("tcp") else counts.ib
            assert rds + counts.arp + counts.other_protocols[NEIGHBOURS] == counts.frames
