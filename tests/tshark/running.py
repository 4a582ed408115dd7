"""Run rdstool, and tshark with the plugin of this tree: take what is printed, or compare it with the native decoder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rdstool.capture.pipeline import CaptureOptions, open_capture
from rdstool.tshark.compare import differences, finding_differences, natively, objects
from rdstool.tshark.engine import TsharkCapture
from rdstool.tshark.program import Tshark

ROOT = Path(__file__).parents[2]
RDSTOOL = str(Path(sys.executable).with_name("rdstool"))
CAPTURE = ROOT / "pcaps" / "ib-rdma-73" / "a.pcap.gz"
"""One with messages, RDMA and handshakes."""
PLUGIN = ROOT / "lua" / "rds.lua"
STRESS = ROOT / "lua" / "rds_stress.lua"
PCAPS = sorted((ROOT / "pcaps").glob("*/a.pcap.gz"))
RUN_S = 240
OPTIONS = CaptureOptions(digests=True)
_HARMLESS = "Running as user"


def run(
    tshark: Tshark,
    *arguments: str,
    scripts: Sequence[Path] = (PLUGIN,),
    quiet: bool = True,
    limit_s: float = RUN_S,
) -> str:
    """Standard output of one run that ends well, and where it is to be ``quiet`` warns of nothing."""
    plugins = [part for script in scripts for part in ("-X", f"lua_script:{script}")]
    command = [tshark.path, *arguments, "-n", *plugins]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=limit_s)
    said = [line for line in done.stderr.splitlines() if not line.startswith(_HARMLESS)]
    assert (done.returncode, said if quiet else []) == (0, []), command
    return done.stdout


def rows(
    tshark: Tshark,
    path: Path,
    fields: Sequence[str],
    *arguments: str,
    scripts: Sequence[Path] = (PLUGIN,),
    quiet: bool = True,
    limit_s: float = RUN_S,
) -> list[tuple[str, ...]]:
    """These fields of the frames, several values of one joined by ``|``."""
    chosen = [part for field in fields for part in ("-e", field)]
    form = ("-T", "fields", "-E", "aggregator=|", *chosen)
    text = run(tshark, "-r", str(path), *form, *arguments, scripts=scripts, quiet=quiet, limit_s=limit_s)
    return [tuple(line.split("\t")) for line in text.splitlines()]


def compare(path: Path, tshark: Tshark) -> list[str]:
    """What the native decoder and tshark see differently in a capture that has RDS, findings too."""
    with open_capture(path, OPTIONS) as capture:
        assert natively(capture)[0]
    return differences_in(path, tshark)


def differences_in(path: Path, tshark: Tshark) -> list[str]:
    """The same of a capture that may have none."""
    second = TsharkCapture([str(path)], OPTIONS, tshark)
    theirs = objects(second)
    with open_capture(path, OPTIONS) as capture:
        ours, told = natively(capture)
    return list(map(str, differences(ours, theirs) + finding_differences(told, second.findings)))


def rdstool(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a user runs it."""
    return subprocess.run(
        [RDSTOOL, *arguments], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def one_line_error(done: subprocess.CompletedProcess[str]) -> str:
    """What a command says that was used wrongly."""
    assert done.returncode == 2
    assert done.stderr.startswith("rdstool: error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def fake(path: Path, text: str) -> Path:
    """A program made of these lines of shell."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path
