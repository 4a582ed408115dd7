"""InfiniBand: packets in, RDS messages, acknowledgements and events out."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from dissectors.wire.cm import MAD_BYTES
from dissectors.wire.infiniband import CM_QP, Opcode
from rdstool.capture.columns import NS_PER_S, IbPackets, Ints, pair_key
from rdstool.capture.events import Closing, StreamClosed, StreamOpened
from rdstool.capture.ib.cm import REP, CmResult, ConnectionManager, Exchange, attribute_of
from rdstool.capture.ib.flows import PAIRING_PACKETS, SETTLED_PACKETS, Flow, Key
from rdstool.capture.ib.order import Hole, PacketOrder, Restart
from rdstool.capture.ib.output import Output
from rdstool.capture.ib.packets import PART_OF, Packets, Part, parse_bth
from rdstool.capture.ib.table import FOREIGN, MAX_KEPT_BYTES, FlowTable, IbCounts
from rdstool.capture.part import Part as StreamPart
from rdstool.capture.part import PayloadOptions
from rdstool.capture.streams import Endpoint, StreamTable, address_bytes
from rdstool.protocol.kinds import Transport

MAX_UNDECIDED = 8192
"""Flows that may wait for a decision at a time; the one that waited longest is forgotten."""
MAX_HOLD_FRAMES = 20_000
"""Frames of the capture for which others are asked to wait for a message of this stage."""
REPEATED_NS = NS_PER_S
"""RDMA-CM waits longer than this before it sends a message again: what comes sooner was captured twice."""
REPEATED_FRAMES = 64
"""The same by frames, where the two times are of clocks that have nothing in common."""
OTHER_CLOCK_NS = 86_400 * NS_PER_S
"""Times this far apart are of different clocks: Soft-RoCE counts from its start (protocol.md §13)."""
MAX_RECENT = 1024
"""Messages of RDMA-CM that are remembered to tell copies."""
LOOK_PACKETS = 64
"""Packets between two looks at a flow that is not decided."""
_MANAGED, _CONNECTED, _DECIDED_AT_LAST = 10, 11, 12
"""Steps of this stage, as turns of the stream table: behind those of TCP."""


class IbStreams:
    """All RDS queue pairs of a capture. Feed it the packets of one chunk after the other."""

    def __init__(self, streams: StreamTable, options: PayloadOptions) -> None:
        self.streams = streams
        self.counts = IbCounts()
        self._output = Output()
        self._table = FlowTable(streams, options, self._output, self.counts)
        self._cm = ConnectionManager()
        self._recent: OrderedDict[tuple[bytes, bytes, bytes], tuple[int, int]] = OrderedDict()
        """Source, destination and bytes of messages of RDMA-CM -> frame and time of the latest."""
        self._waiting: dict[Key, int] = {}
        """The oldest frame that a flow holds back."""
        self._frame = 0

    def feed(self, packets: IbPackets, last_frame: int | None = None) -> StreamPart:
        """Take the packets of one chunk, in capture order.

        ``last_frame`` is that of the chunk's last packet, where these are only some of them.
        """
        if last_frame is None:
            if not len(packets):
                return StreamPart.empty()
            last_frame = int(packets.frame[-1])
        self._frame = last_frame
        if len(packets):
            self._feed(packets)
        self._output.release(self._frame)
        return self._output.part()

    def _feed(self, packets: IbPackets) -> None:
        parsed, qpn = parse_bth(packets)
        waiting = np.ones(len(packets), np.bool_)
        managed = np.flatnonzero((qpn == CM_QP) & (parsed.opcode == Opcode.UD_SEND_ONLY)).tolist()
        hosts = pair_key(packets) if managed else None
        for index in managed:
            at = int(parsed.at[index])
            raw = parsed.data[at : at + min(int(parsed.captured[index]), 8 + MAD_BYTES)].tobytes()
            self.streams.turn = _MANAGED, int(packets.frame[index])
            if attribute_of(raw) == REP and hosts is not None:
                # What a REP connects is another use of its queue pairs from that packet on.
                before = np.flatnonzero(waiting[:index] & (hosts[:index] == hosts[index]))
                waiting[before] = False
                self._connected(packets, parsed, qpn, before)
            self._managed(packets, raw, index)
        self._connected(packets, parsed, qpn, np.flatnonzero(waiting), turn=_CONNECTED)

    def finish(self) -> StreamPart:
        """Give up all holes, decide what was not decided, report what is incomplete, and forget all state."""
        answers: list[tuple[Flow, Packets]] = []
        for flow in self._undecided():
            if flow.evidence.is_rds:
                self.streams.turn = _DECIDED_AT_LAST, flow.first_frame
                self._table.attach(flow, self._table.counterpart(flow, last=True))
                self._replay(flow, answers)
        for flow in self._undecided():
            peer = self._table.counterpart(flow, last=False)
            if peer is not None and flow.evidence.good > flow.evidence.foreign:
                self._table.attach(flow, peer)
                self._replay(flow, answers)
        for flow in list(self._table.undecided.values()):
            self._table.reject(flow)
        self._answer(answers)
        for flow in self._table.flows.values():
            if flow.direction is not None:
                flow.direction.finish()
        self._table.clear()
        self._waiting.clear()
        self._output.release(self._frame + MAX_HOLD_FRAMES)
        return self._output.part()

    def settled_frame(self) -> int | None:
        """The frame before which no more messages can be completed; None where nothing is held back."""
        frames = [flow.kept[0].frame[0] for flow in self._table.undecided.values() if flow.kept and flow.evidence.good]
        frames += self._waiting.values()
        frames += self._output.held_frames
        oldest = self._frame - MAX_HOLD_FRAMES
        return min((int(frame) for frame in frames if frame > oldest), default=None)

    @property
    def kept_bytes(self) -> int:
        """Bytes of packets and payloads that are held back."""
        return MAX_KEPT_BYTES - self._table.budget.left

    def _undecided(self) -> list[Flow]:
        return sorted(self._table.undecided.values(), key=lambda flow: flow.first_frame)

    # RDMA-CM.

    def _managed(self, packets: IbPackets, raw: bytes, index: int) -> None:
        src = address_bytes(int(packets.src_hi[index]), int(packets.src_lo[index]))
        dst = address_bytes(int(packets.dst_hi[index]), int(packets.dst_lo[index]))
        frame, time = int(packets.frame[index]), int(packets.time[index])
        if self._is_copy((src, dst, raw), frame, time):
            self.counts.copies += 1
            return
        result = self._cm.message(raw, frame, time, src, dst)
        if result is None:
            return
        exchange = result.exchange
        if exchange is not None and result.accepted:
            self._open(exchange, frame, time)
        if result.event is not None:
            event = result.event
            if exchange is not None and result.accepted:
                event = replace(event, stream=exchange.stream)
            self._output.events.append(event)
            self._close(result, frame, time)

    def _is_copy(self, message: tuple[bytes, bytes, bytes], frame: int, time: int) -> bool:
        """The message was captured a moment ago: at the other end, in a capture that was merged of both."""
        before = self._recent.pop(message, None)
        self._recent[message] = frame, time
        if len(self._recent) > MAX_RECENT:
            self._recent.popitem(last=False)
        if before is None:
            return False
        apart = abs(time - before[1])
        return apart < REPEATED_NS or (apart > OTHER_CLOCK_NS and frame - before[0] <= REPEATED_FRAMES)

    def _open(self, exchange: Exchange, frame: int, time: int) -> None:
        """Two queue pairs are connected: for RDS, or not."""
        renewed = [
            self._table.renew(source, target, qpn, frame)
            for source, target, qpn in (
                (exchange.active, exchange.passive, exchange.passive_qpn),
                (exchange.passive, exchange.active, exchange.qpn),
            )
        ]
        flows = [flow for flow, _ in renewed]
        if not exchange.version:
            for flow in flows:
                if flow is not None:
                    self._table.flows[flow.key] = FOREIGN
            return
        if not self._table.has_room(2):
            return
        stream = self.streams.add(
            Transport.IB,
            Endpoint(exchange.active_address, exchange.qpn),
            Endpoint(exchange.passive_address, exchange.passive_qpn),
            initiator_known=True,
            first_frame=exchange.first_frame,
            from_start=True,
        )
        if stream is None:
            return
        exchange.stream = stream.number
        self._output.events.append(StreamOpened(frame, time, stream.number, 0))
        lives = [stream]
        # Each side tells the other where to begin.
        for number, (flow, psn) in enumerate(zip(flows, (exchange.passive_psn, exchange.psn), strict=True)):
            if flow is not None:
                flow.lives = lives
                flow.mtu = exchange.mtu or None
                self._table.direct(flow, stream, number, PacketOrder(stream.coverage[number], self._table.budget, psn))
        if flows[0] is not None and flows[1] is not None:
            flows[0].peer, flows[1].peer = flows[1], flows[0]
        answers: list[tuple[Flow, Packets]] = []
        for flow, early in renewed:
            if flow is not None and flow.direction is not None:
                for packets in early:
                    self._read(flow, packets.take(flow.direction.order.soon(packets.psn)), answers)
        self._answer(answers)

    def _close(self, result: CmResult, frame: int, time: int) -> None:
        exchange = result.exchange
        if result.ends and exchange is not None and exchange.stream >= 0 and not exchange.closed:
            exchange.closed = True
            direction = 0 if result.from_active else 1
            self._output.events.append(StreamClosed(frame, time, exchange.stream, direction, Closing.DREQ, 0))

    # Flows.

    def _connected(self, packets: IbPackets, parsed: Packets, qpn: Ints, index: Ints, turn: int | None = None) -> None:
        """Packets of reliable connections, with no new connection among them."""
        of_interest = (PART_OF.take(parsed.opcode.take(index)) != Part.NONE) & (qpn.take(index) > CM_QP)
        self.counts.datagrams += len(index) - int(of_interest.sum())
        answers: list[tuple[Flow, Packets]] = []
        for key, some in _groups(packets, qpn, index[of_interest]):
            if turn is not None:
                self.streams.turn = turn, int(packets.frame[some[0]])
            flow = self._table.flows.get(key) or self._table.enter(key, int(packets.frame[some[0]]))
            if flow is None or flow.foreign:
                self.counts.foreign += len(some)
                continue
            self._take(flow, parsed.take(some), answers)
        self._answer(answers)

    @staticmethod
    def _answer(answers: list[tuple[Flow, Packets]]) -> None:
        """Answers come after the requests that they answer, and so does their reading."""
        for flow, responses in answers:
            peer = flow.peer
            if peer is not None and peer.direction is not None:
                peer.direction.responses(responses)

    def _take(self, flow: Flow, packets: Packets, answers: list[tuple[Flow, Packets]]) -> None:
        if flow.direction is not None and flow.peer is not None and flow.mtu is not None:
            self._read(flow, packets, answers)
            return
        done = 0
        while flow.direction is None and not flow.foreign and done < len(packets):
            look = packets.part(slice(done, done + LOOK_PACKETS))
            done += len(look)
            flow.note(look)
            self._look(flow, look, answers)
            self._replay(flow, answers)
        if done < len(packets):
            if flow.foreign:
                self.counts.foreign += len(packets) - done
            else:
                rest = packets.part(slice(done, None))
                flow.note(rest)
                self._read(flow, rest, answers)

    def _replay(self, flow: Flow, answers: list[tuple[Flow, Packets]]) -> None:
        """Read what was kept of a flow until it was decided."""
        if flow.direction is not None:
            for kept in flow.release(self._table.budget):
                self._read(flow, kept, answers)

    def _read(self, flow: Flow, packets: Packets, answers: list[tuple[Flow, Packets]]) -> None:
        """Packets of a flow that is RDS."""
        direction = flow.direction
        assert direction is not None
        if flow.mtu is None and flow.peer is not None:
            flow.mtu = flow.peer.mtu
        if flow.mtu is not None:
            direction.order.mtu = flow.mtu
        responses = PART_OF.take(packets.opcode) == Part.RESPONSE
        if responses.any():
            answers.append((flow, packets.take(responses)))
            packets = packets.take(~responses)
        self._ordered(flow, direction.order.feed(packets))
        held = flow.direction.held_frame if flow.direction is not None else None
        if held is not None:
            self._waiting[flow.key] = held
        else:
            self._waiting.pop(flow.key, None)

    def _ordered(self, flow: Flow, items: list[Packets | Hole | Restart]) -> None:
        begin = 0
        for index, item in enumerate(items):
            if isinstance(item, Restart) and flow.direction is not None:
                flow.direction.requests(items[begin:index])
                begin = index + 1
                self._table.restart(flow, item)
        if flow.direction is not None:
            flow.direction.requests(items[begin:])

    # What is RDS, and which flows belong together.

    def _forget(self, flow: Flow, answers: list[tuple[Flow, Packets]]) -> None:
        """Decide about a flow now, to make room; where it cannot be told it may come again."""
        if flow.evidence.is_rds:
            self._table.attach(flow, self._table.counterpart(flow, last=True))
            self._replay(flow, answers)
        else:
            self._table.reject(flow)
            del self._table.flows[flow.key]

    def _look(self, flow: Flow, packets: Packets, answers: list[tuple[Flow, Packets]]) -> None:
        """Decide about a flow, or keep its packets until that can be done."""
        if flow.key not in self._table.undecided:
            self._table.undecided[flow.key] = flow
            if len(self._table.undecided) > MAX_UNDECIDED:
                self._forget(next(iter(self._table.undecided.values())), answers)
        if not flow.evidence.is_rds:
            flow.evidence.observe(packets)
        flow.keep(packets, self._table.budget)
        if flow.evidence.is_foreign:
            self._table.reject(flow)
        elif flow.evidence.good:
            peer = self._table.counterpart(flow, last=False)
            if peer is not None:
                self._table.attach(flow, peer)
            elif flow.evidence.is_rds and flow.requests_seen >= SETTLED_PACKETS:
                candidates = self._table.candidates(flow)
                if not candidates:
                    self._table.attach(flow, None)
                elif flow.packets_seen >= PAIRING_PACKETS:
                    self._table.attach(flow, self._table.counterpart(flow, last=True))


def _groups(packets: IbPackets, qpn: Ints, index: Ints) -> Iterator[tuple[Key, Ints]]:
    """The packets of each flow, in capture order."""
    if not len(index):
        return
    columns = [
        column.take(index)
        for column in (packets.src_hi, packets.src_lo, packets.dst_hi, packets.dst_lo, qpn.astype(np.uint64))
    ]
    # Sorting by a mixture of the columns brings equal keys together. Where two keys mix to the same number their
    # packets may alternate: that makes more groups, not wrong ones.
    mixed = np.zeros(len(index), np.uint64)
    for column in columns:
        mixed = (mixed ^ column) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    order = np.argsort(mixed, kind="stable")
    changes = np.zeros(len(index) - 1, np.bool_)
    for number, column in enumerate(columns):
        in_order = column.take(order)
        columns[number] = in_order
        changes |= in_order[1:] != in_order[:-1]
    index = index.take(order)
    bounds = np.concatenate(([0], np.flatnonzero(changes) + 1, [len(index)])).tolist()
    starts = sorted(range(len(bounds) - 1), key=lambda at: int(index[bounds[at]]))
    for at in starts:
        begin, end = bounds[at], bounds[at + 1]
        a, b, c, d, e = (int(column[begin]) for column in columns)
        yield (a, b, c, d, e), index[begin:end]
