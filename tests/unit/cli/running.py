"""Running the command: in a process of its own as users do, or in this one, which is fast."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

from rdstool.cli import app

ROOT = Path(__file__).parents[3]
PCAPS = ROOT / "pcaps"
TCP = PCAPS / "tcp-basic-73" / "a.pcap.gz"
CONGESTION = PCAPS / "tcp-congestion-73" / "a.pcap.gz"
RDMA = PCAPS / "ib-rdma-73" / "a.pcap.gz"
TIMEOUT_S = 180
"""For a command that takes a second on an idle machine."""
COMMAND = [sys.executable, "-m", "rdstool"]


def environment(**changes: str) -> dict[str, str]:
    """The environment without what steers colours and buffers, and with ``changes``."""
    steering = {"NO_COLOR", "FORCE_COLOR", "PYTHONUNBUFFERED"}
    kept = {name: value for name, value in os.environ.items() if name not in steering}
    return {**kept, "PYTHONUTF8": "1", **changes}


def rdstool(*arguments: str | Path, stdin: bytes = b"", **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a command line to its end; the output is text."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        env=environment(**changes),
        cwd=ROOT,
        timeout=TIMEOUT_S,
        check=False,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def rdstool_here(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The same in this process."""
    results = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    complaints = io.StringIO()
    with contextlib.redirect_stdout(results), contextlib.redirect_stderr(complaints):
        code = app.run([str(argument) for argument in arguments])
    results.seek(0)
    return subprocess.CompletedProcess(arguments, code, results.read(), complaints.getvalue())


def lines(*arguments: str | Path) -> list[str]:
    """The lines of results of a command that must be clean."""
    done = rdstool_here(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()
