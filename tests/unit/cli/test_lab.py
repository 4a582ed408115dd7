"""``rdstool lab`` where nothing is there yet: one line that says what to do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rdstool.cli.app import load
from rdstool.lab.places import CACHE
from tests.unit.cli.running import rdstool_here


@pytest.fixture(autouse=True)
def nothing_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "6.12", "--", "true"], "no kernel '6.12' here (there: none yet): rdstool lab fetch 6.12"),
        (["up", "6.12"], "no kernel '6.12' here (there: none yet): rdstool lab fetch 6.12"),
        (["down"], "no guest is up: rdstool lab up KERNEL"),
        (["down", "6.1"], "no guest '6.1' is up: rdstool lab up KERNEL"),
        (["guest", "--", "true"], "no guest is up: rdstool lab up KERNEL"),
        (["host", "--", "true"], "no guest is up: rdstool lab up KERNEL"),
        (["say", "192.0.2.1", "hello"], "no guest is up: rdstool lab up KERNEL"),
        (["fetch", "4.9"], "no kernel '4.9' to fetch: choose from 6.1, 6.12, newest, or name a suite of Debian"),
        (["fetch", "--modules", "/lib/modules"], "--modules belongs to --image"),
        (["fetch", "mine", "--image", "/no/such"], "a kernel of your own needs one name, --image and --modules"),
        (["fetch", "mine", "--image", "/no/such", "--modules", "/"], "/no/such: no such kernel image"),
    ],
)
def test_the_error_says_what_to_do(arguments: list[str], told: str) -> None:
    done = rdstool_here("lab", *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"rdstool: error: {told}\n")


def test_an_empty_list_says_how_to_fill_it() -> None:
    done = rdstool_here("lab", "list")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "no kernels yet: rdstool lab fetch\n")


def test_a_folder_that_others_may_enter_is_not_used_for_control_sockets(tmp_path: Path) -> None:
    folder = tmp_path / f"rdstool-lab-{os.getuid()}"
    folder.mkdir(mode=0o755)
    done = rdstool_here("lab", "list")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"rdstool: error: {folder} has to be a folder that only you may enter")


@pytest.mark.parametrize(
    ("arguments", "own"),
    [
        ("run 6.12 uname -r", {}),
        ("run 6.12 -- uname -r", {}),
        ("run -- 6.12 uname -r", {}),
        ("run --memory 300 6.12 uname -r", {"memory": 300}),
        ("run 6.12 --module rds_rdma --memory=300 uname -r", {"memory": 300, "module": ("rds_rdma",)}),
        ("host uname -r", {}),
        ("host -- uname -r", {}),
        ("host --guest newest uname -r", {"name": "newest"}),
        ("guest --guest newest -- uname -r", {"name": "newest"}),
    ],
)
def test_options_behind_the_name_of_a_command_are_its_own(arguments: str, own: dict[str, object]) -> None:
    name, *words = arguments.split()
    given = load("lab").commands[name].make_context(name, words).params
    assert [*given["command"]] == ["uname", "-r"]
    assert {key: given[key] for key in own} == own


@pytest.mark.parametrize("command", ["git -- file", "uname --help", "rdstool listen ADDR --guest none"])
def test_a_command_gets_its_words_as_they_are(command: str) -> None:
    given = load("lab").commands["host"].make_context("host", command.split()).params
    assert [*given["command"]] == command.split()


@pytest.mark.parametrize("arguments", ["run --help", "run 6.12 --help", "host --guest newest --help"])
def test_help_before_the_name_of_a_command_is_that_of_rdstool(arguments: str) -> None:
    assert rdstool_here("lab", *arguments.split()).stdout.startswith("Usage: rdstool lab")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("run 6.12", "Missing argument 'COMMAND...' (see: rdstool lab run --help)"),
        ("host", "Missing argument 'COMMAND...' (see: rdstool lab host --help)"),
    ],
)
def test_what_is_missing_before_the_command_is_told(arguments: str, told: str) -> None:
    done = rdstool_here("lab", *arguments.split())
    assert (done.returncode, done.stderr) == (2, f"rdstool: error: {told}\n")
