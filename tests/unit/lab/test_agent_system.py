"""What the agent does in the guest, on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdstool.lab.agent import system


def udev(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put an ``udevadm`` first on the path."""
    program = folder / "udevadm"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setattr(system, "SETTLE_PAUSE_S", 0.0)


def test_an_udev_that_hangs_up_while_it_starts_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = tmp_path / "asked"
    udev(tmp_path, f'test -e {asked} && exit 0; : > {asked}; echo "Broken pipe" >&2; exit 1', monkeypatch)
    system.settle()
    assert asked.exists()


def test_an_udev_that_never_answers_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    udev(tmp_path, 'echo "Broken pipe" >&2; exit 1', monkeypatch)
    with pytest.raises(OSError, match="udevadm settle: Broken pipe"):
        system.settle()
