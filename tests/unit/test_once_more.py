"""What tests with a second chance do with it, in a pytest of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = """
import itertools
import pytest

runs = {name: itertools.count(1) for name in ("call", "end", "never", "late")}
made = []

@pytest.fixture(scope="module")
def costly():
    made.append(1)
    yield
    assert made == [1]

@pytest.fixture
def judged():
    yield
    assert next(runs["end"]) > 1, "wrong at the end"

def test_call(costly):
    assert next(runs["call"]) > 1, "wrong at first"

def test_end(costly, judged):
    pass

@pytest.mark.timeout(0.2)
def test_late():
    while next(runs["late"]):
        pass

def test_never(costly):
    assert next(runs["never"]) > 2, "always wrong"
"""


def test_tests_are_run_once_more_and_fail_where_they_fail_again(tmp_path: Path) -> None:
    folder = tmp_path / "tests"
    folder.mkdir()
    (folder / "conftest.py").write_text(
        "from tests.kit.once_more import once_more\n\ndef pytest_collection_modifyitems(items):\n    once_more(items)\n"
    )
    (folder / "test_all.py").write_text(TESTS)
    settings = (f"--config-file={ROOT / 'pyproject.toml'}", f"--rootdir={ROOT}", f"--junit-xml={tmp_path / 'out.xml'}")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *settings, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1, done.stderr
    words = done.stdout.splitlines()
    assert words[0].startswith("R..R.RFR"), done.stdout
    assert "2 failed, 3 passed, 4 rerun" in words[-1]
    for test in ("test_call", "test_end", "test_late", "test_never"):
        assert any(line.startswith("RERUN") and line.endswith(test) for line in words)
    for reason in ("wrong at first", "wrong at the end", "always wrong", "Timeout"):
        assert f"E       AssertionError: {reason}" in done.stdout or f"Failed: {reason}" in done.stdout
    assert (tmp_path / "out.xml").read_text().count("<failure") == 2
