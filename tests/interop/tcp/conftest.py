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


def errors_in(path: Path, *, tcp_checksums: bool) -> list[str]:
    """What rdstool validate calls an error in a capture."""
    with rdstool.open_capture(str(path), rdstool.CaptureOptions(tcp_checksums=tcp_checksums)) as frames:
        return [str(each) for each in validate(frames) if each.severity.name == "ERROR"]


@pytest.fixture
def ground(guest: Guest, network: Network, capture: Capture, tmp_path: Path) -> Iterator[Ground]:
    """A kernel to meet. At the end, neither the capture of all frames nor what nodes recorded has an error in it."""
    guest.allow_buffers(2 * BUFFER)
    meeting_place = Ground(guest, network, tmp_path, capture)
    yield meeting_place
    capture.stop()
    meeting_place.give_up_addresses()
    if not meeting_place.may_have_errors:
        for recording in (capture.path, *meeting_place.recorded):
            assert errors_in(recording, tcp_checksums=meeting_place.corrupted) == []
