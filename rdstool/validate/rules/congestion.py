"""RDS-CNG: congestion bitmaps, and whether senders heed them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from dissectors.wire.congestion import BITMAP_BYTES
from dissectors.wire.rds import Flags
from rdstool.capture.events import Gap
from rdstool.capture.streams import Stream
from rdstool.protocol.kinds import MessageKind
from rdstool.validate.check import Batch, Check, Context
from rdstool.validate.rule import BOTH, ERROR, NOTE, TCP, WARNING, Rule
from rdstool.validate.view import View

GRACE_NS = 1_000_000_000
"""What was queued before a port was marked may still come for so long, from its first message on."""
LOWEST_PORT = 2
"""Lowest port that a socket can have."""
MAX_MAPS = 4096
"""Address pairs whose congested ports are followed at one time."""

SIZE = Rule(
    "RDS-CNG-001",
    ERROR,
    "A congestion bitmap is not 8192 bytes long",
    BOTH,
    "3.1",
    "net/rds/recv.c, cong.c",
    "A bitmap has one bit for each of the 65 536 ports.",
    "A receiver silently ignores any other length, so senders go on to a congested port, or stay blocked.",
    "Check the sender.",
)
FLAGS = Rule(
    "RDS-CNG-002",
    ERROR,
    "A congestion bitmap has other flags beside its own",
    BOTH,
    "1, 3.1",
    "net/rds/tcp_recv.c, ib_recv.c",
    "Receivers compare h_flags with 0x01 for equality.",
    "With any other bit the bitmap is taken as a data message for port 0 and is lost.",
    "Check the sender.",
)
FORM = Rule(
    "RDS-CNG-003",
    WARNING,
    "A congestion bitmap has ports or extension headers",
    BOTH,
    "3.1",
    "net/rds/cong.c",
    "Kernels send bitmaps from port 0 to port 0, without extension headers.",
    "Receivers ignore both.",
    "Check the sender.",
)
OPENING = Rule(
    "RDS-CNG-004",
    NOTE,
    "Path 0 does not begin with a congestion bitmap",
    TCP,
    "3.3",
    "net/rds/cong.c, send.c",
    "A kernel queues its bitmap when a connection comes up, before anything else on path 0.",
    "Maps start empty, so nothing is lost if no port is congested.",
    "Nothing is wrong; the sender is not a Linux kernel.",
)
IGNORED = Rule(
    "RDS-CNG-005",
    WARNING,
    "New messages go to a port that its owner marked as congested",
    BOTH,
    "3.4",
    "net/rds/send.c",
    "A sender checks the peer's bitmap before it queues a message. What was queued before is still sent, so messages "
    "count only from one second after the first of them on.",
    "Messages are never dropped for congestion: they pile up above the receiver's limit.",
    "See whether the sender reads bitmaps at all; a very deep send queue can last longer than the second.",
    unbroken=True,
)
LOW_PORTS = Rule(
    "RDS-CNG-006",
    WARNING,
    "A congestion bitmap marks port 0 or 1",
    BOTH,
    "1.2, 3.1",
    "net/rds/bind.c",
    "No socket can be bound to ports 0 and 1, so neither can be congested.",
    "Pongs and probes to such a port are not sent: pings stay unanswered.",
    "Check the sender; the bit order may be wrong (port p is bit p & 7 of byte p >> 3, from the least significant).",
)


@dataclass(slots=True)
class _Map:
    """What one host knows of another's congested ports."""

    marked: dict[int, int] = field(default_factory=dict)
    """Port -> time of the first message that went to it after it was marked; 0 before that."""
    frames: dict[int, int] = field(default_factory=dict)
    """Port -> frame of the bitmap that marked it."""
    suspects: dict[int, list[int]] = field(default_factory=dict)
    """Port -> messages counted, and frame, time, stream and number of the first."""


Key = tuple[bytes, bytes]
"""Address that sends data, address that marked its ports."""


