"""Runs one engine: hands its events to transport and application, its bytes to the transport, and keeps its time.

Everything that touches the engine holds ``lock``. The loop's own callbacks take it; an application that lives in the
loop never waits for it, one in another thread waits for at most one callback.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import get_args

from rdstool.protocol import events
from rdstool.protocol.node import Node
from rdstool.transport.alarm import Alarm
from rdstool.transport.base import Transport, Wanted
from rdstool.transport.lookout import Lookout
from rdstool.transport.turn import Turn

BURST_S = 0.000_1
"""What is sent later than this after the last flush goes out at once; what follows more closely goes out together."""
BURST_BYTES = 1 << 20
"""So much of it, for each connection that has something to send, does not wait for the loop to have its turn. The
system's copying empties the processor's own cache, so the messages behind a write run slowly at first: with half of
these bytes, messages of 64 KiB took a tenth longer on both sides."""
LATE_S = 0.000_5
"""Nor does anything once the loop keeps it waiting for so long."""

AGAIN_S = 0.000_5
"""When the loop comes again that was kept from its turn by threads of the application."""
LONGEST_AGAIN_S = 0.004
"""The same where a thread goes on sending, and so sees to what is to be sent by itself. Each time that the loop comes
it takes the interpreter from that thread; and this long at most the last messages wait that such a thread leaves."""

SETTLE_ROUNDS = 4
"""Times that a transport brings news before others in the loop have their turn."""

_WANTED = get_args(Wanted)


class Driver:
    """One engine, its transport and the event loop that runs them."""

    def __init__(self, engine: Node, loop: asyncio.AbstractEventLoop, *, threaded: bool = False) -> None:
        self.engine = engine
        self.loop = loop
        self.turn = Turn()
        self.lock = self.turn.lock
        self.hear: Callable[[events.Event], None] = lambda _event: None
        """Takes the events that are for the application; called in the loop or in ``attend``, under the lock."""
        self.transport: Transport
        self._lookout: Lookout | None = None
        self._threaded = threaded
        """The application lives in other threads than the loop."""
        self._call_soon = loop.call_soon_threadsafe if threaded else loop.call_soon
        self._alarm = Alarm(loop, self._due)
        self._scheduled = False
        self._unsettled = False
        """The transport has something to do, besides what the engine asks for."""
        self._stopped = False
        self._flushed_at = 0.0
        self._queued = 0
        """Bytes of messages since then."""
        self._seen = 0.0
        """When the last flush was of which the loop knows that is to act."""
        self._again_s = AGAIN_S

    now = staticmethod(time.monotonic)
    """Seconds on the clock that the engine is run by."""

    # ---- From the application, under the lock

    def kick(self, queued: int = 0) -> None:
        """After any call of the engine: see that what follows gets done. There are ``queued`` bytes more to send."""
        engine = self.engine
        self._queued += queued
        if self._scheduled:
            late = engine.now - self._flushed_at > LATE_S
            if self._queued < BURST_BYTES and not late:  # nearly always
                return
            due = late or self._queued >= BURST_BYTES * len(engine.ready)
        else:
            due = engine.now - self._flushed_at > BURST_S
        if self._stopped or not engine.pending:
            return
        if engine.ready and due:
            for link in engine.take_ready():
                if not self.transport.flush(link):
                    self._unsettled = True
            self._flushed()
            if not (self._unsettled or engine.pending):
                return
        self.act_again()

    def act_again(self) -> None:
        """Act after others in the loop have had their turn."""
        if not self._scheduled:
            self._scheduled = True
            self._seen = self._flushed_at
            self._call_soon(self._run)

    def _flushed(self) -> None:
        # A long write takes longer than BURST_S: counted from its start, the next message would go out alone.
        self._flushed_at = self.now()
        self._queued = 0

    def attend(self, timeout_s: float | None) -> bool:
        """Spend the time that the application waits on what the loop would do for it, until there may be news.

        False where that cannot be: the caller waits for ``hear`` instead. The lock is let go meanwhile.
        """
        if self._lookout is None:
            return False
        return self.act_here() or self._lookout.attend(timeout_s)

    def act_here(self) -> bool:
        """Do what the loop would do, in this thread; False where there is nothing to do, or another thread is at it."""
        if not (self.engine.pending or self._unsettled) or self._lookout is None or not self.turn.begin_locked():
            return False
        try:
            self.act()
        finally:
            self.turn.end_locked()
        return True

    def wake(self) -> None:
        """End what ``attend`` waits for in another thread."""
        if self._lookout is not None:
            self._lookout.wake()

    # ---- In the loop

    @property
    def lookout(self) -> Lookout:
        """Watches the sockets of a transport that can be called in any thread."""
        if self._lookout is None:
            self._lookout = Lookout(self.loop, self.turn, self.act)
        return self._lookout

    def _run(self) -> None:
        if self._threaded and self._flushed_at != self._seen and not (self._unsettled or self.engine.has_events):
            self._seen = self._flushed_at
            self._again_s = min(2 * self._again_s, LONGEST_AGAIN_S)
        elif self.turn.politely(self._act_at_last):
            return
        else:
            self._again_s = AGAIN_S
        self.loop.call_later(self._again_s, self._run)

    def _act_at_last(self) -> None:
        self._scheduled = False
        self._again_s = AGAIN_S
        self.act()

    def act(self) -> None:
        """Do what the engine asks for, until it asks for nothing. The caller has its turn, and holds the lock."""
        if self._stopped:
            return  # called back once more, for something that was under way
        engine, transport = self.engine, self.transport
        for _ in range(SETTLE_ROUNDS):
            while engine.pending:
                for event in engine.take_events():
                    if isinstance(event, _WANTED):
                        transport.obey(event)
                    else:
                        self.hear(event)
                if engine.ready:
                    for link in engine.take_ready():
                        transport.flush(link)
                    self._flushed()
            self._unsettled = False
            transport.settle()
            if not engine.pending:
                break
        else:
            self.act_again()
        self._alarm.set(self.engine.next_timer())

    def _due(self) -> None:
        if not self.turn.politely(self._ring):
            self.loop.call_later(AGAIN_S, self._due)

    def _ring(self) -> None:
        now = self.now()
        due = self.engine.next_timer()
        # Both are the monotonic clock; asyncio's own resolution is allowed for by asking again.
        if due is not None and due <= now:
            self.engine.timer_expired(now)
        self.act()

    def stop(self) -> None:
        """Run no more timers, and give up all connections."""
        self._stopped = True
        self._alarm.stop()
        self.transport.close()
        if self._lookout is not None:
            self._lookout.close()
