"""Single packets beneath a connection of the provider roce: ours with anything in them, and the peer's NAKs."""

from __future__ import annotations

from typing import NamedTuple

from dissectors.wire.infiniband import AETH, BTH, AckKind, NakCode, Opcode
from rdstool.craft.ib_line import Line
from rdstool.transport.ib.roce.connection import RoceConnection
from rdstool.transport.ib.roce.flow import ETHERNET_BYTES, hardware_address, header_bytes
from rdstool.transport.ib.roce_udp import RoceProvider

SEQUENCE_ERROR = AckKind.NAK << 5 | NakCode.PSN_SEQUENCE
"""Syndrome of a gap."""


class Nak(NamedTuple):
    """A negative acknowledgement."""

    queue_pair: int
    """Ours."""
    syndrome: int
    psn: int


class Packets:
    """Sends and reads packets of a provider's connections."""

    def __init__(self, provider: RoceProvider) -> None:
        self._provider = provider

    @staticmethod
    def next_of(line: Line) -> tuple[int, int]:
        """The peer's queue pair, and the PSN that the next packet to it is to have."""
        connection = _roce(line)
        return connection.remote_number, connection.next_psn

    def send(self, line: Line, packet: bytes, *, good: bool) -> None:
        """Send it, with a good ICRC or a bad one. The connection does not know of it: its own next PSN stays."""
        self._provider.inject(_roce(line), packet, good=good)

    @staticmethod
    def nak(frame: bytes, peer: str) -> Nak | None:
        """The NAK that an Ethernet frame of the peer's is; None for anything else."""
        at = ETHERNET_BYTES + header_bytes(peer)
        if frame[6:12] != hardware_address(peer) or frame[at] != Opcode.ACKNOWLEDGE:
            return None
        bth, aeth = BTH.unpack_from(frame, at), AETH.unpack_from(frame, at + BTH.size)
        return Nak(bth.dqpn, aeth.syndrome, bth.psn) if aeth.syndrome >> 5 == AckKind.NAK else None

    @staticmethod
    def is_of(line: Line, nak: Nak) -> bool:
        """The NAK is for this connection."""
        return _roce(line).number == nak.queue_pair


def _roce(line: Line) -> RoceConnection:
    assert isinstance(line.connection, RoceConnection)
    return line.connection
