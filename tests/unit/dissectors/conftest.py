"""Captures as Scapy reads them."""

from __future__ import annotations

import gzip
import io
from collections.abc import Callable
from pathlib import Path

import pytest

OpenCapture = Callable[[str], io.BytesIO]


@pytest.fixture(scope="session")
def capture(pcaps: Path) -> OpenCapture:
    """Opens the first end's capture of that name."""
    return lambda name: io.BytesIO(gzip.decompress((pcaps / name / "a.pcap.gz").read_bytes()))
