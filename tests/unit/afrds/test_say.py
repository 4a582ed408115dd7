"""``python -m rdstool.afrds``: wrong use and a kernel without RDS are told in one line."""

from __future__ import annotations

import pytest

from rdstool.afrds.__main__ import main, own_address


def test_it_tells_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shout"]) == 2
    assert capsys.readouterr().err.startswith("usage: ")


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_the_own_address_is_that_of_the_route(address: str) -> None:
    assert own_address(address) == address
