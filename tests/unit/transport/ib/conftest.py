"""What the tests of devices begin with."""

from __future__ import annotations

import pytest

from tests.unit.transport.ib.driving import Pair


@pytest.fixture
def pair() -> Pair:
    """Two devices without a connection yet."""
    return Pair()
