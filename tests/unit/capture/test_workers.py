"""Processes that read ahead: they end with the one that they read for, whatever ends that."""

from __future__ import annotations

import gzip
import itertools
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from rdstool.capture.workers import serve, worker
from tests.unit.capture.capture_files import pcap_header, pcap_record
from tests.unit.cli.running import COMMAND, TCP, environment

END_MS = 60_000
NO_RDS = pcap_record(bytes(60)) * 20_000


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def end_without_chance_to_tidy_up(process: subprocess.Popen[bytes]) -> list[int]:
    """Kill a command that reads in another process; gives what tells of the end of that one."""
    while not (readers := children(process.pid)):
        assert process.poll() is None
    watches = [os.pidfd_open(reader) for reader in readers]
    process.send_signal(signal.SIGKILL)
    process.wait()
    return watches


@pytest.mark.parametrize("following", [True, False], ids=["a file that grows", "a file without end"])
def test_readers_end_when_the_command_is_killed(following: bool, tmp_path: Path) -> None:
    capture = TCP
    if not following:
        capture = tmp_path / "long.pcap.gz"
        capture.write_bytes(gzip.compress(pcap_header()) + gzip.compress(NO_RDS) * 3_000)
    command = [*COMMAND, "decode", "--jobs", "2", *(["--follow"] if following else []), str(capture)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment()) as process:
        watches = end_without_chance_to_tidy_up(process)
    for watch in watches:
        ended = select.poll()
        ended.register(watch, select.POLLIN)
        assert ended.poll(END_MS), "the reader goes on, and nobody reads what it finds"
        os.close(watch)


def _count(pipe: Connection) -> None:
    serve(itertools.count(), pipe)


def _sleep(_: Connection) -> None:
    time.sleep(3600)


@pytest.mark.parametrize("run", [_count, _sleep], ids=["busy", "waiting"])
def test_leaving_early_ends_the_process(run: Callable[[Connection], None]) -> None:
    with worker(run) as pipe:
        assert not pipe.closed
