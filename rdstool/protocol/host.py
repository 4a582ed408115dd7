"""What all parts of a node share: settings, clock, chance, timers, counters, and where they leave what is to be done.

It knows none of them but by what comes in and goes out: the inboxes of sockets, the links of a transport, events.
:class:`rdstool.protocol.node.Node` is a host with sockets and connections.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping
from typing import Protocol

from rdstool.protocol import events
from rdstool.protocol.config import Settings
from rdstool.protocol.congestion import ALL_PORTS, LocalMap
from rdstool.protocol.counters import Counters
from rdstool.protocol.errors import LocalProtocolError, SocketError
from rdstool.protocol.handshake import announce
from rdstool.protocol.ib.memory import Registrar
from rdstool.protocol.ib.unfinished import Unfinished
from rdstool.protocol.inbox import Inbox
from rdstool.protocol.link import BaseLink
from rdstool.protocol.profile import Profile
from rdstool.protocol.timers import Timers
from rdstool.protocol.trace import Trace

Ends = tuple[str, str]
"""Local and peer address."""


class Random(Protocol):
    """Where chance comes from, such as ``random.Random``."""

    def random(self) -> float:
        """A number in [0, 1)."""
        ...


class Host:
    """What sockets and connections are given of their node."""

    ports: Mapping[str, Mapping[int, Inbox]]
    """Bound sockets of each address."""
    monitors: Iterable[Inbox]
    """Sockets with RDS_CONG_MONITOR."""

    def __init__(self, random: Random, settings: Settings, profile: Profile, now: float) -> None:
        self.settings = settings
        self.profile = profile
        self.random = random
        self.now = now
        self.counters = Counters()
        self.timers = Timers()
        self.unfinished = Unfinished(settings.limits.unfinished_bytes, self.counters)
        self.trace = Trace(settings.limits.trace_records)
        self.generation = 1 + int(random.random() * 0xFFFFFFFF)
        """Drawn once: peers tell by it that this node was restarted (§5.5)."""
        self.announcement = announce(profile, settings.paths, self.generation)
        """Extension headers of our probes and their pongs."""
        self.maps: dict[str, LocalMap] = {}
        """The congestion map of each address."""
        self.registrars: dict[str, Registrar] = {}
        """Where the memory regions of each address come from; the transport sets them."""
        self.silent: dict[Ends, float] = {}
        """Peers that have made a connection and that have not carried a message, with the time of that; oldest first.
        Of TCP only, as what follows."""
        self.away: dict[Ends, None] = {}
        """Peers that had a TCP connection, or tried to have one, and lost it; the first that did so first. One of
        several paths may be up still."""
        self.map_updates = 0
        """Congestion maps that have come or changed."""
        self.ready: list[BaseLink] = []
        """Links that have bytes to send."""
        self.closed = False
        self._events: list[events.Event] = []

    def check_clock(self, now: float) -> None:
        """Raises ``LocalProtocolError`` where the clock goes back."""
        if now < self.now:
            raise LocalProtocolError(f"the clock goes back from {self.now} to {now}")
        self.now = now

    def emit(self, event: events.Event) -> None:
        """Report an event."""
        self._events.append(event)

    def memory(self, address: str) -> Registrar:
        """Where memory regions come from. Raises ``SocketError`` (EOPNOTSUPP) where the transport has none."""
        registrar = self.registrars.get(address)
        if registrar is None:
            raise SocketError(errno.EOPNOTSUPP, "the transport has no RDMA")
        return registrar

    def congestion_changed(self, local: str, peer: str, mask: int = ALL_PORTS) -> None:
        """A map to which we send has changed: those who wait for it may try again. ``mask`` has what may be free."""
        self.map_updates += 1
        self.emit(events.CongestionChanged(local, peer))
        for inbox in self.monitors:
            inbox.map_updated(mask)
