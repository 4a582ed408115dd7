"""One TCP connection: the engine's link, the system's socket, and what is between them."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import suppress

from rdstool.protocol.events import ConnectWanted
from rdstool.protocol.link import Link
from rdstool.transport.base import Tap
from rdstool.transport.lookout import Handler
from rdstool.transport.tcp.notices import ACK_NOTICE, allow_notices, take_notice
from rdstool.transport.tcp.queues import unacknowledged

WRITE_BYTES = 1 << 20
"""Taken from the engine at once: a burst (``BURST_BYTES``). What is taken stays in order behind it, so not too much."""
JOIN_BYTES = 4096
"""Buffers that are shorter on average are copied together: the system takes one faster than many."""
VECTORS = 512
"""Buffers in one call to the system; Linux takes 1,024."""

Buffer = bytes | memoryview
HostPort = tuple[str, int]


class Stream:
    """Bytes out, and how many of them the peer has. The transport decides when."""

    __slots__ = (
        "acked",
        "asked",
        "asks",
        "dialled",
        "ended",
        "ends",
        "enough",
        "finished",
        "fresh",
        "key",
        "link",
        "pending",
        "reading",
        "ready",
        "sock",
        "tap",
        "waiting",
        "writing",
        "written",
    )

    def __init__(
        self,
        key: int,
        link: Link,
        sock: socket.socket,
        tap: Tap | None = None,
        dialled: ConnectWanted | None = None,
    ) -> None:
        self.key = key
        self.link = link
        self.sock = sock
        self.tap = tap
        self.dialled = dialled
        """Whether we connect it, since the engine wanted that."""
        self.ends: tuple[HostPort, HostPort] | None = None
        """Own and peer's address and TCP port, once it is connected."""
        self.pending: list[Buffer] = []
        """Taken from the engine, not yet by the system; in order."""
        self.written = 0
        """Bytes that the system has taken."""
        self.acked = 0
        """Bytes that the peer's system has acknowledged, as far as we have asked."""
        self.asks = allow_notices(sock)
        """The system can tell of acknowledgements by itself."""
        self.asked = False
        """The system is going to tell of the acknowledgement of one write."""
        self.waiting = False
        """Listed among those whose acknowledgements are asked for."""
        self.reading = False
        """Whether it is watched for bytes to read."""
        self.writing = False
        """Whether it is watched for room to write."""
        self.ready: Handler
        """Takes what its socket is ready for."""
        self.enough = 1
        """Bytes to read of which the system tells; of fewer it does not."""
        self.fresh = True
        """Whether nothing has been read yet."""
        self.finished = False
        """Our FIN is sent."""
        self.ended = False

    def write(self, buffers: Sequence[Buffer]) -> None:
        """Have the system take what it can; the rest is ``pending``. Raises ``OSError``."""
        total = sum(map(len, buffers))
        if total < JOIN_BYTES * len(buffers):
            buffers = (b"".join(buffers),)
        for at in range(0, len(buffers), VECTORS):
            part = buffers[at : at + VECTORS]
            size = total if len(part) == len(buffers) else sum(map(len, part))
            try:
                # Where the socket is full, we hear of acknowledgements by the room that they make.
                if self.link.pressed and self.asks and not (self.asked or self.writing):
                    taken = self.sock.sendmsg(part, ACK_NOTICE)
                    self.asked = True
                    self.link.pressed = False
                else:
                    taken = self.sock.sendmsg(part)
            except BlockingIOError:
                taken = 0
            self.written += taken
            if self.tap is not None and taken:
                self.tap.sent(self.key, b"".join(part)[:taken])
            if taken < size:
                self.pending = [*_rest(part, taken), *buffers[at + VECTORS :]]
                return
        self.pending = []

    def wait_for(self, count: int) -> None:
        """Have the system tell of bytes to read once there are ``count``, of a connection's end at once as ever.

        Waking up for each part of 1 MiB costs both sides more than copying it. Where its memory is short the system
        does not wait for all (Linux ``tcp_epollin_ready``).
        """
        if count != self.enough:
            self.enough = count
            with suppress(OSError):  # not of this system, or the connection is gone: then reading tells
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)

    def notice(self) -> None:
        """Take what the system tells of an acknowledgement."""
        if take_notice(self.sock):
            self.asked = False

    def update_acked(self) -> bool:
        """Ask the system what the peer has; True where there is news. Raises ``OSError``."""
        left = unacknowledged(self.sock)
        if self.finished and left:
            left -= 1  # the FIN, which is acknowledged last
        acked = self.written - left
        if acked <= self.acked:
            return False
        self.acked = acked
        if self.tap is not None:
            self.tap.acknowledged(self.key, acked)
        return True


def _rest(buffers: Sequence[Buffer], taken: int) -> list[Buffer]:
    """What is left of ``buffers`` behind the first ``taken`` bytes."""
    for index, buffer in enumerate(buffers):
        if taken < len(buffer):
            return [memoryview(buffer)[taken:], *buffers[index + 1 :]]
        taken -= len(buffer)
    return []
