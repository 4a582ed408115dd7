"""The package itself: what programs import of it."""

from __future__ import annotations

import subprocess
import sys

import rdstool


def test_every_name_is_there_and_is_completed() -> None:
    """In a process of its own, where nothing was used yet."""
    told = subprocess.run(
        [sys.executable, "-c", "import rdstool; print(*dir(rdstool))"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert set(rdstool.__all__) <= set(told)
    assert all(hasattr(rdstool, name) for name in rdstool.__all__)
