"""QEMU and what it needed are gone when its owner is, however that ended. A stand-in for virtme-run starts a shell."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from rdstool.lab.machine import Machine
from rdstool.lab.tools import own_environment

TIMEOUT_S = 60

VIRTME = """
import atexit, os, signal, sys

def main():  # as virtme-run does
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    open(sys.argv[1], "w").close()
    atexit.register(os.unlink, sys.argv[1])
    pid = os.fork()
    if not pid:
        os.execv("/bin/sh", ["sh", "-c", "echo $$ $PPID; exec sleep 600"])
    os.waitpid(pid, 0)
"""

OWNER = """
import subprocess, sys
from rdstool.lab.machine import Machine
machine = Machine(sys.argv[1:], stdout=subprocess.PIPE, start_new_session=True)
print(machine.process.stdout.readline().decode(), end="", flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def virtme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = tmp_path / "python" / "virtme" / "commands"
    commands.mkdir(parents=True)
    for folder in (commands.parent, commands):
        (folder / "__init__.py").touch()
    (commands / "run.py").write_text(VIRTME)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "python"))


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """A file that virtme-run makes, and removes when it ends in order."""
    return tmp_path / "temporary"


def watched(words: Sequence[bytes]) -> Iterator[int]:
    """Descriptors of processes, which become readable when the process has ended."""
    return (os.pidfd_open(int(word)) for word in words)


def await_end(descriptor: int) -> None:
    with os.fdopen(descriptor):
        assert select.select([descriptor], [], [], TIMEOUT_S)[0], "it still runs"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_machine_ends_when_its_owner_is_killed(left: Path, number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(left)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=own_environment(),
    ) as owner:
        assert owner.stdout is not None
        qemu, virtme_run = watched(owner.stdout.readline().split())
        assert left.exists()
        owner.send_signal(number)
    await_end(virtme_run)
    await_end(qemu)
    assert not left.exists()


def test_qemu_ends_when_virtme_run_is_killed(left: Path) -> None:
    machine = Machine([str(left)], stdout=subprocess.PIPE)
    with machine.process as process:
        assert process.stdout is not None
        qemu, virtme_run = watched(process.stdout.readline().split())
        process.kill()
        await_end(virtme_run)
        await_end(qemu)
        machine.kill()


def test_a_machine_that_is_killed_leaves_nothing_behind(left: Path) -> None:
    machine = Machine([str(left)], stdout=subprocess.PIPE)
    with machine.process as process:
        assert process.stdout is not None
        qemu, virtme_run = watched(process.stdout.readline().split())
        machine.kill()
        await_end(virtme_run)
        await_end(qemu)
    assert not left.exists()
    machine.kill()
