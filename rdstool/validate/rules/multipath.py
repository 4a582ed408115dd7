"""RDS-MPR: multipath over TCP: handshake and fan-out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dissectors.wire.extensions import GenNum, SportIdx
from dissectors.wire.rds import MAX_PATHS
from rdstool.capture.streams import Stream
from rdstool.protocol.kinds import Transport
from rdstool.validate.check import Batch, Check, Context
from rdstool.validate.handshake import Announcement
from rdstool.validate.rules.multipath_rules import CATCH_UP, COUNT, EARLY, PORTS, PROBE_PATH
from rdstool.validate.view import View, first_of_each

MAX_ELSEWHERE = 4096
"""Handshake messages on a second stream that are remembered."""


@dataclass(slots=True)
class _CatchUp:
    """What path 0 of one sender held when the handshake reached it."""

    flow: int
    target: int
    """Stream offset behind the last message."""
    handshake: int
    """Frame."""
    acked: int = 0
    """Frame of the acknowledgement that covers it; 0: not yet."""


Sender = tuple[int, int]
"""The number of an address pair, and 1 where its larger address sends."""


class MultipathCheck(Check):
    """Follows handshakes and connections."""

    rules = (COUNT, EARLY, PROBE_PATH, PORTS, CATCH_UP)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._home: dict[int, int] = {}
        """Pair -> the stream that carries its handshake."""
        self._elsewhere: list[tuple[Announcement, int, int]] = []
        """Handshake messages on other streams, their numbers, and the stream that was the handshake's."""
        self._shaken: dict[int, Announcement] = {}
        """Pair -> the first message that announced two paths or more."""
        self._port_told: set[int] = set()
        self._early_told: set[int] = set()
        self._catch_up: dict[Sender, _CatchUp] = {}
        self._caught_up_with: set[Sender] = set()
        self._modern: set[bytes] = set()
        """Hosts that announce GEN_NUM or SPORT_IDX."""

    def feed(self, batch: Batch) -> None:
        """Take a batch of RDS over TCP."""
        view = batch.view
        if not view.count or not view.tcp.any():
            self._acks(view)
            return
        for said in batch.shakes:
            self._shake(batch, said)
        self._second()
        if self.report.wants(CATCH_UP):
            self._acks(view)
            self._caught_up(batch)

    # Handshake.

    def _shake(self, batch: Batch, said: Announcement) -> None:
        stream = self.context.streams[said.flow >> 1]
        pair = stream.pair
        home = self._home.setdefault(pair, stream.number)
        if home != stream.number and home in self.context.connections.closed:
            self._home[pair] = stream.number
        elif home != stream.number and len(self._elsewhere) < MAX_ELSEWHERE:
            self._elsewhere.append((said, int(batch.view.number[said.row]), home))
        if said.npaths > 1:
            self._shaken.setdefault(pair, said)
            receiver = self._sender_key(stream, said.flow ^ 1)
            if receiver not in self._catch_up and receiver not in self._caught_up_with:
                self._hold(batch, said, receiver)
        if said.has(GenNum) or said.has(SportIdx):
            self._modern.add(said.source)
        # The dialling side's own announcement, on the connection that carries the handshake.
        dials = stream.initiator_known and said.flow & 1 == 0
        if dials and said.has(SportIdx) and stream.a.port % MAX_PATHS and stream.number not in self._port_told:
            self._port_told.add(stream.number)
            text = (
                f"the handshake runs on TCP source port {stream.a.port}, which is {stream.a.port % MAX_PATHS} modulo 8"
            )
            self.report.row(PORTS, batch.view, said.row, text)

    def _sender_key(self, stream: Stream, flow: int) -> Sender:
        source, _ = stream.ends(flow & 1)
        return stream.pair, int(source.address == stream.address_pair[1])

    def _hold(self, batch: Batch, said: Announcement, sender: Sender) -> None:
        """Remember what the receiver of the handshake had sent on this stream before."""
        flow = said.flow ^ 1
        stream = self.context.streams[flow >> 1]
        if not stream.from_start or not self.context.connections.is_first(stream):
            self._caught_up_with.add(sender)
            return
        self._catch_up[sender] = _CatchUp(flow, self._sent_before(batch, flow, said.frame), said.frame)

    def _sent_before(self, batch: Batch, flow: int, frame: int) -> int:
        """The end of what a flow had begun to send before a frame."""
        view, grouped = batch.view, batch.grouped
        rows = np.flatnonzero(view.flow == flow)
        earlier = rows[view.first_frame[rows] < frame]
        if len(earlier):
            return int(view.end[earlier[-1]])
        if len(rows):
            return int(grouped.before[grouped.index == rows[0]][0])
        return self.context.continuity.end(flow)

    def _acks(self, view: View) -> None:
        waiting = sorted((one for one in self._catch_up.values() if not one.acked), key=lambda one: one.flow)
        if not waiting:
            return
        acks = view.decoded.acks
        ack_flows = acks["stream"].astype(np.int64) * 2 + acks["direction"]
        flows = np.array([one.flow for one in waiting])
        targets = np.array([one.target for one in waiting])
        place = np.minimum(np.searchsorted(flows, ack_flows), len(flows) - 1)
        covering = np.flatnonzero((flows[place] == ack_flows) & (acks["position"] >= targets[place]))
        for index, row in first_of_each(place[covering], covering):
            waiting[index].acked = int(acks["frame"][row])

    def _caught_up(self, batch: Batch) -> None:
        """The first message of each sender on any other stream than the one of the handshake."""
        view = batch.view
        numbered = np.flatnonzero(view.numbered)
        first = dict(first_of_each(view.flow[numbered], numbered))
        for sender, one in list(self._catch_up.items()):
            rows = [
                first[flow]
                for number in self.context.connections.of_pair(sender[0])[: MAX_PATHS + 1]
                for flow in (2 * number, 2 * number + 1)
                if flow in first and flow != one.flow and self._sender_key(self.context.streams[number], flow) == sender
            ]
            if not rows:
                continue
            row = min(rows)
            del self._catch_up[sender]
            self._caught_up_with.add(sender)
            began = int(view.first_frame[row])
            modern = self.context.continuity.whole(one.flow) and self._is_modern(one.flow)
            if one.target > 0 and began > one.handshake and modern and not 0 < one.acked <= began:
                when = f"acknowledged in frame {one.acked}" if one.acked else "not acknowledged yet"
                text = f"what path 0 had sent before the handshake in frame {one.handshake} was {when}"
                self.report.row(CATCH_UP, view, row, text)

    def _is_modern(self, flow: int) -> bool:
        """Its sender announces what only 7.0 and later do."""
        source, _ = self.context.streams[flow >> 1].ends(flow & 1)
        return source.address in self._modern

    # Connections.

    def _second(self) -> None:
        """A connection that speaks while an older one of its pair lives, and no handshake came before."""
        shared = self.context.connections.shared
        for pair in shared.keys() - self._early_told:
            numbers = shared[pair]
            first = self.context.streams[numbers[0]]
            if first.transport is not Transport.TCP:
                self._early_told.add(pair)
                continue
            spoke = self.context.connections.spoke(first.number)
            if not first.from_start or first.number in self.context.connections.closed or not spoke:
                self._early_told.add(pair)
                continue
            begins = [self._begins(2 * first.number + way) for way in (0, 1)]
            if False in begins or not all(self.context.streams[number].from_start for number in numbers):
                self._early_told.add(pair)
                continue
            if not all(begins):
                continue
            second = self.context.streams[numbers[1]]
            other = self.context.connections.spoke(second.number)
            if other is None:
                continue
            self._early_told.add(pair)
            opened = self.context.connections.opened.get(second.number)
            shaken = self._shaken.get(pair)
            late = opened and (shaken is None or (shaken.frame > opened.frame and shaken.time > opened.time))
            if opened and late and second.a.address < second.b.address:
                when = f"announced only in frame {shaken.frame}" if shaken else "never announced"
                self.report.at(
                    EARLY,
                    f"{second.a.host} opens a second connection to {second.b.host}; two paths were {when}",
                    opened.frame,
                    opened.time,
                    stream=second.number,
                )

    def _begins(self, flow: int) -> bool | None:
        """All of a path's messages from the first one on were seen: an earlier handshake would be among them.

        None where nothing was seen yet.
        """
        first = self.context.numbering.first(flow)
        if not self.context.continuity.whole(flow) or first > 1:
            return False
        return True if first == 1 else None

    def _probe_paths(self) -> None:
        """Handshakes on two connections that were alive at one time."""
        for said, number, home in self._elsewhere:
            if self.context.connections.last_frame.one(2 * home + (said.flow & 1)) > said.frame:
                self.report.at(
                    PROBE_PATH,
                    f"handshake message on stream {said.flow >> 1}; path 0 is stream {home}, which is still in use",
                    said.frame,
                    said.time,
                    stream=said.flow >> 1,
                    number=number,
                )

    def finish(self) -> None:
        """What needs to know how long each stream lived."""
        self._probe_paths()
        self._too_many()

    def _too_many(self) -> None:
        connections = self.context.connections
        if self.context.continuity.lossy:
            return  # The ends of connections may be missing.
        for numbers in connections.shared.values():
            first = self.context.streams[numbers[0]]
            limit = self.context.path_counts.agreed(first)
            if first.transport is not Transport.TCP or len(numbers) <= limit:
                continue
            alive: list[int] = []
            """Last frames of the connections that still carry messages."""
            for number in numbers:
                stream, spoke = self.context.streams[number], connections.spoke(number)
                if spoke is None or stream.a.address > stream.b.address:
                    continue
                alive = [last for last in alive if last > spoke.first]
                alive.append(spoke.last)
                if len(alive) > limit:
                    opened = connections.opened.get(number)
                    self.report.at(
                        COUNT,
                        f"{len(alive)} connections carry messages at one time, {limit} paths were agreed",
                        stream.first_frame,
                        opened.time if opened else 0,
                        stream=number,
                    )
                    break
