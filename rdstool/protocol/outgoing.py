"""A message on its way out, and the half of a socket that sends it."""

from __future__ import annotations

from abc import abstractmethod

from dissectors.wire.rds import PING_PORT, PROBE_PORT
from rdstool.protocol.config import Settings
from rdstool.protocol.counters import Counters
from rdstool.protocol.framing import NO_EXTENSIONS
from rdstool.protocol.inbox import Inbox
from rdstool.protocol.reasons import SendStatus
from rdstool.protocol.received import Notification


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
        "unnoticed",
        "zerocopy",
    )

    def __init__(
        self,
        socket: Outbox | None,
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
        self.unnoticed = token is None and zerocopy is None and socket is not None
        """Nobody asked to be told of its end: it leaves its socket's send buffer, and that is all."""
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


class Outbox(Inbox):
    """The sending half of a socket: whom messages come from, how much is on its way, and how each of them ended.

    It is an inbox too, for the sender is told of the end there.
    """

    __slots__ = ("_told_drained", "hash", "outstanding", "recverr", "send_bytes", "sndbuf")

    def __init__(self, settings: Settings, counters: Counters) -> None:
        super().__init__(settings, counters)
        self.hash = 0
        """Hash of the port, which chooses the path (§5.4)."""
        self.sndbuf = settings.sndbuf
        """Payload bytes that may be queued or unacknowledged before sends wait."""
        self.send_bytes = 0
        self.outstanding = 0
        """Messages queued or unacknowledged."""
        self.recverr = False
        """RDS_RECVERR: messages that are given up are reported even where nobody asked."""
        self._told_drained = True

    @abstractmethod
    def emit_finished(self, token: int, status: SendStatus) -> None:
        """Tell the application how something that was sent ended."""

    @abstractmethod
    def emit_writable(self, *, drained: bool) -> None:
        """Tell the application that there is room in the send buffer, or (``drained``) nothing left in it."""

    @property
    def full(self) -> bool:
        """A send has to wait until messages are acknowledged."""
        return self.send_bytes >= self.sndbuf or self.outstanding >= self.settings.limits.unacknowledged_messages

    def message_left(self, message: Outgoing, status: SendStatus) -> None:
        """One of our messages is acknowledged or given up: its room is free."""
        if message.zerocopy is not None:
            self.buffer_free(message.zerocopy)
        token = message.token
        if token is not None or (self.recverr and status):
            self.notify(token or 0, status)
        self.free_room(len(message.payload))

    def notify(self, token: int, status: SendStatus) -> None:
        """Report how something that was sent ended (RDS_CMSG_RDMA_STATUS)."""
        self._notifications.append(Notification(token, status))
        self.emit_finished(token, status)
        self.tell_readable()

    def free_room(self, length: int, messages: int = 1) -> None:
        """Messages of ``length`` bytes together take no more room in the send buffer."""
        before, most = self.send_bytes, self.settings.limits.unacknowledged_messages
        self.send_bytes = after = before - length
        self.outstanding = left = self.outstanding - messages
        drained = not left and not self._told_drained
        if drained or before >= self.sndbuf > after or left < most <= left + messages:
            self._told_drained = self._told_drained or drained
            self.emit_writable(drained=not left)
