"""Each test of this folder that asks for a tshark runs with the machine's own, and with the newest.

Those of one version between them, 4.4, take it by themselves.
"""

from __future__ import annotations

import pytest

from rdstool.tshark.program import Tshark
from tests.kit.tsharks import VERSIONS

ENDS = ("system", "newest")
"""The oldest and the newest of them: what both do is done by those between them."""


@pytest.fixture(params=ENDS)
def tshark(request: pytest.FixtureRequest) -> Tshark:
    """One of those."""
    return VERSIONS[request.param]()
