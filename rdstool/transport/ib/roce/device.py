"""A RoCE device without its sockets: datagrams and time in, datagrams and events out.

    device = Device("192.0.2.1", Random(1))
    device.receive([datagram], "192.0.2.2", 49152, now)    what has come to UDP port 4791
    device.advance(now)                                    do what is due
    for burst in device.transmit(now): ...                 what has to be sent, don't-fragment set
    events = device.take_events()

The same inputs give the same outputs. ``now`` is in seconds and never goes back. Nothing that a peer sends raises an
error or takes more than a fixed amount of memory: it is answered as the protocol wants, or dropped and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

from dissectors.wire.icrc import MAX_PACKET_BYTES, MIN_PACKET_BYTES
from dissectors.wire.infiniband import CM_QP, PSN_MASK, Opcode
from rdstool.protocol.addresses import canonical
from rdstool.protocol.errors import LocalProtocolError
from rdstool.protocol.ib.memory import Access, Region
from rdstool.transport.ib.checks import reachable
from rdstool.transport.ib.provider import ConnectionOptions, Event
from rdstool.transport.ib.roce import mads
from rdstool.transport.ib.roce.bursts import in_bursts
from rdstool.transport.ib.roce.connection import RoceConnection
from rdstool.transport.ib.roce.flow import Flow, ethernet_frame
from rdstool.transport.ib.roce.manager import Manager
from rdstool.transport.ib.roce.memory import MemoryRegion
from rdstool.transport.ib.roce.packets import ACK_REQUEST, BTH_WORDS, KINDS, NUMBER_MASK, PKEY_BASE_MASK, VERSION_MASK
from rdstool.transport.ib.roce.queue_pair import QueuePair, TakesSend
from rdstool.transport.ib.roce.queue_pairs import MAX_FLOWS, QueuePairs
from rdstool.transport.ib.roce.states import QueuePairState

TURN = 64
"""Packets that one connection sends before the next one has its turn."""
BATCH = 256
"""Packets that one call of ``transmit`` gives."""
_MANAGEMENT = int(Opcode.UD_SEND_ONLY)

Tap = Callable[[float, bytes], None]
"""Gets the time and a whole Ethernet frame of each packet sent, and of each received with a good ICRC."""


class Outgoing(NamedTuple):
    """A burst to send to port 4791 of an address: the system is to give each datagram its place as identification."""

    source_port: int
    """One of the device's source ports: the ICRC covers it."""
    destination: str
    datagrams: list[bytes]


