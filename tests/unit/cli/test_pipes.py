"""What commands read and write: standard input, closed pipes, full disks, and what Ctrl-C leaves."""

from __future__ import annotations

import gzip
import shlex
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from tests.unit.cli.running import COMMAND, ROOT, TCP, TIMEOUT_S, environment, rdstool


def test_standard_input_is_read() -> None:
    done = rdstool("decode", "--count", "3", "-", stdin=TCP.read_bytes())
    assert done.returncode == 0
    assert done.stdout == rdstool("decode", "--count", "3", TCP).stdout


def test_a_closed_pipe_ends_quietly() -> None:
    process = subprocess.Popen(
        [*COMMAND, "decode", "-x", str(TCP)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    complaint = process.stderr.read()
    process.stderr.close()
    assert process.wait(TIMEOUT_S) == 0
    assert complaint == b""


def test_messages_from_a_pipe_that_is_followed_are_shown_as_they_come() -> None:
    pipe = subprocess.PIPE
    command = [*COMMAND, "decode", "--follow", "-"]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment(), cwd=ROOT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(TIMEOUT_S, process.kill)
        timer.start()
        content = gzip.decompress(TCP.read_bytes())
        process.stdin.write(content[:100_000])
        process.stdin.flush()
        first = process.stdout.readline()
        rest, complaint = process.communicate(content[100_000:])
        timer.cancel()
    assert (process.returncode, complaint) == (0, b"")
    assert first.split()[0] == b"1"
    assert rest.splitlines()[-1].split()[0] == b"152"


def test_ctrl_c_keeps_what_was_found_and_ends_with_130(tmp_path: Path) -> None:
    growing = tmp_path / "growing.pcap"
    growing.write_bytes(gzip.decompress(TCP.read_bytes()))
    process = subprocess.Popen(
        [*COMMAND, "decode", "--follow", "--json", str(growing)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        cwd=ROOT,
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    rest, complaint = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130
    assert complaint == b""
    assert first.startswith(b'{"number": 1, ')
    assert rest.endswith(b"}\n")


INTERRUPTED = """
import atexit, signal, sys
from rdstool.__main__ import main

moment = sys.argv[1]

class InACallback:  # where Python drops exceptions, as when modules are imported
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

class Interruption:
    def find_spec(name, path=None, target=None):
        if name == moment:
            signal.raise_signal(signal.SIGINT)
        elif name == "rdstool.fields" and moment == "a callback":
            InACallback()
            while True:
                pass

if moment == "the end":
    atexit.register(signal.raise_signal, signal.SIGINT)
sys.meta_path.insert(0, Interruption)
sys.argv[:2] = ["rdstool"]
main()
"""


@pytest.mark.parametrize("moment", ["rdstool.cli.app", "typer", "rdstool.cli.fields", "a callback", "the end"])
def test_ctrl_c_is_quiet_while_things_are_imported_and_at_the_end(moment: str) -> None:
    done = subprocess.run(
        [COMMAND[0], "-c", INTERRUPTED, moment, "fields"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment(),
        cwd=ROOT,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (130, b"")


@pytest.mark.parametrize("arguments", [("decode", str(TCP)), ("fields",), ("--version",), ("--help",)], ids=" ".join)
def test_a_full_disk_is_one_line(arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [*COMMAND, *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            cwd=ROOT,
            timeout=TIMEOUT_S,
            check=False,
        )
    said = "rdstool: error: No space left on device; make room, or send the results elsewhere\n"
    assert (done.returncode, done.stderr) == (2, said)


@pytest.mark.parametrize("arguments", ["decode pcaps/tcp-basic-73/a.pcap.gz", "fields", "--version"])
def test_a_closed_stdout_is_a_reader_that_went_away(arguments: str) -> None:
    line = f"{shlex.join(COMMAND)} {arguments} <&- >&-"
    done = subprocess.run(["sh", "-c", line], stderr=subprocess.PIPE, env=environment(), cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
