"""The loop leaves a thread of the application alone that goes on doing the loop's work, and takes it up again."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from itertools import count
from typing import Any, cast

import pytest

from rdstool.protocol.link import BaseLink
from rdstool.transport.base import Transport
from rdstool.transport.driver import AGAIN_S, BURST_BYTES, LONGEST_AGAIN_S, Driver
from rdstool.transport.lookout import LONGEST_STAND_BACK_S, READ, STAND_BACK_S, Lookout
from rdstool.transport.turn import Turn
from tests.unit.protocol.driving import ALL, LARGE, SMALL, bound, greeted, make_node


class Loop:
    """An event loop whose time stands still: callbacks wait until a test calls them."""

    def __init__(self) -> None:
        self.waiting: list[tuple[float, Callable[[], None]]] = []
        """What is to be called next, with its delay or time in seconds."""
        self.reader: Callable[[], None] | None = None
        """What is to be called when there is something to read."""
        self.call_soon = self.call_soon_threadsafe

    def call_soon_threadsafe(self, do: Callable[[], None]) -> None:
        self.waiting.append((0.0, do))

    def call_later(self, delay_s: float, do: Callable[[], None]) -> None:
        self.waiting.append((delay_s, do))

    call_at = call_later

    def add_reader(self, _watched: object, do: Callable[[], None]) -> None:
        self.reader = do

    def remove_reader(self, _watched: object) -> None:
        self.reader = None

    def turn(self) -> float:
        """Call what waits, which is one thing; gives its delay."""
        ((delay_s, do),) = self.waiting
        self.waiting = []
        do()
        return delay_s

    def __call__(self) -> asyncio.AbstractEventLoop:
        return cast("asyncio.AbstractEventLoop", self)


@pytest.fixture
def loop() -> Loop:
    return Loop()


def test_the_more_often_a_thread_attends_the_longer_the_loop_stands_back(loop: Loop) -> None:
    turn = Turn()
    lookout = Lookout(loop(), turn, lambda: None)
    near, far = socket.socketpair()
    with near, far:
        lookout.watch(near, READ, lambda _events: 0)
        far.send(b"a")

        delays = []
        for _ in range(5):
            with turn.lock:
                assert lookout.attend(0)
            if loop.reader is not None:
                loop.reader()
            else:
                delays.append(loop.turn())
        assert delays == [STAND_BACK_S, 2 * STAND_BACK_S, LONGEST_STAND_BACK_S, LONGEST_STAND_BACK_S]
        assert loop.reader is None
        loop.turn()
        assert loop.reader is not None, "no thread has attended since: the loop watches again"
        with turn:
            lookout.forget(near)
        lookout.close()


class Flushed:
    """A transport that takes all that there is to send."""

    def __init__(self, driver: Driver) -> None:
        self.engine = driver.engine
        self.bytes = 0

    def flush(self, link: BaseLink) -> bool:
        self.bytes += sum(map(len, self.engine.data_to_send(cast("Any", link), ALL)))
        return True

    def settle(self) -> None:
        """There is nothing to wait for."""


def test_a_thread_that_goes_on_sending_is_left_alone_and_what_it_leaves_is_sent(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = count(1_000_000)
    monkeypatch.setattr(Driver, "now", staticmethod(lambda: next(clock) / 1_000_000))
    node = make_node(LARGE, sndbuf=64 * BURST_BYTES)
    greeted(node, LARGE, SMALL, 32768, 0.0)
    driver = Driver(node, loop(), threaded=True)
    transport = Flushed(driver)
    driver.transport = cast("Transport", transport)
    sock = bound(node)
    node.take_events()
    size = BURST_BYTES // 2
    sent = 0

    def send() -> None:
        nonlocal sent
        with driver.lock:
            driver.kick(sock.sendmsg(bytes(size), SMALL, 4001, now=driver.now()))
        sent += size

    send()
    assert not loop.waiting, "the first one goes out at once"
    send()
    delays = []
    for _ in range(6):
        before = transport.bytes
        while transport.bytes == before:
            send()
        send()
        delays.append(loop.turn())
    assert delays[:3] == [0, 2 * AGAIN_S, 4 * AGAIN_S]
    assert delays[-1] == LONGEST_AGAIN_S
    assert transport.bytes < sent
    assert loop.turn() == LONGEST_AGAIN_S
    assert transport.bytes > sent, "all of them, with their headers"
    assert loop.waiting == []
