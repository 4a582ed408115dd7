"""Processes that work together end with the one that started them, whatever ends that."""

from __future__ import annotations

import itertools
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from pickle import PickleBuffer
from typing import Any

import pytest

from rdstool.capture.crew import ITEM_BYTES, WAITING_ITEMS, crew
from rdstool.errors import CaptureError

ROOT = Path(__file__).parents[3]
END_MS = 60_000
WAITING = """
import time
from rdstool.capture.crew import crew

def wait(number, deliver):
    deliver(number)
    time.sleep(3600)

with crew(2, wait) as started:
    started.receive()
    print("started", flush=True)
    time.sleep(3600)
"""

Deliver = Callable[[Any], None]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_crew_ends_when_its_first_process_is_killed() -> None:
    command = [sys.executable, "-c", WAITING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"started\n"
        watches = [os.pidfd_open(pid) for pid in children(process.pid)]
        process.send_signal(signal.SIGKILL)
    assert len(watches) == 2
    for watch in watches:
        ended = select.poll()
        ended.register(watch, select.POLLIN)
        assert ended.poll(END_MS), "it goes on, and nobody reads what it finds"
        os.close(watch)


def _count(_: int, deliver: Deliver) -> None:
    for number in itertools.count():
        deliver(number)


def _sleep(number: int, deliver: Deliver) -> None:
    deliver(number)
    time.sleep(3600)


@pytest.mark.parametrize("run", [_count, _sleep], ids=["busy", "waiting"])
def test_leaving_early_ends_the_crew(run: Callable[[int, Deliver], None]) -> None:
    before = children(os.getpid())
    with crew(2, run) as started:
        started.receive()
        assert len(children(os.getpid())) == len(before) + 2
    assert children(os.getpid()) == before


def _break_off(_number: int, deliver: Deliver) -> None:
    def write(file: int, data: memoryview) -> None:
        os.write(file, data[:1])
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rdstool.capture.crew._write", write)
        deliver(PickleBuffer(bytes(ITEM_BYTES + 1)))


def test_a_process_that_dies_in_the_middle_of_an_item_is_an_error_too() -> None:
    with crew(2, _break_off) as started, pytest.raises(CaptureError, match="a worker process ended unexpectedly"):
        started.receive()


SIZES = [1, 70_000, 0, *range(4096, 4096 + WAITING_ITEMS), ITEM_BYTES, *range(WAITING_ITEMS), ITEM_BYTES + 1, 7, 8, 9]
"""Bytes of items: more than the first process takes in time, and one that is too large for shared memory."""


def _content(number: int, size: int) -> bytes:
    return bytes([number]) * size


def test_items_of_any_size_come_in_order_however_late_they_are_taken() -> None:
    ready, far = os.pipe()

    def run(worker: int, deliver: Deliver) -> None:
        for number, size in enumerate(SIZES):
            if number == WAITING_ITEMS + 2:
                os.write(far, b"x")
            deliver([PickleBuffer(_content(number, size)), PickleBuffer(_content(worker, 3)), number])

    with crew(2, run) as started:
        os.close(far)
        for _ in range(2):  # Both have delivered more than there are places.
            assert os.read(ready, 1)
        for number, size in enumerate(SIZES):
            for worker, item in enumerate(started.receive()):
                assert [bytes(item[0]), bytes(item[1]), item[2]] == [
                    _content(number, size),
                    _content(worker, 3),
                    number,
                ]
    os.close(ready)


def _end(_number: int, _deliver: Deliver) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_of_the_crew_that_dies_is_an_error_that_says_so() -> None:
    with crew(2, _end) as started, pytest.raises(CaptureError, match="a worker process ended unexpectedly"):
        started.receive()
