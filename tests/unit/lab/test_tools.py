"""What is missing comes with the command that brings it; what fails comes with the program's last words."""

from __future__ import annotations

import importlib.util
import shutil

import pytest

from rdstool.errors import LabError
from rdstool.lab.tools import PACKAGES, call, need_virtme, program


@pytest.mark.parametrize("name", PACKAGES)
def test_a_missing_program_names_its_package(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(LabError, match=rf"{name} is missing: apt-get install {PACKAGES[name]}"):
        program(name)


def test_missing_virtme_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LabError, match=r"pip install 'rdstool\[lab\]'"):
        need_virtme()


def test_a_program_that_fails_tells_why() -> None:
    with pytest.raises(LabError, match=r"cannot look: .*no-such-file"):
        call(["ip", "-batch", "/no-such-file"], what="cannot look")


def test_a_program_that_hangs_is_ended() -> None:
    with pytest.raises(LabError, match=r"cannot wait: unshare took longer than 0\.1 s"):
        call(["unshare", "sleep", "60"], what="cannot wait", timeout_s=0.1)
