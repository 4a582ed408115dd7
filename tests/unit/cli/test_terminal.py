"""What terminals get, and other than terminals do not: colour, wrapping, progress."""

from __future__ import annotations

import io
import os
import pty
import subprocess

import pytest

from rdstool.cli import output
from rdstool.cli.progress import LONG_INPUT_BYTES, progress
from tests.unit.cli.running import COMMAND, RDMA, ROOT, TIMEOUT_S, environment, rdstool


def _on_a_terminal(*arguments: str, **changes: str) -> bytes:
    """What a command writes to a terminal of its own."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=theirs,
        stderr=theirs,
        stdin=subprocess.DEVNULL,
        env=environment(TERM="xterm", **changes),
        cwd=ROOT,
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # Linux: the other end was closed
            break
        if not part:
            break
        written += part
    os.close(ours)
    assert process.wait(TIMEOUT_S) == 0
    return written


@pytest.mark.parametrize("options", [[], ["-x"], ["-V"]])
def test_no_color_and_other_than_terminals_get_plain_text(options: list[str]) -> None:
    arguments = ["decode", *options, "--count", "5", str(RDMA)]
    plain = rdstool(*arguments).stdout.encode()
    assert b"\x1b" not in plain
    assert _on_a_terminal(*arguments, NO_COLOR="1").replace(b"\r\n", b"\n") == plain
    if options != ["-V"]:
        assert b"\x1b[" in _on_a_terminal(*arguments)
        assert "\x1b[" in rdstool(*arguments, FORCE_COLOR="1").stdout


def test_lines_are_not_wrapped_on_narrow_terminals() -> None:
    narrow = rdstool("decode", "--count", "5", RDMA, COLUMNS="20").stdout
    assert len(narrow.splitlines()) == 5


def test_an_error_cannot_steer_the_terminal() -> None:
    assert output.one_line("a\x1b[31m\nb\x9b") == "a\\x1b[31m b\\x9b"


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("error_terminal", "results_terminal", "total", "shown"),
    [
        (True, False, LONG_INPUT_BYTES, True),
        (True, False, LONG_INPUT_BYTES - 1, False),
        (True, False, None, False),
        (True, True, LONG_INPUT_BYTES, False),
        (False, False, LONG_INPUT_BYTES, False),
    ],
)
def test_progress_is_shown_for_long_inputs_on_a_terminal_that_results_do_not_use(
    monkeypatch: pytest.MonkeyPatch, error_terminal: bool, results_terminal: bool, total: int | None, shown: bool
) -> None:
    screen = _Terminal() if error_terminal else io.StringIO()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr("sys.stdout", _Terminal() if results_terminal else io.StringIO())
    monkeypatch.setenv("TERM", "xterm")
    with progress(total) as done:
        done(1)
        done(LONG_INPUT_BYTES)
    assert bool(screen.getvalue()) == shown
