"""Each test of this folder that asks for a tshark runs with the machine's own, and with one of 4.4 or later."""

from __future__ import annotations

import pytest

from rdstool.tshark.program import Tshark
from tests.tshark.running import VERSIONS


@pytest.fixture(params=VERSIONS)
def tshark(request: pytest.FixtureRequest) -> Tshark:
    """One of the two."""
    return VERSIONS[request.param]()
