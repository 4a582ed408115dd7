"""What the engine reports. Each event is frozen; fields are only ever added.

Those whose name ends in ``Wanted`` ask the transport to do something; the others tell what happened. A ``socket`` is
called by the half of it that everything below can know, its inbox.
"""

from __future__ import annotations

from dataclasses import dataclass

from rdstool.protocol.ib.link import IbLink
from rdstool.protocol.inbox import Inbox
from rdstool.protocol.link import BaseLink, Link
from rdstool.protocol.reasons import DropReason, RefuseReason, SendStatus


@dataclass(frozen=True, slots=True)
class ConnectWanted:
    """Open a TCP connection, then call ``connected`` or ``connect_failed`` with its link."""

    link: Link
    local: str
    """Address to connect from."""
    peer: str
    """Address to connect to."""
    path: int
    """Where the node announces SPORT_IDX, the TCP source port modulo 8 and modulo ``npaths`` (``source_port``)."""
    npaths: int
    """Paths agreed, or before that those which the node offers."""
    attempt: int
    """Number of this attempt on its path, from 1."""


@dataclass(frozen=True, slots=True)
class IbConnectWanted:
    """Ask for a reliable connection (:mod:`rdstool.protocol.ib.port` tells how to go on)."""

    link: IbLink
    local: str
    """Address to connect from."""
    peer: str
    """Address to connect to."""
    tos: int
    """Type of service of the connection; its low four bits are the service level."""
    attempt: int
    """Number of this attempt, from 1."""
    private_data: bytes


@dataclass(frozen=True, slots=True)
class ReadWanted:
    """Begin to read a link that was accepted with ``reading`` off, or go on after ``PauseWanted``."""

    link: Link


@dataclass(frozen=True, slots=True)
class PauseWanted:
    """Read no more of a link until ``ReadWanted``: a socket has more to read than it may hold. ``reading`` is off."""

    link: Link


@dataclass(frozen=True, slots=True)
class CloseWanted:
    """Send FIN, hand on what the peer still sends, and call ``connection_lost`` at the peer's FIN."""

    link: Link


@dataclass(frozen=True, slots=True)
class AbortWanted:
    """Hand on what has been received already, close at once, and call ``connection_lost``."""

    link: BaseLink
    reason: DropReason


@dataclass(frozen=True, slots=True)
class PathUp:
    """A path is connected."""

    local: str
    peer: str
    path: int
    incoming: bool
    """The peer opened the TCP connection."""


@dataclass(frozen=True, slots=True)
class PathDown:
    """A path has lost its TCP connection."""

    local: str
    peer: str
    path: int
    reason: DropReason
    detail: str
    """What the transport or the check said, or nothing."""
    requeued: int
    """Messages that will be sent again with RETRANSMITTED."""


@dataclass(frozen=True, slots=True)
class ConnectFailed:
    """An attempt to connect failed; the next one comes by itself."""

    local: str
    peer: str
    path: int
    attempt: int
    """Number of the attempt on this path, from 1."""
    detail: str


@dataclass(frozen=True, slots=True)
class ConnectionRefused:
    """An incoming TCP connection was not taken."""

    local: str
    peer: str
    reason: RefuseReason


@dataclass(frozen=True, slots=True)
class PeerForgotten:
    """A peer made room for another one: it had connected and never sent a message, or had gone away."""

    local: str
    peer: str
    remembered: bool = False
    """It had gone away; its sequence numbers are kept, should it come back."""


@dataclass(frozen=True, slots=True)
class PathsAgreed:
    """A handshake message changed what is known of the peer."""

    local: str
    peer: str
    npaths: int
    """Paths that both sides use."""
    gen_num: int
    """The peer's generation number; 0 where it has none."""
    sport_idx: bool
    """The peer's TCP source ports tell the path."""


@dataclass(frozen=True, slots=True)
class PeerRestarted:
    """The peer's generation number changed, or it offers fewer paths than before: it has forgotten us."""

    local: str
    peer: str
    old_gen_num: int
    new_gen_num: int


@dataclass(frozen=True, slots=True)
class MessagesDropped:
    """Messages that may have reached the peer before its restart are not sent again."""

    local: str
    peer: str
    path: int
    count: int


@dataclass(frozen=True, slots=True)
class CongestionChanged:
    """The peer's congestion map was received: senders that wait may try again."""

    local: str
    peer: str


@dataclass(frozen=True, slots=True)
class PortCongested:
    """One of our own sockets passed a mark of its receive buffer."""

    address: str
    port: int
    congested: bool
    """True when above the receive buffer, False when below half of it again."""


@dataclass(frozen=True, slots=True)
class SocketReadable:
    """``poll`` of a socket now has ``POLLIN``; said once until the socket has been emptied."""

    socket: Inbox


@dataclass(frozen=True, slots=True)
class SocketWritable:
    """A socket has room in its send buffer again, or has nothing left that is not acknowledged."""

    socket: Inbox
    drained: bool
    """Nothing is queued or unacknowledged any more."""


@dataclass(frozen=True, slots=True)
class SendFinished:
    """A message that was sent with a token has been acknowledged, cancelled or dropped."""

    socket: Inbox
    token: int
    status: SendStatus


Event = (
    ConnectWanted
    | IbConnectWanted
    | ReadWanted
    | PauseWanted
    | CloseWanted
    | AbortWanted
    | PathUp
    | PathDown
    | ConnectFailed
    | ConnectionRefused
    | PeerForgotten
    | PathsAgreed
    | PeerRestarted
    | MessagesDropped
    | CongestionChanged
    | PortCongested
    | SocketReadable
    | SocketWritable
    | SendFinished
)
