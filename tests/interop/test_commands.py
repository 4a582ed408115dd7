"""What the README shows: a guest that stays up, its kernel that sends, and ``rdstool listen`` that hears it."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rdstool.lab.fetch import fetch_kernel
from tests.unit.cli.background import Background, background
from tests.unit.cli.running import COMMAND, environment, rdstool

HERE = "192.0.2.1:4000"
LISTEN = ["lab", "host", sys.executable, "-m", "rdstool", "listen", HERE, "--count", "1"]
BOOT_S = 300
"""At most, on a machine that has much to do."""


@pytest.fixture
def up(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Brings up a guest that nobody else knows of, and takes it down."""
    with tempfile.TemporaryDirectory(prefix="rdstool-") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)

        def bring(*arguments: str) -> str:
            with background("lab", "up", *arguments) as booting:
                done = booting.end(BOOT_S)
            assert (done.returncode, done.stderr) == (0, "")
            return done.stdout

        yield bring
        assert rdstool("lab", "down").returncode == 0


def heard(listening: Background) -> str:
    """What a command that listens showed."""
    done = listening.end()
    assert done.returncode == 0
    return done.stdout


def test_a_kernel_sends_a_datagram_to_rdstool(up: Callable[..., str]) -> None:
    assert "at 192.0.2.100" in up("6.12")
    with background(*LISTEN) as listening:
        listening.wait_for("listening")
        said = rdstool("lab", "say", HERE, "hello")
        assert re.fullmatch(r"192.0.2.100:\d+ > 192.0.2.1:4000: 5 bytes, acknowledged\n", said.stdout), said
        assert heard(listening).endswith('> 4000  5 bytes  "hello"\n')


def children(process: int) -> list[int]:
    """Processes that it started."""
    try:
        return [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def descendants(process: int) -> list[int]:
    """Those, and what they started."""
    found = children(process)
    return found + [deeper for each in found for deeper in descendants(each)]


def is_guest(process: int) -> bool:
    """QEMU with a guest, and not one that is only asked what it can."""
    try:
        return "-fsdev" in Path(f"/proc/{process}/cmdline").read_text().split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + BOOT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.usefixtures("hung_up")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
@pytest.mark.parametrize("arguments", [["run", "6.12", "--", "true"], ["up", "6.12"]], ids=["run", "up"])
def test_a_command_that_is_ended_while_it_boots_leaves_no_guest(
    arguments: list[str], number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    fetch_kernel("6.12")
    with background("lab", *arguments) as booting:
        until(lambda: any(map(is_guest, descendants(booting.process.pid))))
        guests = list(filter(is_guest, descendants(booting.process.pid)))
        booting.process.send_signal(number)
        assert booting.end(BOOT_S).returncode == (-number if number == signal.SIGKILL else 130)
        until(lambda: not any(map(is_guest, guests)))


def test_a_name_is_taken_as_soon_as_its_guest_begins_to_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    fetch_kernel("6.12")
    with background("lab", "up", "6.12") as booting:
        until(lambda: any(map(is_guest, descendants(booting.process.pid))))
        second = rdstool("lab", "up", "6.12")
        told = "rdstool: error: guest '6.12' comes up just now: wait, or choose a --name\n"
        assert (second.returncode, second.stderr) == (2, told)
        booting.interrupt()
        assert booting.end(BOOT_S).returncode == 130


def test_a_reader_that_has_enough_ends_a_command_in_a_guest_and_not_the_guest(up: Callable[..., str]) -> None:
    up("6.12")
    endless = " ".join(map(shlex.quote, [*COMMAND, "lab", "guest", "--", "yes"]))
    done = subprocess.run(
        ["bash", "-c", f"{endless} | head -n 1; exit ${{PIPESTATUS[0]}}"],
        env=environment(),
        capture_output=True,
        timeout=BOOT_S,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"y\n", b"")
    assert rdstool("lab", "guest", "--", "echo", "here").stdout == "here\n"


def test_a_kernel_writes_into_memory_that_rdstool_offers(up: Callable[..., str], tmp_path: Path) -> None:
    up("newest", "--rxe")
    with background(*LISTEN, "--transport", "ib", "--offer", "64", "--write", tmp_path / "kept") as listening:
        cookie = listening.wait_for("cookie").split()[-1]
        said = rdstool("lab", "say", HERE, "hello", "--rdma-write", cookie)
        assert said.stdout.endswith("5 bytes, acknowledged, written by RDMA before\n"), said
        heard(listening)
    assert (tmp_path / "kept" / "memory.bin").read_bytes() == b"hello".ljust(64, b"\0")
