"""The flows of a capture: which are RDS, and which two belong together."""

from __future__ import annotations

from dataclasses import dataclass

from rdstool.capture.ib.flows import Direction, Flow, Hosts, Key
from rdstool.capture.ib.messages import Joiner
from rdstool.capture.ib.order import Budget, PacketOrder, Restart
from rdstool.capture.ib.output import Output
from rdstool.capture.ib.packets import Packets
from rdstool.capture.ib.rdma import Operations
from rdstool.capture.ib.requests import RequestReader
from rdstool.capture.part import PayloadOptions
from rdstool.capture.streams import Endpoint, Stream, StreamTable
from rdstool.protocol.kinds import Transport

MAX_FLOWS = 131_072
"""Flows that are known; packets of further ones are passed over."""
MAX_DIRECTIONS = 65_536
"""Flows that are followed as RDS, two for each stream: each takes ten times the memory of one that is only known."""
MAX_KEPT_BYTES = 64 << 20
"""Bytes of packets and payloads that all flows together hold back."""
MAX_CANDIDATES = 64
"""Flows between two hosts that are compared to find the two of one connection."""
NO_QPN = 0
"""Port of the end whose queue pair's number no packet told."""
FOREIGN = Flow((0, 0, 0, 0, 0), 0, foreign=True)
"""Stands for every flow that is no RDS."""


@dataclass(slots=True)
class IbCounts:
    """Packets that were no part of an RDS stream."""

    foreign: int = 0
    """Of other protocols, or of flows whose protocol could not be told."""
    copies: int = 0
    """Messages of RDMA-CM that the capture holds twice."""
    datagrams: int = 0
    """To queue pairs 0 and 1, and other unreliable transports."""


