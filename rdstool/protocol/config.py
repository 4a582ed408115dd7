"""Everything about a node that can be set: the kernel's sysctls, what users of a socket set, and limits.

Defaults are the kernel's (protocol.md §11.1) where the kernel has such a setting.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dissectors.wire.rds import MAX_MESSAGE_BYTES, MAX_PATHS

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """What a peer can make a node hold or do, each with its unit. The kernel has none of these but the backlog."""

    message_bytes: int = MAX_MESSAGE_BYTES
    """Longest payload that a received header may announce; no kernel sends more."""
    overrun_bytes: int = 64 * MIB
    """Payload bytes that a socket holds beyond its receive buffer before TCP connections that bring more are no longer
    read, until its own buffer holds all again. What was on its way when the port was marked congested has room here."""
    unread_messages: int = 262_144
    """Messages that a socket holds, however short, before TCP connections that bring more are no longer read, until it
    holds half as many. Its receive buffer counts payload only, as the kernel's does: empty messages never fill it."""
    unacknowledged_messages: int = 262_144
    """Messages of a socket that are queued or not acknowledged, however short, before sends wait as for a full send
    buffer, which counts payload only too. (The kernel queues empty messages to a peer that is away without end.)"""
    pongs: int = 16_384
    """Answers to pings that may wait on one path; a peer that pings on and never reads is cut off."""
    unjudged_bytes: int = 4 * MIB
    """Received bytes of one peer that wait for the handshake to tell their path; then path 0 is taken for granted."""
    unfinished_bytes: int = 256 * MIB
    """Payload of messages over InfiniBand whose last fragment is yet to come, of all connections. Beyond it, the
    connection is ended that waits longest for its next fragment."""
    connections: int = 4_096
    """Address pairs of a node. For a further one a peer is forgotten that has connected, has not sent a message for
    ``silent_patience_s``, nor was sent one; else the peer that has been away longest, of those that are not connected
    and are owed nothing. Where there is none, the further one is refused."""
    remembered: int = 65_536
    """Forgotten peers whose sequence numbers are kept, so that nothing is lost or comes twice when they come back.
    Beyond this a message may come twice that a peer sends again because it never heard of our acknowledgement."""
    parked: int = 8 * MAX_PATHS
    """TCP connections of one peer that may wait for a free path. Where one is refused, messages that the system had
    acknowledged already are lost, so this is more than a peer needs whose connections flap. (The kernel takes one and
    leaves the others in its backlog of 64, §4.1 and 4.3.)"""
    trace_records: int = 10_000
    """State changes that are remembered; older ones are forgotten."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a node behaves. ``SYSCTLS`` gives the names by which the kernel knows the first eleven."""

    reconnect_min_delay_ms: int = 1
    """First ceiling of the random delay before a connection is tried again."""
    reconnect_max_delay_ms: int = 1000
    """Highest ceiling of that delay; it doubles from one attempt to the next."""
    max_unacked_packets: int = 8
    """Messages that may pass without ACK_REQUIRED before one carries it (§7.5)."""
    max_unacked_bytes: int = 16 * MIB
    """Payload bytes that may pass without ACK_REQUIRED."""
    ping_enable: bool = True
    """Answer messages to port 0; without it the multipath handshake does not answer either."""
    tcp_sndbuf: int = 0
    """Send buffer of the TCP sockets in bytes; 0 leaves it to the system."""
    tcp_rcvbuf: int = 0
    """Receive buffer of the TCP sockets in bytes; 0 leaves it to the system."""
    ib_max_send_wr: int = 256
    """Send ring of an InfiniBand connection, in work requests."""
    ib_max_recv_wr: int = 1024
    """Receive ring of an InfiniBand connection, in work requests."""
    ib_max_unsignaled_wr: int = 16
    """Work requests in a row that ask for no completion."""
    ib_flow_control: bool = False
    """Credit flow control; the kernel reads it and does nothing with it (§7.6)."""

    ib_tell_ack_seq: bool = False
    """Tell a peer at each new connection what was received last. Kernels tell 0, and act on what they are told: one
    that was restarted would take its first messages for received (§7.1)."""

    paths: int = MAX_PATHS
    """Paths that this side offers in the handshake, 1 to 8."""
    sndbuf: int = 106_496
    """Send buffer of a new socket: payload bytes, half of what the kernel stores by default."""
    rcvbuf: int = 106_496
    """Receive buffer of a new socket: payload bytes."""
    close_grace_s: float = 5.0
    """How long a dropped connection may still deliver what the peer had sent (``rds_tcp_conn_path_shutdown``)."""
    handshake_patience_s: float = 40.0
    """How long messages wait for the peer's handshake message, where it may be on its way: on an accepted first
    connection for the number of paths, after the fan-out for the pong behind what path 0 carried. More than TCP's
    keep-alive takes to find a dead connection (§4.1). Only a peer that answers no pings makes them wait in full."""
    answer_patience_s: float = 10.0
    """How long path 0's new connection may bring nothing, not even the congestion map, while messages wait; then it
    is made anew. Linux 7.3 was seen to forget connections that its own SYN had crossed: they stay open, and nobody
    reads them. The kernel waits for ever."""
    silent_patience_s: float = 1.0
    """How long a new peer may be silent before a node that is full forgets it. Its system may have acknowledged
    messages that have not been read yet."""
    knock_interval_s: float = 1.0
    """How often the larger address asks the smaller one to connect, while messages wait. The kernel asks once
    for each message that is sent, and waits for ever where that one attempt is lost."""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not 1 <= self.paths <= MAX_PATHS:
            raise ValueError(f"paths is {self.paths}, a connection has 1 to {MAX_PATHS}")
        if not 0 < self.reconnect_min_delay_ms <= self.reconnect_max_delay_ms:
            raise ValueError(
                f"reconnect delays of {self.reconnect_min_delay_ms} to {self.reconnect_max_delay_ms} ms: "
                "the first must be above 0 and not above the second"
            )


SYSCTLS = {
    "net.rds.reconnect_min_delay_ms": "reconnect_min_delay_ms",
    "net.rds.reconnect_max_delay_ms": "reconnect_max_delay_ms",
    "net.rds.max_unacked_packets": "max_unacked_packets",
    "net.rds.max_unacked_bytes": "max_unacked_bytes",
    "net.rds.ping_enable": "ping_enable",
    "net.rds.tcp.rds_tcp_sndbuf": "tcp_sndbuf",
    "net.rds.tcp.rds_tcp_rcvbuf": "tcp_rcvbuf",
    "net.rds.ib.max_send_wr": "ib_max_send_wr",
    "net.rds.ib.max_recv_wr": "ib_max_recv_wr",
    "net.rds.ib.max_unsignaled_wr": "ib_max_unsignaled_wr",
    "net.rds.ib.flow_control": "ib_flow_control",
}
"""The kernel's name of each setting that is a sysctl (protocol.md §11.1)."""
