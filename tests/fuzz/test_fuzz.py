"""Damaged captures give results, or an error in one line: never a traceback, a hang, or more memory than a bound."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.damage import damaged, sources, split

ROOT = Path(__file__).parents[2]
CASES = 40
SECONDS = 280
"""Far more than the cases take (15 s of a processor); each command also has a limit of its own."""


@pytest.mark.parametrize("seed", [1, 10_001, 20_001])
def test_no_damaged_capture_surprises_a_command(seed: int) -> None:
    # In a process of its own, so that the bound on memory is the command's and not that of all tests.
    command = [sys.executable, "-m", "tests.fuzz", "--seed", str(seed), "--cases", str(CASES)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr


def test_a_seed_always_gives_the_same_capture() -> None:
    assert [damaged(seed) for seed in range(20)] == [damaged(seed) for seed in range(20)]


def test_frames_are_told_apart_as_they_were_written() -> None:
    for _, content in sources():
        header, frames = split(content)
        assert header + b"".join(frames) == content
