"""Sum up a capture: feed its batches to the accumulators, then write down what they found."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rdstool.capture.streams import StreamTable
from rdstool.stats.acks import Acknowledgements, Sent
from rdstool.stats.batch import Columns
from rdstool.stats.congestion import Congestion
from rdstool.stats.groups import Lanes, Sockets
from rdstool.stats.handshakes import Handshakes
from rdstool.stats.model import CaptureStats
from rdstool.stats.pings import Pings
from rdstool.stats.rdma import Rdma
from rdstool.stats.reconnects import Numbering
from rdstool.stats.traffic import Traffic

if TYPE_CHECKING:
    from rdstool.capture.counts import FrameCounts
    from rdstool.capture.pipeline import Capture, Decoded


class Collector:
    """Takes the batches of one capture in their order. Memory does not grow with the number of messages.

    ``listener``, where given, gets every message that is acknowledged, or never will be.
    """

    def __init__(self, streams: StreamTable, listener: Callable[[Sent], None] | None = None) -> None:
        self.streams = streams
        self.lanes = Lanes(streams)
        self.sockets = Sockets(self.lanes)
        self.traffic = Traffic(self.lanes)
        self.acks = Acknowledgements(self.lanes, listener)
        self.numbering = Numbering(self.lanes)
        self.pings = Pings(self.lanes)
        self.congestion = Congestion(streams)
        self.handshakes = Handshakes(streams)
        self.rdma = Rdma(streams)

    def take(self, decoded: Decoded) -> None:
        """Take in one batch."""
        self.lanes.catch_up()
        columns = Columns.of(decoded.messages, self.lanes, self.sockets)
        self.traffic.add(columns)
        self.acks.add(columns, decoded.acks, decoded.events)
        self.numbering.add(columns)
        self.pings.add(columns)
        self.congestion.add(columns, decoded.messages, decoded.events)
        self.handshakes.add(columns, decoded.messages)
        self.rdma.add(decoded.events)

    def finish(self, frames: FrameCounts) -> CaptureStats:
        """The results; no batch can follow."""
        from rdstool.stats.summary import summarise  # noqa: PLC0415 - it needs this class's type

        self.lanes.catch_up()
        self.acks.finish()
        return summarise(self, frames)


def collect(capture: Capture) -> CaptureStats:
    """Read a capture from its beginning to its end and sum it up.

    Raises ``CaptureError`` where the capture is broken; use :class:`Collector` to keep what came before.
    """
    batches = capture.batches()
    collector = Collector(capture.streams)
    for decoded in batches:
        collector.take(decoded)
    return collector.finish(capture.frames)
