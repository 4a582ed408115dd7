"""One connection of the transport below, as the engine sees it."""

from __future__ import annotations

from typing import Any, Protocol

from rdstool.protocol.framing import Deframer, Frame
from rdstool.protocol.timers import Timer


class LinkOwner(Protocol):
    """What a link needs of its connection."""

    local: str
    peer: str
    tos: int

    def lost(self, link: BaseLink, detail: str, now: float) -> None:
        """The transport has no more of it."""


class BaseLink:
    """What every transport's link has. Made by the engine, for one attempt or accept."""

    __slots__ = ("deaf", "grace", "handle", "incoming", "number", "owner", "ready")

    def __init__(self, owner: LinkOwner, number: int, *, incoming: bool) -> None:
        self.owner = owner
        """The connection."""
        self.number = number
        """Order of attempts and accepts on this connection: a higher number is a later one."""
        self.incoming = incoming
        """The peer opened it."""
        self.ready = False
        """Listed among those that have something to send."""
        self.deaf = False
        """What it still brings is ignored: it is not to be understood any more."""
        self.grace: Timer | None = None
        """Ends the wait for the peer to close its side too."""
        self.handle: Any = None
        """For the transport's own use."""


class TcpOwner(LinkOwner, Protocol):
    """What a TCP connection needs of its owner: who answers for all that happens to it."""

    def established(self, link: Link, now: float) -> None:
        """It is there, where we have asked for it."""

    def receive(self, link: Link, data: bytes | int, now: float) -> None:
        """Bytes came on it, or as many were put into the deframer's ``room``."""

    def acknowledged(self, link: Link, total: int) -> None:
        """The peer's system has acknowledged so many bytes of what was sent on it."""

    def data_to_send(self, link: Link, limit: int) -> list[bytes]:
        """Buffers to write to it."""

    def first_link(self) -> Link | None:
        """The TCP connection that serves path 0 of the same peer."""


class Link(BaseLink):
    """What the engine and the transport call a TCP connection by."""

    owner: TcpOwner

    __slots__ = (
        "acked",
        "carries_map",
        "deframer",
        "heard",
        "held",
        "local_port",
        "map_seen",
        "path",
        "peer_port",
        "pressed",
        "reading",
        "sent",
    )

    def __init__(self, owner: TcpOwner, number: int, message_bytes: int, peer_port: int | None = None) -> None:
        super().__init__(owner, number, incoming=peer_port is not None)
        self.peer_port = peer_port
        """TCP source port of an incoming connection."""
        self.local_port = 0
        """TCP source port of an outgoing connection, once the transport has told it."""
        self.path: int | None = None
        """Number of the path that it serves; None while it waits for one, and when it is gone."""
        self.reading = True
        """Off while the link waits for a path or a reader: the transport leaves its bytes in the system's buffer."""
        self.sent = 0
        """Bytes handed to the transport."""
        self.acked = 0
        """Bytes that the peer's TCP has acknowledged."""
        self.pressed = False
        """The sender of what was handed on last needs room soon: its acknowledgement had better be noticed at once."""
        self.heard = False
        """The peer has sent something: it has taken this connection up, and not only its system."""
        self.held: list[Frame] = []
        """Received, and not taken: the socket of the first one has too much to read. Meanwhile ``reading`` is off."""
        self.carries_map = False
        """A congestion map was sent on it, so that later ones must follow here too."""
        self.map_seen = False
        """A congestion map came on it."""
        self.deframer = Deframer(message_bytes)

    @property
    def doubtful(self) -> bool:
        """The peer's system acknowledges, but perhaps for nobody: path 0 was dialled, and the peer has not spoken.

        A kernel before 7.0 that dials at the same time closes our connection unread (§4.2, §13, RDS-DLV-009). One
        that takes it up sends its congestion map, or answers the probe.
        """
        return not self.heard and not self.incoming and self.path == 0

    def __repr__(self) -> str:
        where = f"path {self.path}" if self.path is not None else "no path"
        return f"<Link {self.number} {self.owner.local}-{self.owner.peer} {where}>"