class CongestionCheck(Check):
    """Looks at bitmaps one by one, and at data only while some port is marked."""

    rules = (SIZE, FLAGS, FORM, OPENING, IGNORED, LOW_PORTS)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._maps: dict[Key, _Map] = {}

    def feed(self, batch: Batch) -> None:
        """Bitmaps are rare; everything else is a mask."""
        view = batch.view
        flags = view.flags
        marked = (flags & Flags.CONG_BITMAP) != 0
        wrong = marked & (flags != Flags.CONG_BITMAP)
        self.report.rows(FLAGS, view, wrong, lambda i: f"flags are 0x{flags[i]:02x}")
        bitmaps = marked & ~wrong
        self.report.rows(SIZE, view, bitmaps & (view.length != BITMAP_BYTES), lambda i: f"h_len is {view.length[i]}")
        form = bitmaps & ((view.sport != 0) | (view.dport != 0) | view.extended)
        self.report.rows(
            FORM, view, form, lambda i: f"ports {view.port_text(i)}, extensions {'yes' if view.extended[i] else 'no'}"
        )
        self._opening(batch)
        for event in view.decoded.events:
            if isinstance(event, Gap) and event.stream >= 0:
                self._forget(self.context.streams[event.stream])
        self._heeded(batch)

    def _opening(self, batch: Batch) -> None:
        view, grouped = batch.view, batch.grouped
        opens = grouped.index[grouped.opens & (grouped.segment == 0)]
        unset = opens[view.tcp[opens] & ((view.flags[opens] & Flags.CONG_BITMAP) == 0)]
        streams, connections = self.context.streams, self.context.connections
        opening = [streams[number] for number in view.stream[unset].tolist()]
        first = [stream.from_start and connections.is_first(stream) for stream in opening]

        def describe(index: int) -> str:
            flow, kind = int(view.flow[index]), MessageKind(int(view.kind[index]))
            return f"{self.who(flow >> 1, flow & 1)} begins with a {kind.label} message"

        self.report.rows(OPENING, view, unset[np.array(first, np.bool_)], describe)

    def _heeded(self, batch: Batch) -> None:
        """Bitmaps and what they forbid, in their order; rows that no bitmap concerns are left out at once."""
        if not self.report.wants(IGNORED, LOW_PORTS):
            return
        view, bitmaps = batch.view, batch.bitmaps
        ports = {port for known in self._maps.values() for port in known.marked}
        ports.update(port for marked in bitmaps.values() for port in marked)
        concerned = list(bitmaps)
        if ports:
            new = ((view.kind == MessageKind.DATA) | (view.kind == MessageKind.PONG)) & ~view.flagged
            new &= (view.length > 0) & np.isin(view.dport, list(ports))
            concerned = sorted({*concerned, *np.flatnonzero(new).tolist()})
        for row in concerned:
            if row in bitmaps:
                self._bitmap(view, row, bitmaps[row])
            else:
                self._data(view, row)

    def _bitmap(self, view: View, index: int, ports: list[int]) -> None:
        flow = int(view.flow[index])
        low = [port for port in ports if port < LOWEST_PORT]
        if low:
            self.report.row(LOW_PORTS, view, index, f"marks port {' and '.join(map(str, low))}")
        source, destination = self.context.streams[flow >> 1].ends(flow & 1)
        key = destination.address, source.address
        known = self._maps.get(key)
        if known is not None:
            self._conclude(known, destination.host)
        if not ports:
            self._maps.pop(key, None)
        elif known is not None or len(self._maps) < MAX_MAPS:
            before = known or _Map()
            self._maps[key] = _Map(
                {port: before.marked.get(port, 0) for port in ports},
                {port: before.frames.get(port, int(view.frame[index])) for port in ports},
            )

    def _data(self, view: View, row: int) -> None:
        """A new message to a port that somebody marked."""
        flow = int(view.flow[row])
        source, destination = self.context.streams[flow >> 1].ends(flow & 1)
        known = self._maps.get((source.address, destination.address))
        port = int(view.dport[row])
        if known is None or port not in known.marked:
            return
        time = int(view.time[row])
        since = known.marked[port]
        if not since:
            known.marked[port] = time
        elif time - since >= GRACE_NS:
            first = [0, int(view.frame[row]), time, flow >> 1, int(view.number[row])]
            known.suspects.setdefault(port, first)[0] += 1

    def _conclude(self, known: _Map, sender: str) -> None:
        for port, (count, frame, time, stream, number) in known.suspects.items():
            more = f" and {count - 1} more after it" if count > 1 else ""
            self.report.at(
                IGNORED,
                f"{sender} sends this message{more} to port {port}, marked as congested in frame {known.frames[port]}",
                frame,
                time,
                stream=stream,
                number=number,
            )
        known.suspects.clear()

    def _forget(self, stream: Stream) -> None:
        """A bitmap may lie in the hole."""
        one, other = stream.address_pair
        self._maps.pop((one, other), None)
        self._maps.pop((other, one), None)

    def finish(self) -> None:
        """No bitmap came any more, and no hole."""
        for (source, _), known in self._maps.items():
            sender = next(end.host for s in self.context.streams.streams for end in (s.a, s.b) if end.address == source)
            self._conclude(known, sender)
