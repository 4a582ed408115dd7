"""The queue pairs of a device, and what all of them share: clock, counters, memory, events, and the way out."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from rdstool.protocol.timers import Timers
from rdstool.transport.ib.provider import Broken, ConnectionOptions, Event
from rdstool.transport.ib.roce.connection import Dialogues, RoceConnection
from rdstool.transport.ib.roce.counters import Counters
from rdstool.transport.ib.roce.flow import Flow
from rdstool.transport.ib.roce.memory import MemoryTable
from rdstool.transport.ib.roce.queue_pair import QueuePair

MAX_FLOWS = 1_024
"""UDP ports of peers whose prepared headers are kept."""
_FIRST_QUEUE_PAIR = 0x11
_QUEUE_PAIRS = 1 << 24


class QueuePairs:
    """All queue pairs of one local address, by number; a device's lower half."""

    manager: Dialogues

    def __init__(self, address: str, random: Random, source_ports: Sequence[int]) -> None:
        self.address = address
        self.source_ports = tuple(source_ports)
        self.now = 0.0
        self.timers = Timers()
        self.counters = Counters()
        self.memory = MemoryTable(random)
        self.events: list[Event] = []
        self.numbered: dict[int, RoceConnection] = {}
        self.ready: dict[QueuePair, None] = {}
        """Those that may have something to send, in order of their turns."""
        self._random = random
        self._next_number = random.randrange(_FIRST_QUEUE_PAIR, _QUEUE_PAIRS)
        self._outflows: dict[tuple[int, str], Flow] = {}

    def make(self, peer: str, options: ConnectionOptions) -> RoceConnection:
        """A connection with a queue pair number that was not used for long."""
        while self._next_number in self.numbered or self._next_number < _FIRST_QUEUE_PAIR:
            self._next_number = (self._next_number + 1) % _QUEUE_PAIRS
        number = self._next_number
        self._next_number = (number + 1) % _QUEUE_PAIRS
        psn = self._random.getrandbits(24)
        connection = self.numbered[number] = RoceConnection(self, number, psn, peer, options)
        return connection

    def flow_of(self, connection: RoceConnection) -> Flow:
        """What a connection sends on: queue pairs take turns with the source ports, so that links share the load."""
        return self.outflow(self.source_ports[connection.number % len(self.source_ports)], connection.peer)

    def forget(self, connection: RoceConnection) -> None:
        """Its packets are strangers' from now on; what it still has to answer goes out."""
        self.numbered.pop(connection.number, None)

    def broke(self, connection: RoceConnection, detail: str) -> None:
        """A queue pair failed by itself."""
        self.events.append(Broken(connection, detail))

    def wake(self, pair: QueuePair) -> None:
        """A queue pair may have something to send."""
        self.ready[pair] = None

    def outflow(self, port: int, peer: str) -> Flow:
        """What is sent from a source port to a peer."""
        flow = self._outflows.get((port, peer))
        if flow is None:
            if len(self._outflows) >= MAX_FLOWS:
                self._outflows.clear()
            flow = self._outflows[port, peer] = Flow(self.address, port, peer)
        return flow
