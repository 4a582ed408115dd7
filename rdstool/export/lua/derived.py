"""Fields that only the plugin has: links between frames, and what its tree says besides messages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PluginField:
    """One field of the plugin that no message carries."""

    name: str
    kind: str
    """Constructor of ``ProtoField``."""
    meaning: str
    ahead: bool = False
    """It names a later frame, so it shows only once the capture was read."""
    values: Mapping[int, str] = field(default_factory=dict)
    """Names of single values."""


PLUGIN_FIELDS = (
    PluginField("rds.connection", "string", "The two addresses of the connection"),
    PluginField(
        "rds.direction",
        "uint8",
        "0: from the end that opened the stream; 1: back",
        values={0: "from the opening end", 1: "to the opening end"},
    ),
    PluginField("rds.position", "uint64", "Stream offset of the header (TCP), number of its first packet (InfiniBand)"),
    PluginField("rds.frame", "framenum", "Frame that completed the message"),
    PluginField("rds.first_frame", "framenum", "Frame that holds the first byte of the header"),
    PluginField("rds.expected", "uint64", "Next sequence that the receiver expects"),
    PluginField("rds.retransmission_of", "framenum", "Frame of the first copy"),
    PluginField("rds.request_in", "framenum", "Frame of the ping that this pong answers"),
    PluginField("rds.response_in", "framenum", "Frame of the pong that answers this ping", ahead=True),
    PluginField("rds.response_time", "relative_time", "Time since the ping"),
    PluginField("rds.acked_in", "framenum", "Frame that acknowledges the message", ahead=True),
    PluginField("rds.acknowledges", "framenum", "Frame of the last message that this frame acknowledges"),
    PluginField("rds.acknowledges.count", "uint32", "Messages that this frame acknowledges"),
    PluginField("rds.ack_time", "relative_time", "Time from that message to its acknowledgement"),
    PluginField("rds.congested.set", "uint16", "A port that was not marked in the bitmap before"),
    PluginField("rds.congested.cleared", "uint16", "A port that was marked in the bitmap before, and is no more"),
    PluginField("rds.stream.event", "string", "Beginning or end of a stream: opened, FIN, RST or DREQ"),
    PluginField("rds.stream.a", "string", "End that opened the stream: address/port"),
    PluginField("rds.stream.b", "string", "The other end"),
    PluginField("rds.stream.from_start", "bool", "The capture holds the stream's beginning"),
    PluginField("rds.cm.transaction", "bytes", "Transaction of an RDMA-CM message"),
    PluginField("rds.cm.problem", "string", "What is wrong with an RDMA-CM message"),
    PluginField("rds.cm.bytes", "bytes", "Whole RDMA-CM message behind the header of its datagram"),
    PluginField("rds.rdma.operand", "bytes", "Operand of an atomic; its last is the value that was found"),
    PluginField("rds.rdma.psn", "uint64", "Number of the first packet"),
    PluginField("rds.rdma.id", "uint32", "Number of an RDMA operation in the capture"),
    PluginField("rds.rdma.announced", "uint32", "Number of an RDMA operation that this message announces"),
    PluginField("rds.rdma.seen", "uint32", "Payload bytes of an RDMA operation that the capture holds"),
)
