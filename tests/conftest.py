"""What all tests share: where the captures are, and how property tests run."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parents[1]

# Commands under test are ended by Ctrl-C, also where the tests themselves were started in the background, without it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run, so that a change passes or fails for what it changes.
# HYPOTHESIS_PROFILE=search looks for new ones.
settings.register_profile("steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("search", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The project's folder."""
    return ROOT


@pytest.fixture(scope="session")
def pcaps() -> Path:
    """The folder of real captures; pcaps/README.md says what is in it."""
    return ROOT / "pcaps"


@pytest.fixture
def hung_up() -> Iterator[None]:
    """Programs end by SIGHUP, also where the tests were told not to, as by nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)
