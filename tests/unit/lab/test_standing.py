"""Guests that stay up are found by name; without any, the errors say how to get one."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from rdstool.errors import LabError
from rdstool.lab.standing import find_standing, socket_path, standing


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


def test_without_guests_the_error_says_how_to_get_one() -> None:
    assert standing() == []
    with pytest.raises(LabError, match=r"no guest is up: rdstool lab up KERNEL"):
        find_standing(None)
    with pytest.raises(LabError, match=r"no guest '6\.1' is up: rdstool lab up KERNEL"):
        find_standing("6.1")


def test_a_socket_that_nobody_serves_is_no_guest_and_removed() -> None:
    path = socket_path("6.1")
    with socket.socket(socket.AF_UNIX) as of_a_killed_process:
        of_a_killed_process.bind(str(path))
    assert standing() == []
    assert not path.exists()


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b"])
def test_names_stay_in_their_folder(name: str) -> None:
    with pytest.raises(LabError, match="no name for a guest"):
        socket_path(name)