class Device(QueuePairs):
    """All connections of one local address."""

    manager: Manager

    def __init__(
        self, address: str, random: Random, source_ports: Sequence[int] = (4791,), tap: Tap | None = None
    ) -> None:
        super().__init__(canonical(address), random, source_ports)
        self.burst = 1
        """Datagrams of a burst at most: 1 where the system cannot cut one apart, or ``MAX_BURST``."""
        self.tap = tap
        self.manager = Manager(self, random)
        self._inflows: dict[tuple[str, int], Flow] = {}
        self._management_psn = 0

    # ---- For the owner

    def listen(self, service_id: int) -> None:
        """Take connection requests for a service."""
        self.manager.listen(service_id)

    def stop_listening(self, service_id: int) -> None:
        """Take no more of them."""
        self.manager.stop_listening(service_id)

    def connect(
        self, peer: str, service_id: int, private_data: bytes = b"", options: ConnectionOptions | None = None
    ) -> RoceConnection:
        """Ask a peer for a connection."""
        return self.manager.connect(
            reachable(peer, self.address), service_id, private_data, options or ConnectionOptions()
        )

    def queue_pair(self, peer: str, options: ConnectionOptions | None = None) -> RoceConnection:
        """A connection without communication management: the owner agrees with the peer on numbers by other means.

        Continue with :meth:`join`; end it with ``fail`` and :meth:`forget`.
        """
        return self.make(reachable(peer, self.address), options or ConnectionOptions())

    def join(self, connection: RoceConnection, number: int, send_psn: int, receive_psn: int) -> None:
        """Begin to talk to the peer's queue pair ``number``."""
        options = connection.options
        connection.receive_psn = receive_psn
        flow = self.flow_of(connection)
        connection.receive_from(flow, number, send_psn, options.path_mtu, options.initiator_depth, options)
        connection.send()

    def register(self, memory: bytearray | memoryview, access: Access, address: int = 0) -> MemoryRegion:
        """Make memory known; ``address`` is what peers and segments count from."""
        return self.memory.register(memory, access, address)

    def deregister(self, region: Region) -> None:
        """Make the keys of a region void."""
        self.memory.deregister(region)

    def take_events(self) -> list[Event]:
        """What has happened since the last call, in order."""
        events, self.events = self.events, []
        return events

    # ---- Time

    def next_timer(self) -> float | None:
        """When :meth:`advance` has to be called."""
        return self.timers.next()

    def advance(self, now: float) -> None:
        """Do what is due."""
        if now < self.now:
            raise LocalProtocolError(f"the clock went back from {self.now} to {now}")
        self.now = now
        self.timers.run(now)

    def _arm(self, pair: QueuePair) -> None:
        """See to it that the queue pair is called when it is due: it may be later than that, never earlier."""
        due = pair.due
        if due is None:
            return
        timer = pair.timer
        if timer is not None:
            if timer.when <= due:
                return
            timer.cancel()
        pair.timer = self.timers.at(due, lambda now: self._pair_due(pair, now))

    def _pair_due(self, pair: QueuePair, now: float) -> None:
        pair.timer = None
        due = pair.due
        if due is not None and due <= now:
            pair.timer_expired(now)
        self._arm(pair)

    # ---- In

    def receive(self, datagrams: Sequence[bytes], host: str, port: int, now: float) -> None:
        """Datagrams have come to port 4791, all from one source address and port."""
        self.advance(now)
        counters = self.counters
        counters.datagrams_received += len(datagrams)
        counters.bytes_received += sum(map(len, datagrams))
        flow = self._inflows.get((host, port)) or self._inflow(host, port)
        source = flow.source
        known = -1
        pair: RoceConnection | None = None
        send: TakesSend | None = None
        for datagram in datagrams:
            length = len(datagram)
            if not MIN_PACKET_BYTES <= length <= MAX_PACKET_BYTES or length & 3:
                counters.malformed += 1
                continue
            identification = flow.identification(datagram)
            if identification is None:
                counters.bad_icrc += 1
                continue
            if self.tap is not None:
                self.tap(now, ethernet_frame(flow, datagram, identification))
            opcode, flags, pkey, number, word = BTH_WORDS.unpack_from(datagram)
            if pkey & PKEY_BASE_MASK != PKEY_BASE_MASK:
                counters.bad_pkey += 1
                continue
            number &= NUMBER_MASK
            if number == CM_QP:
                self._management_datagram(opcode, datagram, source, now)
                known = -1  # what it knows of queue pairs may have changed
                continue
            if number != known:
                pair = self.numbered.get(number)
                known = number
                send = pair.takes_send if pair is not None and pair.peer == source else None
            if send is not None and pair is not None and send(opcode, flags, word, datagram):
                if word & ACK_REQUEST:
                    self.wake(pair)
                continue
            self._packet(pair, source, opcode, flags, word, datagram, now)
            known = -1  # it may be another state now

    def _packet(
        self,
        pair: RoceConnection | None,
        source: str,
        opcode: int,
        flags: int,
        word: int,
        datagram: bytes,
        now: float,
    ) -> None:
        """A packet for a queue pair, if there is one."""
        kind = KINDS[opcode]
        if pair is None:
            self.counters.no_queue_pair += 1
        elif pair.peer != source:
            self.counters.wrong_peer += 1
        elif kind is None or flags & VERSION_MASK:
            self.counters.malformed += 1
        else:
            if pair.state is QueuePairState.RTR:
                self.manager.heard_packet(pair)
            pair.packet(kind, opcode, flags, word, datagram, now)

    def _inflow(self, host: str, port: int) -> Flow:
        if len(self._inflows) >= MAX_FLOWS:
            self._inflows.clear()
        flow = self._inflows[host, port] = Flow(canonical(host), port, self.address)
        return flow

    def _management_datagram(self, opcode: int, datagram: bytes, peer: str, now: float) -> None:
        self.counters.mads_received += 1
        message = mads.unpack(datagram) if opcode == _MANAGEMENT else None
        if message is None or not self.manager.heard(peer, message, now):
            self.counters.mads_dropped += 1

    # ---- Out

    def transmit(self, now: float) -> list[Outgoing]:
        """What to send next, ``BATCH`` packets or a few more; an empty list where there is nothing.

        Timers that packets start are set here: ask for :meth:`next_timer` afterwards.
        """
        self.advance(now)
        batch: list[Outgoing] = []
        count = 0
        while count < BATCH and (entry := self.manager.next_message(now)) is not None:
            peer, message = entry
            flow = self.outflow(self.source_ports[0], peer)
            self._management_psn = (self._management_psn + 1) & PSN_MASK
            count += self._add(now, batch, flow, [[flow.seal(mads.head(self._management_psn), message, 0)]])
        while self.ready and count < BATCH:
            pair = next(iter(self.ready))
            del self.ready[pair]
            if pair.flow is None:
                continue
            packets: list[bytes] = []
            pair.emit(now, TURN, packets)
            if len(packets) >= TURN:
                self.ready[pair] = None
            self._arm(pair)
            count += self._add(now, batch, pair.flow, in_bursts(pair.flow, packets, self.burst))
        return batch

    def _add(self, now: float, batch: list[Outgoing], flow: Flow, bursts: list[list[bytes]]) -> int:
        """Put bursts into the batch; tells how many datagrams they are."""
        port, destination = flow.source_port, flow.destination
        count = size = 0
        for datagrams in bursts:
            batch.append(tuple.__new__(Outgoing, (port, destination, datagrams)))
            count += len(datagrams)
            size += sum(map(len, datagrams))
            if self.tap is not None:
                for place, data in enumerate(datagrams):
                    self.tap(now, ethernet_frame(flow, data, place))
        self.counters.datagrams_sent += count
        self.counters.bytes_sent += size
        return count

    def inject(self, connection: RoceConnection, packet: bytes, *, good: bool) -> Outgoing:
        """Any packet, its ICRC good or bad, to be sent beside those of a connection, which does not know of it."""
        flow = self.flow_of(connection)
        sealed = flow.seal(packet, b"", 0)
        if not good:
            sealed = sealed[:-1] + bytes((sealed[-1] ^ 0xFF,))
        batch: list[Outgoing] = []
        self._add(self.now, batch, flow, [[sealed]])
        return batch[0]
