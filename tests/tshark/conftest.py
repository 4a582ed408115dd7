"""Each test of this folder that asks for a tshark runs with the machine's own, with 4.4, and with the newest."""

from __future__ import annotations

import pytest

from rdstool.tshark.program import Tshark
from tests.tshark.running import VERSIONS


@pytest.fixture(params=VERSIONS)
def tshark(request: pytest.FixtureRequest) -> Tshark:
    """One of the three."""
    return VERSIONS[request.param]()
