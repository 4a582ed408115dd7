"""What is counted of a capture while it is read: one accumulator for each thing that statistics tell of."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rdstool.capture.streams import StreamTable
from rdstool.stats.acks import Acknowledgements, Sent
from rdstool.stats.batch import Columns
from rdstool.stats.congestion import Congestion
from rdstool.stats.groups import Lanes, Sockets
from rdstool.stats.handshakes import Handshakes
from rdstool.stats.pings import Pings
from rdstool.stats.rdma import Rdma
from rdstool.stats.reconnects import Numbering
from rdstool.stats.traffic import Traffic

if TYPE_CHECKING:
    from rdstool.capture.pipeline import Decoded


class Findings:
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
