"""Sockets are seen to by the loop, or by a thread that waits anyhow: by one of them at a time."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import pytest

from rdstool.transport.lookout import READ, TURN_LONG_BYTES, Lookout
from rdstool.transport.turn import Turn

PATIENCE_S = 30


@dataclass
class Watch:
    """A lookout on one socket, with its loop in a thread of its own."""

    loop: asyncio.AbstractEventLoop
    turn: Turn
    lookout: Lookout
    near: socket.socket
    far: socket.socket
    got: bytearray = field(default_factory=bytearray)
    """What came, in order."""
    by: list[int] = field(default_factory=list)
    """The threads that saw to it."""
    news: threading.Event = field(default_factory=threading.Event)

    def read(self, events: int) -> int:
        """Take a little of what there is."""
        assert events == READ
        assert self.turn.lock.locked()
        self.got += self.near.recv(2)
        self.by.append(threading.get_ident())
        self.news.set()
        return 0

    def attend(self, timeout_s: float | None = PATIENCE_S) -> bool:
        """Have this thread attend."""
        with self.turn.lock:
            return self.lookout.attend(timeout_s)

    @contextmanager
    def attending(self) -> Iterator[threading.Thread]:
        """Another thread attends."""
        thread = threading.Thread(target=self.attend)
        thread.start()
        # While one thread attends, no other can.
        while self.attend(0):
            continue
        yield thread
        thread.join()


@pytest.fixture
def watch() -> Iterator[Watch]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    near, far = socket.socketpair()
    with near, far:
        turn = Turn()
        made = Watch(loop, turn, Lookout(loop, turn, lambda: None), near, far)
        with turn:
            made.lookout.watch(near, READ, made.read)
        thread.start()
        yield made
        loop.call_soon_threadsafe(made.lookout.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_without_a_thread_that_waits_the_loop_sees_to_what_comes(watch: Watch) -> None:
    watch.far.send(b"a")
    assert watch.news.wait(PATIENCE_S)
    assert watch.by != [threading.get_ident()]


def test_a_thread_that_waits_sees_to_what_comes_itself(watch: Watch) -> None:
    with watch.turn.lock:  # keeps the loop from it
        watch.far.send(b"a")
        while not watch.got:
            assert watch.lookout.attend(PATIENCE_S)
    assert watch.by == [threading.get_ident()]


def test_the_loop_goes_on_when_no_thread_waits_any_more(watch: Watch) -> None:
    test_a_thread_that_waits_sees_to_what_comes_itself(watch)
    watch.news.clear()
    watch.far.send(b"b")
    assert watch.news.wait(PATIENCE_S)
    assert watch.got == b"ab"
    assert watch.by[1] != threading.get_ident()


def test_one_thread_attends_at_a_time(watch: Watch) -> None:
    with watch.attending() as other:
        assert not watch.attend()
        watch.far.send(b"a")
        other.join()
        assert watch.by == [other.ident]
        watch.attend(0)


def test_a_thread_that_attends_is_woken(watch: Watch) -> None:
    with watch.attending() as other:
        with watch.turn.lock:
            watch.lookout.wake()
        other.join()
    assert watch.got == b""


def test_closing_ends_the_wait_and_nothing_is_attended_to_after_it(watch: Watch) -> None:
    with watch.attending() as other:
        watch.loop.call_soon_threadsafe(watch.lookout.close)
        other.join()
    watch.far.send(b"a")
    assert not watch.attend()
    assert watch.got == b""


def test_what_is_forgotten_before_its_turn_is_not_told_of(watch: Watch) -> None:
    """A connection that one thread closes may be ready already for another one that waits for its turn."""
    told: list[socket.socket] = []
    pairs = [socket.socketpair() for _ in range(2)]

    def forget_all(sock: socket.socket, _events: int) -> int:
        told.append(sock)
        for near, _ in pairs:
            watch.lookout.forget(near)
        return 0

    with watch.turn.lock:
        for near, far in pairs:
            watch.lookout.watch(near, READ, partial(forget_all, near))
            far.send(b"a")
        assert watch.lookout.attend(PATIENCE_S)
    assert len(told) == 1
    for near, far in pairs:
        near.close()
        far.close()


def test_sockets_that_bring_much_take_turns_with_the_application(watch: Watch) -> None:
    """Else what came first is out of the processor's cache before it is used, and the first socket always is first."""
    told: list[int] = []
    pairs = [socket.socketpair() for _ in range(3)]

    def read(number: int, _events: int) -> int:
        told.append(number)
        return TURN_LONG_BYTES

    with watch.turn.lock:
        for number, (near, far) in enumerate(pairs):
            watch.lookout.watch(near, READ, partial(read, number))
            far.send(b"a")
        for turns in range(1, 7):
            assert watch.lookout.attend(PATIENCE_S)
            assert len(told) == turns
        assert sorted(told[:3]) == [0, 1, 2]
        assert told[3:] == told[:3]
        for near, _ in pairs:
            watch.lookout.forget(near)
    for near, far in pairs:
        near.close()
        far.close()


def test_what_is_forgotten_between_turns_is_not_told_of(watch: Watch) -> None:
    told: list[socket.socket] = []
    pairs = [socket.socketpair() for _ in range(2)]

    def read(sock: socket.socket, _events: int) -> int:
        told.append(sock)
        return TURN_LONG_BYTES

    with watch.turn.lock:
        for near, far in pairs:
            watch.lookout.watch(near, READ, partial(read, near))
            far.send(b"a")
        assert watch.lookout.attend(PATIENCE_S)
        for near, _ in pairs:
            watch.lookout.forget(near)
        watch.far.send(b"a")
        while not watch.got:
            assert watch.lookout.attend(PATIENCE_S)
    assert len(told) == 1
    for near, far in pairs:
        near.close()
        far.close()


def test_whoever_sees_to_it_nothing_is_passed_over_and_nothing_comes_out_of_order(watch: Watch) -> None:
    sent = bytes(number % 251 for number in range(20_000))
    sender = threading.Thread(target=watch.far.sendall, args=(sent,))
    sender.start()
    while len(watch.got) < len(sent):
        watch.attend(PATIENCE_S)
        watch.news.clear()
        watch.news.wait(0.0001)  # as long as an application has something else to do
    sender.join()
    assert watch.got == sent
