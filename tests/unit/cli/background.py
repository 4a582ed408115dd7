"""A command that runs while the test goes on."""

from __future__ import annotations

import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.unit.cli.running import COMMAND, ROOT, TIMEOUT_S, environment


class Background:
    """One running command. ``end`` gives its results."""

    def __init__(self, *arguments: str | Path) -> None:
        # A file takes everything: a pipe that nobody reads would stop the command.
        self._results = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=self._results,
            stderr=subprocess.PIPE,
            env=environment(),
            cwd=ROOT,
        )

    def close(self) -> None:
        """End it, where it has not ended."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        self._results.close()

    def wait_for(self, text: str) -> str:
        """Read stderr up to the line that has ``text``, and give that line."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if text in line.decode():
                return line.decode()
        raise AssertionError(f"the command ended with {self.process.wait()} without saying {text!r}")

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def end(self, timeout_s: float = TIMEOUT_S) -> subprocess.CompletedProcess[str]:
        """Wait for its end; stderr is what was not read before."""
        _, err = self.process.communicate(timeout=timeout_s)
        self._results.seek(0)
        out = self._results.read()
        return subprocess.CompletedProcess(self.process.args, self.process.returncode, out.decode(), err.decode())


@contextmanager
def background(*arguments: str | Path) -> Iterator[Background]:
    """Start a command, and end it with the block at the latest."""
    running = Background(*arguments)
    try:
        yield running
    finally:
        running.close()
