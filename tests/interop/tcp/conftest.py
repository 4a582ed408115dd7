"""What these tests get on top of what the folder above gives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import rdstool
from rdstool.lab import Guest, Network
from rdstool.lab.capture import Capture
from rdstool.validate.validator import validate
from tests.interop.tcp.meeting import BUFFER, Ground

ACROSS_PATHS = {"RDS-RTX-001", "RDS-RTX-002"}
"""They compare a message with one of the same number and ports on another path, which is not the same message."""


def errors_in(path: Path, *, guessed_paths: bool) -> list[str]:
    """What rdstool validate calls an error in a capture; with ``guessed_paths`` without what takes them for sure."""
    passed_over = ACROSS_PATHS if guessed_paths else set()
    with rdstool.open_capture(str(path)) as frames:
        errors = [each for each in validate(frames) if each.severity.name == "ERROR"]
    return [str(each) for each in errors if each.rule not in passed_over]


@pytest.fixture
def ground(guest: Guest, network: Network, capture: Capture, tmp_path: Path) -> Iterator[Ground]:
    """A kernel to meet. At the end, neither the capture of all frames nor what nodes recorded has an error in it."""
    for name in ("net.core.wmem_max", "net.core.rmem_max"):
        guest.sysctl(name, 2 * BUFFER)
    meeting_place = Ground(guest, network, tmp_path, capture)
    yield meeting_place
    capture.stop()
    meeting_place.give_up_addresses()
    if not meeting_place.may_have_errors:
        for recording in (capture.path, *meeting_place.recorded):
            # Before 7.0 nothing on the wire tells the path of a connection.
            assert errors_in(recording, guessed_paths=meeting_place.learns_paths_late) == []
