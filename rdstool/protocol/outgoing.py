"""A message on its way out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dissectors.wire.rds import PING_PORT, PROBE_PORT
from rdstool.protocol.framing import NO_EXTENSIONS

if TYPE_CHECKING:
    from rdstool.protocol.sockets import Socket


class Outgoing:
    """One message from the moment it is queued until the peer has acknowledged it.

    It gets its sequence number when it is first handed to the transport. The kernel gives it one when it is queued,
    which nobody else can see; giving it later lets unsent messages change path, and leaves no holes where they are
    cancelled.
    """

    __slots__ = (
        "ack_required",
        "dport",
        "early",
        "end",
        "exthdr",
        "payload",
        "sequence",
        "socket",
        "sport",
        "token",
        "zerocopy",
    )

    def __init__(
        self,
        socket: Socket | None,
        sport: int,
        dport: int,
        payload: bytes = b"",
        token: int | None = None,
        exthdr: bytes = NO_EXTENSIONS,
        zerocopy: int | None = None,
    ) -> None:
        self.socket = socket
        """Whose send buffer it counts in; None for pongs and handshake messages."""
        self.sport = sport
        self.dport = dport
        self.payload = payload
        self.token = token
        """The caller's number for it, by which its end is reported; None where nobody asked."""
        self.exthdr = exthdr
        self.zerocopy = zerocopy
        """The caller's number for its buffer, by which it learns that it may change it (``zerocopy.py``)."""
        self.ack_required = False
        """Over InfiniBand: the sender's buffer fills, so the peer is to acknowledge at once (§7.5)."""
        self.sequence = 0
        """Number on its path; 0 until it is handed to TCP."""
        self.end = 0
        """Position of its end in the TCP connection's bytes."""
        self.early = False
        """Queued on path 0 before the paths fanned out: other paths wait for it (``gate``)."""

    @property
    def is_probe(self) -> bool:
        """The handshake's ping."""
        return self.sport == PROBE_PORT and self.socket is None

    @property
    def is_handshake(self) -> bool:
        """A probe or its pong."""
        return self.sport + self.dport == PROBE_PORT + PING_PORT and self.socket is None