class FlowTable:
    """All flows by key. ``undecided`` are those that may yet turn out to be RDS, the oldest first."""

    def __init__(self, streams: StreamTable, options: PayloadOptions, output: Output, counts: IbCounts) -> None:
        self.flows: dict[Key, Flow] = {}
        self.undecided: dict[Key, Flow] = {}
        self.budget = Budget(MAX_KEPT_BYTES)
        self._streams = streams
        self._options = options
        self._output = output
        self._counts = counts
        self._unpaired: dict[Hosts, list[Flow]] = {}
        self._directions = 0

    def clear(self) -> None:
        """Forget everything."""
        self.flows.clear()
        self.undecided.clear()
        self._unpaired.clear()
        self._directions = 0

    def has_room(self, directions: int) -> bool:
        """So many more can be followed; if not, the stream counts as passed over."""
        room = self._directions + directions <= MAX_DIRECTIONS
        self._streams.passed_over |= not room
        return room

    def enter(self, key: Key, frame: int) -> Flow | None:
        """A flow that was not met before; None where there are too many."""
        if len(self.flows) >= MAX_FLOWS:
            self._streams.passed_over = True
            return None
        flow = self.flows[key] = Flow(key, frame)
        return flow

    def renew(self, src: bytes, dst: bytes, qpn: int, frame: int) -> tuple[Flow | None, list[Packets]]:
        """A new flow in the place of an older one with the same key, and packets that may be its own already."""
        key = (*_halves(src), *_halves(dst), qpn)
        old = self.flows.pop(key, None)
        self.undecided.pop(key, None)
        early: list[Packets] = []
        if old is not None:
            early = old.release(self.budget)
            self._retire(old)
        return self.enter(key, frame), early

    def candidates(self, flow: Flow) -> list[Flow]:
        """RDS flows whose other direction this one might be."""
        flows = self._unpaired.get(flow.reverse_hosts, [])[-MAX_CANDIDATES:]
        return [other for other in flows if other is not flow and flow.fits(other) >= 0]

    def counterpart(self, flow: Flow, *, last: bool) -> Flow | None:
        """The other direction of a flow, where that is proved; with ``last`` also where only one can be it."""
        candidates = self.candidates(flow)
        proved = [other for other in candidates if flow.fits(other) > 0]
        if proved:
            return max(proved, key=flow.fits)
        return candidates[0] if last and len(candidates) == 1 else None

    def attach(self, flow: Flow, peer: Flow | None) -> None:
        """The flow is RDS: it becomes a direction of the peer's stream, or the first of its own."""
        self.undecided.pop(flow.key, None)
        if not self.has_room(1 if peer is not None else 2):
            self.reject(flow)
            return
        start = flow.first_position()
        if peer is not None and peer.direction is not None:
            number = 1 - peer.direction.number
            flow.lives = peer.lives
            begun = [life for life, stream in enumerate(peer.lives) if stream.first_frame <= flow.first_frame]
            flow.life = max(begun, default=0)
            stream = flow.lives[flow.life]
            flow.peer, peer.peer = peer, flow
            self._unpaired[peer.hosts].remove(peer)
            if flow.mtu is None:
                flow.mtu = peer.mtu
            # A packet that goes to a queue pair names it: now the sender of the first flow has a number too.
            for life in flow.lives:
                self._streams.set_port(life, 1 - number, flow.ends[2])
        else:
            src, dst, qpn = flow.ends
            source, target = Endpoint(src, NO_QPN), Endpoint(dst, qpn)
            number = 0 if src <= dst else 1
            ends = (source, target) if number == 0 else (target, source)
            first = flow.first_frame
            made = self._streams.add(Transport.IB, *ends, initiator_known=False, first_frame=first, from_start=False)
            if made is None:
                self.reject(flow)
                return
            stream = made
            flow.lives.append(stream)
            self._unpaired.setdefault(flow.hosts, []).append(flow)
        order = PacketOrder(stream.coverage[number], self.budget, start)
        self.direct(flow, stream, number, order).joiner.lose_boundary()

    def reject(self, flow: Flow) -> None:
        """The flow is no RDS."""
        self.undecided.pop(flow.key, None)
        flow.release(self.budget)
        flow.foreign = True
        self.flows[flow.key] = FOREIGN
        self._counts.foreign += flow.packets_seen

    def direct(self, flow: Flow, stream: Stream, number: int, order: PacketOrder) -> Direction:
        """Make a flow a direction of a stream."""
        order.mtu = flow.mtu
        self._directions += flow.direction is None
        joiner = Joiner(self._output, self._options, self.budget, stream.number, number)
        operations = Operations()
        reader = RequestReader(joiner, operations, order.span)
        flow.direction = Direction(stream, number, order, joiner, operations, reader)
        flow.decide()
        return flow.direction

    def restart(self, flow: Flow, restart: Restart) -> None:
        """The queue pair's number is in use anew, without RDMA-CM in the capture."""
        old = flow.direction
        assert old is not None
        if flow.life + 1 == len(flow.lives):
            made = self._streams.add(
                Transport.IB,
                old.stream.a,
                old.stream.b,
                initiator_known=old.stream.initiator_known,
                first_frame=restart.frame,
                from_start=False,
            )
            if made is None:
                old.reader.gap()
                return
            flow.lives.append(made)
        flow.life += 1
        stream = flow.lives[flow.life]
        old.end()
        both = list(stream.coverage)
        both[old.number] = restart.coverage
        stream.coverage = both[0], both[1]
        self.direct(flow, stream, old.number, old.order).joiner.lose_boundary()

    def _retire(self, flow: Flow) -> None:
        """A flow ends because another takes its place."""
        if flow.direction is not None:
            flow.direction.finish()
            self._directions -= 1
        waiting = self._unpaired.get(flow.hosts)
        if waiting is not None and flow in waiting:
            waiting.remove(flow)
        if flow.peer is not None and flow.peer.peer is flow:
            flow.peer.peer = None


def _halves(address: bytes) -> tuple[int, int]:
    return int.from_bytes(address[:8], "big"), int.from_bytes(address[8:], "big")
