"""Watches a node's sockets: in its event loop, or in a thread of the application that waits anyhow.

What a thread waits for comes to that thread: it need not wake another one that reads for it, which takes longer than
reading. The loop stands back from the first time that a thread attends, and watches again once no thread has for
``STAND_BACK_S``, or after many turns in a row for ``LONGEST_STAND_BACK_S``.
"""

from __future__ import annotations

import asyncio
import selectors
import socket
from collections.abc import Callable
from contextlib import suppress

from rdstool.transport.turn import Turn

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE

STAND_BACK_S = 0.002
"""How long sockets may be left alone by a thread that attended, before the loop does so again."""
LONGEST_STAND_BACK_S = 0.008
"""The same by one that attended again and again. Each look of the loop takes the interpreter from that thread: with a
look every 2 ms that was a tenth of what receiving messages of 64 KiB takes."""

TURN_LONG_BYTES = 1 << 21
"""Of long payloads, read in one turn of all sockets before the application has its own. Sockets that were ready too
are first in the next turn. Copying them drives all else out of the processor's own cache, so what is done once a turn
runs slowly: as long as reading ten messages of 64 KiB takes. With half of these bytes a receiver takes a fifth longer.
Of short messages none are counted."""

Watched = socket.socket | int
"""A socket, or its descriptor."""
Handler = Callable[[int], int]
"""Takes what a socket is ready for: READ, WRITE, or both. Gives how many bytes of long payloads came."""
Ready = list[tuple[selectors.SelectorKey, int]]


class Lookout:
    """Tells handlers what their sockets are ready for, in whichever thread it comes up, in its ``turn``."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        turn: Turn,
        handled: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._turn = turn
        self._handled = handled
        """Called when handlers were."""
        self._selector = selectors.DefaultSelector()
        self._wanted: dict[Watched, int] = {}
        self._left: Ready = []
        """Ready, and not seen to in the turn before."""
        self._attending = False
        """A thread of the application watches."""
        self._sleeping = False
        """It sleeps, and is to be woken where there is news from elsewhere."""
        self._attended, self._seen = 0, 0
        """Times that a thread has attended, and of how many the loop knows."""
        self._delay_s = STAND_BACK_S
        """Until the loop sees whether a thread has attended since."""
        self._looking_up = False
        """The loop is going to see whether a thread still attends."""
        self._bell, self._ear = socket.socketpair()
        self._bell.setblocking(False)
        self._ear.setblocking(False)
        self.watch(self._ear, READ, self._rung)
        self._closed = False
        self._watched = True
        """The loop watches."""
        loop.add_reader(self._selector, self._ready)

    # ---- Under the lock

    def watch(self, watched: Watched, wanted: int, handler: Handler) -> None:
        """Watch a socket for READ, WRITE, both, or (0) no more."""
        before = self._wanted.get(watched, 0)
        if wanted == before:
            return
        if not wanted:
            self.forget(watched)
            return
        self._wanted[watched] = wanted
        if before:
            self._selector.modify(watched, wanted, handler)
        else:
            self._selector.register(watched, wanted, handler)

    def forget(self, watched: Watched) -> None:
        """Watch a socket no more that is watched. Do so before it is closed."""
        del self._wanted[watched]
        self._left = [each for each in self._left if each[0].fileobj != watched]
        self._selector.unregister(watched)

    def attend(self, timeout_s: float | None) -> bool:
        """Wait in this thread until a socket is ready, or somebody calls ``wake``, and see to it; for a while at most.

        The lock is let go meanwhile. False, and at once, where another thread attends already, or there is no more to
        attend to.
        """
        if self._attending or self._closed:
            return False
        self._attending = self._sleeping = True
        ready = self._left
        self._turn.lock.release()
        try:
            ready = ready or self._selector.select(timeout_s)
        finally:
            self._turn.begin()
            self._sleeping = False
            try:
                self._handle(ready)
            finally:
                self._turn.end_locked()
                self._attending = False
                self._attended += 1
                if self._closed:
                    self._let_go()
                elif not (self._watched or self._looking_up):
                    self._looking_up = True
                    self._loop.call_soon_threadsafe(self._stand_back)
        return True

    def wake(self) -> None:
        """There may be news for a thread that attends."""
        if self._sleeping:
            self._sleeping = False
            with suppress(BlockingIOError):  # it is full: that wakes, too
                self._bell.send(b"\0")

    def close(self) -> None:
        """Watch nothing any more. Called in the loop."""
        if self._closed:
            return
        self._closed = True
        if self._watched:
            self._watched = False
            self._loop.remove_reader(self._selector)
        if self._attending:
            self.wake()
        else:
            self._let_go()

    def _let_go(self) -> None:
        self._selector.close()
        self._bell.close()
        self._ear.close()

    def _handle(self, ready: Ready) -> None:
        if not ready or self._closed:
            return
        self._left = []
        room = TURN_LONG_BYTES
        for number, (key, events) in enumerate(ready):
            if room <= 0:
                self._left = [each for each in ready[number:] if each[0].fileobj in self._wanted]
                break
            if key.fileobj in self._wanted:  # still: another thread may have had its turn since
                room -= key.data(events)
        self._handled()

    def _rung(self, _events: int) -> int:
        with suppress(BlockingIOError):
            self._ear.recv(64)
        return 0

    # ---- In the loop

    def _ready(self) -> None:
        if not self._turn.politely(self._see_to_it):
            self._stand_back()

    def _see_to_it(self) -> None:
        if self._closed:
            return
        if self._attending or self._attended != self._seen:
            self._stand_back()
        else:
            self._handle(self._left or self._selector.select(0))

    def _stand_back(self, delay_s: float = STAND_BACK_S) -> None:
        """Leave the sockets to others for a while."""
        self._seen, self._delay_s = self._attended, delay_s
        self._looking_up = True
        if self._watched:
            self._watched = False
            self._loop.remove_reader(self._selector)
        self._loop.call_later(delay_s, self._look_up)

    def _look_up(self) -> None:
        """Watch again where nobody does. A thread that attends all the while has us look up when it has done."""
        if self._closed:
            return
        if self._attended != self._seen:
            self._stand_back(min(2 * self._delay_s, LONGEST_STAND_BACK_S))
        elif not self._turn.politely(self._watch_again):
            self._stand_back()

    def _watch_again(self) -> None:
        self._looking_up = False
        if not (self._attending or self._closed):
            self._watched = True
            self._loop.add_reader(self._selector, self._ready)
