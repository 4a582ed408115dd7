"""What kind of message a header announces (protocol.md §1.3)."""

from __future__ import annotations

from enum import IntEnum

from dissectors.wire.rds import PING_PORT, PROBE_PORT, Flags, RdsHeader

HEARTBEAT_FLAGS = Flags.HB_PING | Flags.HB_PONG


class Transport(IntEnum):
    """What carries RDS, with the kernel's numbers for ``SO_RDS_TRANSPORT`` (protocol.md §9.1)."""

    IB = 0
    TCP = 2

    @property
    def label(self) -> str:
        """``ib`` or ``tcp``."""
        return self.name.lower()


class MessageKind(IntEnum):
    """Classes of messages; the first that applies counts."""

    DATA = 0
    CONGESTION = 1
    PING = 2
    PONG = 3
    PROBE = 4
    PROBE_REPLY = 5
    ACK = 6
    HEARTBEAT = 7

    @property
    def label(self) -> str:
        """The kind as JSON and filters have it, such as ``probe-reply``."""
        return self.name.lower().replace("_", "-")


def classify(header: RdsHeader, transport: Transport) -> MessageKind:
    """The kind of one message. ``rds_recv_incoming`` and the transports' receive paths decide in this order."""
    no_ports = header.sport == 0 and header.dport == 0
    if header.flags & HEARTBEAT_FLAGS and no_ports:
        return MessageKind.HEARTBEAT
    if transport is Transport.IB and no_ports and header.length == 0:
        return MessageKind.ACK
    if header.flags == Flags.CONG_BITMAP:
        return MessageKind.CONGESTION
    if header.dport == PING_PORT and header.sport != 0:
        return MessageKind.PROBE if header.sport == PROBE_PORT and transport is Transport.TCP else MessageKind.PING
    if header.sport == 0 and header.dport != 0:
        return (
            MessageKind.PROBE_REPLY if header.dport == PROBE_PORT and transport is Transport.TCP else MessageKind.PONG
        )
    return MessageKind.DATA
