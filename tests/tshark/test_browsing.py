"""What a frame shows does not depend on what was looked at before. Asked of sharkd, which reads as a window does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.kit.tsharks import VERSIONS
from tests.tshark.running import PLUGIN, ROOT, RUN_S, rows

SHARKD = shutil.which("sharkd")
NAMES = ("tcp-congestion-73", "tcp-cutlossy-61", "ib-rdma-73")
CAPTURES = [ROOT / "pcaps" / name / "a.pcap.gz" for name in NAMES]
LOOKED_AT = 40
"""Frames of each capture."""

pytestmark = pytest.mark.skipif(SHARKD is None, reason="sharkd of wireshark-common is not there")


def load(path: Path) -> dict[str, Any]:
    return {"method": "load", "params": {"file": str(path)}}


def look(frames: Iterable[int]) -> list[dict[str, Any]]:
    return [{"method": "frame", "params": {"frame": number, "proto": True, "columns": True}} for number in frames]


def answers(home: Path, requests: Sequence[dict[str, Any]]) -> list[Any]:
    """What one sharkd with the plugin answers, in the order of the requests."""
    plugins = home / ".local" / "lib" / "wireshark" / "plugins"
    plugins.mkdir(parents=True)
    shutil.copy(PLUGIN, plugins)
    lines = [json.dumps({"jsonrpc": "2.0", "id": number, **request}) for number, request in enumerate(requests, 1)]
    environment = {**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(home / ".config")}
    done = subprocess.run(
        [str(SHARKD), "-"],
        input="\n".join(lines) + "\n",
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=RUN_S,
    )
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [one["id"] for one in told] == list(range(1, len(requests) + 1))
    return [one["result"] for one in told]


@pytest.mark.parametrize("path", CAPTURES, ids=NAMES)
def test_a_frame_shows_the_same_whatever_was_looked_at_before(path: Path, tmp_path: Path) -> None:
    random = Random(path.parent.name)
    of_rds = [int(row[0]) for row in rows(VERSIONS["system"](), path, ("frame.number",), "-Y", "rds || rds_part")]
    frames = sorted(random.sample(of_rds, LOOKED_AT))
    mixed = random.sample(frames, LOOKED_AT)
    other = CAPTURES[CAPTURES.index(path) - 1]
    told = answers(tmp_path, [load(path), *look(frames), *look(mixed), load(other), load(path), *look(mixed)])
    first = dict(zip(frames, told[1:], strict=False))
    assert all("Reliable Datagram Sockets" in json.dumps(shown["tree"]) for shown in first.values())
    again = [first[number] for number in mixed]
    assert told[1 + LOOKED_AT : 1 + 2 * LOOKED_AT] == again
    assert told[-LOOKED_AT:] == again
