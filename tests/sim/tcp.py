"""TCP connections of the simulated network: bytes in order, windows, FIN, RST, and loss of the connection at any byte.

A connection has two sides; each is what a host's system keeps for a socket. What a side sends is delayed at random,
arrives in order, and is acknowledged when the other *system* has it, whether or not the program there has read it.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Protocol

from tests.sim.clock import Clock

if TYPE_CHECKING:
    from rdstool.protocol.link import Link

WINDOW = 1 << 16
"""Bytes that a side sends beyond what is acknowledged."""
SEGMENT = 16_000
"""Bytes that travel together at most."""
SMALL_SEGMENT = 1000
READ_BUFFER = 1 << 17
"""Bytes unread by the program above which a system takes no more."""
KEEPALIVE_S = (5.0, 30.0)
"""How long it takes until a side finds that the other is no more."""


class Program(Protocol):
    """What runs on a host and uses its TCP."""

    def wake(self) -> None:
        """Something can be read or written."""

    def acknowledged(self, side: Side) -> None:
        """The other system has more of what this side sent."""


class Weather:
    """Delays of the network."""

    def __init__(self, random: Random, clock: Clock) -> None:
        self.random = random
        self.clock = clock
        self.delay_s = random.choice((0.0001, 0.001, 0.01, 0.05))

    def delay(self) -> float:
        """Of one segment."""
        return self.delay_s * (0.5 + self.random.random())


class Side:
    """One end of a TCP connection."""

    def __init__(self, weather: Weather, program: Program, address: str, port: int) -> None:
        self.weather = weather
        self.program = program
        self.address = address
        self.port = port
        self.other: Side
        """The far end; there is none before the SYN has come there."""
        self.met = False
        self.link: Link | None = None
        self.inbox = bytearray()
        """Arrived and not read."""
        self.eof = False
        """The other side's FIN has come."""
        self.error = False
        """The connection is dead, and this side knows."""
        self.closed = False
        """The program has closed it: what arrives is answered with RST."""
        self.silent = False
        """The host is gone: nothing arrives and nothing is answered."""
        self.connecting = False
        self.unsent = bytearray()
        """Given by the program, not yet under way."""
        self.sent = 0
        self.acked = 0
        self.arrived = 0
        """Bytes of the other side that have arrived."""
        self.limit: int | None = None
        """No byte beyond this one arrives: the connection was cut there."""
        self.fin_sent = False
        self.fin_wanted = False
        self.stalled_until = 0.0
        self._last_arrival = 0.0

    @property
    def done(self) -> bool:
        """No more can be sent or read."""
        return self.closed or self.silent

    def room(self) -> int:
        """Bytes that the program may give."""
        return max(0, WINDOW - len(self.unsent))

    def push(self) -> None:
        """Send what the window allows."""
        while self.unsent and not self.fin_sent and not self.error:
            space = min(WINDOW - (self.sent - self.acked), READ_BUFFER - len(self.other.inbox), SEGMENT)
            # Little room is not used while more is to be sent: else tiny segments would beget tiny segments.
            if space < min(len(self.unsent), SMALL_SEGMENT):
                return
            size = min(space, len(self.unsent), self.weather.random.randint(1, SEGMENT))
            data = bytes(self.unsent[:size])
            del self.unsent[:size]
            self.sent += size
            self._travel(lambda data=data: self.other.arrive(data))  # type: ignore[misc]
        if self.fin_wanted and not self.unsent and not self.fin_sent:
            self.fin_sent = True
            self._travel(self.other.arrive_fin)

    def _travel(self, action: Callable[[], None]) -> None:
        clock = self.weather.clock
        when = max(self._last_arrival, self.stalled_until, clock.now + self.weather.delay())
        self._last_arrival = when
        clock.at(when, action)

    def arrive(self, data: bytes) -> None:
        """Bytes of the other side have come to this system."""
        if self.silent or self.error:
            return
        if self.limit is not None:
            data = data[: max(0, self.limit - self.arrived)]
        if not data:
            return
        if self.closed:
            self.reset_other()
            return
        self.inbox += data
        self.arrived += len(data)
        total = self.arrived
        # An acknowledgement is lost with the connection where that is cut before it is back.
        self.weather.clock.after(self.weather.delay(), lambda: self.other.acknowledge(total))
        self.program.wake()

    def acknowledge(self, total: int) -> None:
        """The other system has told that it has the first ``total`` bytes."""
        if self.done or self.error or (self.limit is not None and self.weather.random.random() < 0.7):
            return
        if total > self.acked:
            self.acked = total
            self.push()
            self.program.acknowledged(self)

    def read(self, size: int) -> bytes:
        """Take bytes out of the system's buffer."""
        data = bytes(self.inbox[:size])
        del self.inbox[:size]
        if not self.other.done:
            self.other.push()
        return data

    def arrive_fin(self) -> None:
        """The other side sends no more."""
        if not self.silent and not self.error and self.limit is None:
            self.eof = True
            self.program.wake()

    def shutdown(self) -> None:
        """Send FIN after what is under way; what was not yet is given up."""
        self.unsent.clear()
        self.fin_wanted = True
        self.push()

    def close(self) -> None:
        """The program is done with it: FIN, or RST where it has left bytes unread."""
        if self.closed:
            return
        self.closed = True
        if self.inbox:
            self.inbox.clear()
            self.reset_other()
        elif not self.error:
            self.unsent.clear()
            self.fin_wanted = True
            self.push()

    def reset(self) -> None:
        """Close with RST."""
        if not self.closed:
            self.closed = True
            self.reset_other()

    def reset_other(self) -> None:
        """RST reaches the other side behind what was sent before."""
        self._travel(self.other.fail)

    def fail(self) -> None:
        """This side learns that the connection is dead."""
        if not self.done and not self.error:
            self.error = True
            self.program.wake()


def cut(side: Side, *, loud: bool) -> None:
    """End a connection in the middle: in each direction, part of what is under way is lost.

    ``loud``: both sides see an RST soon; else each finds out by keep-alive.
    """
    weather = side.weather
    for one in (side, side.other):
        if one.limit is None:
            one.limit = weather.random.randint(one.arrived, max(one.arrived, one.other.sent))
        if loud:
            weather.clock.after(weather.delay() * 3, one.fail)
        else:
            weather.clock.after(weather.random.uniform(*KEEPALIVE_S), one.fail)
