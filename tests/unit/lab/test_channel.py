"""The host's end and the agent's end of the talk, joined without a guest between them."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from rdstool.lab.agent.commands import Commands
from rdstool.lab.agent.server import Server
from rdstool.lab.channel import Channel, GuestError

TIMEOUT_S = 60


class Parts:
    """What a test offers."""

    def __init__(self) -> None:
        self.gate = threading.Event()

    def double(self, value: int) -> int:
        return 2 * value

    def wait(self) -> str:
        assert self.gate.wait(TIMEOUT_S)
        return "opened"

    def open(self) -> None:
        self.gate.set()

    def refuse(self) -> None:
        raise OSError(105, os.strerror(105))

    def break_down(self) -> None:
        raise KeyError("lost")


@pytest.fixture
def channel() -> Iterator[Channel]:
    ours, theirs = socket.socketpair()
    port = open(theirs.detach(), "r+b", buffering=0)  # noqa: PTH123, SIM115 - closed below
    server = Server(port)
    server.offer(Parts())
    server.offer(Commands(server))
    thread = threading.Thread(target=server.run)
    thread.start()
    made = Channel(ours)
    assert made.ready.result(TIMEOUT_S) == "ready"
    yield made
    made.close("the test is over")
    thread.join()
    port.close()


def result(future: Future[Any]) -> Any:
    return future.result(TIMEOUT_S)


def test_answers_come_in_any_order(channel: Channel) -> None:
    waiting = channel.start("parts.wait")
    assert result(channel.start("parts.double", value=21)) == 42
    assert not waiting.done()
    result(channel.start("parts.open"))
    assert result(waiting) == "opened"


def test_an_errno_keeps_its_name(channel: Channel) -> None:
    with pytest.raises(GuestError, match="No buffer space") as caught:
        result(channel.start("parts.refuse"))
    assert caught.value.errno == "ENOBUFS"


def test_another_exception_comes_with_its_traceback(channel: Channel) -> None:
    with pytest.raises(GuestError, match="break_down") as caught:
        result(channel.start("parts.break_down"))
    assert caught.value.errno is None


def test_large_arguments_and_results_pass(channel: Channel) -> None:
    answer = result(channel.start("commands.run", argv=["cat"], stdin="QUJD" * 1_000_000))
    assert answer["status"] == 0
    assert len(answer["stdout"]) == 4_000_000


def test_output_comes_while_the_program_runs(channel: Channel) -> None:
    parts: list[Any] = []
    first = threading.Event()

    def take(part: Any) -> None:
        parts.append(part)
        if part is not None:
            first.set()

    future = channel.start("commands.stream", take, key="k", argv=["cat"], stdin=True)
    while not parts:
        result(channel.start("parts.double", value=1))  # the program may not have started yet
    result(channel.start("commands.feed", key="k", data="aGVsbG8="))
    assert first.wait(TIMEOUT_S)
    assert not future.done()
    result(channel.start("commands.feed", key="k", data=None))
    assert result(future) == 0
    assert parts == [None, [1, "aGVsbG8="]]


def test_who_cannot_take_output_ends_its_own_call_and_no_other(channel: Channel) -> None:
    def take(part: Any) -> None:
        if part is not None:
            raise BrokenPipeError("nobody reads")

    future = channel.start("commands.stream", take, key="k", argv=["sh", "-c", "echo; exec cat"], stdin=True)
    with pytest.raises(BrokenPipeError):
        result(future)
    assert result(channel.start("parts.double", value=21)) == 42
    result(channel.start("commands.hang_up", key="k"))


def test_a_program_that_outlasts_its_time_is_killed(channel: Channel) -> None:
    assert result(channel.start("commands.run", argv=["sleep", "100"], timeout=0.1))["status"] is None


def test_a_started_program_can_be_ended(channel: Channel) -> None:
    number = result(channel.start("commands.start", argv=["sleep", "100"]))
    assert result(channel.start("commands.finish", number=number, timeout=0))["status"] is None
    assert result(channel.start("commands.finish", number=number, kill="SIGTERM"))["status"] == -15


def test_calls_that_wait_fail_when_the_other_side_goes() -> None:
    ours, theirs = socket.socketpair()
    channel = Channel(ours)
    future = channel.start("parts.wait")
    theirs.close()
    with pytest.raises(GuestError, match="gone"):
        result(future)
    with pytest.raises(GuestError):
        channel.start("parts.wait")
    channel.close("over")
