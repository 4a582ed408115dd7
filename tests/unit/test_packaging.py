"""What gets installed: both packages, typed, with a working command, and nothing that only the project needs."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the project as it is."""
    (built,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"])
    return Path(built)


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_the_wheel_holds_the_two_packages_and_their_metadata_only(names: list[str]) -> None:
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"dissectors", "rdstool"}


def test_the_wheel_holds_every_module(names: list[str]) -> None:
    modules = [path for package in ("dissectors", "rdstool") for path in (ROOT / package).rglob("*.py")]
    assert {path.relative_to(ROOT).as_posix() for path in modules} <= set(names)


@pytest.mark.parametrize("package", ["dissectors", "rdstool"])
def test_the_wheel_says_that_its_packages_are_typed(package: str, names: list[str]) -> None:
    assert f"{package}/py.typed" in names


def test_the_wheel_carries_its_license(names: list[str]) -> None:
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_metadata_name_version_license_and_python(wheel: Path, names: list[str]) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = Parser().parsestr(archive.read(next(n for n in names if n.endswith("/METADATA"))).decode())
    assert (metadata["Name"], metadata["License-Expression"]) == ("rdstool", "GPL-2.0-or-later")
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Version"] in (ROOT / "CHANGELOG.md").read_text()
    required = [text for text in metadata.get_all("Requires-Dist", []) if "extra ==" not in text]
    assert sorted(required) == sorted(PROJECT["dependencies"])


def test_the_installed_command_tells_the_version(wheel: Path, tmp_path: Path) -> None:
    installer = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--no-deps"]
    subprocess.run([*installer, "--no-index", "--target", str(tmp_path), str(wheel)], check=True)
    # The copy comes before the source tree in the search path, so it is what answers.
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [str(tmp_path / "bin" / "rdstool"), "--version"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"rdstool {wheel.name.split('-')[1]}\n", "")
