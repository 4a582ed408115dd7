"""The receiving half of a socket: what waits to be read, and what that says of congestion (kernel ``recv.c``)."""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable

from rdstool.protocol.config import Settings
from rdstool.protocol.congestion import crossing
from rdstool.protocol.control import RdmaDest
from rdstool.protocol.counters import Counters
from rdstool.protocol.errors import SocketError, Wait, WouldBlock
from rdstool.protocol.ib.memory import SocketMemory
from rdstool.protocol.received import (
    ZCOPY_BATCH,
    CongestionUpdate,
    Latency,
    Notification,
    ReceivedControl,
    ReceivedMessage,
    Timestamp,
    ZerocopyCompletion,
)

# Linux's numbers, plain integers because recvmsg tests them for every message.
MSG_OOB, MSG_PEEK, MSG_TRUNC, MSG_DONTWAIT = 0x1, 0x2, 0x20, 0x40

LATENCY_POINTS = 3
"""Points of the receive path that can be traced (``RDS_MSG_RX_DGRAM_TRACE_MAX``)."""
_NS = 1_000_000_000


class Inbox(ABC):
    """Messages and notifications for one socket."""

    __slots__ = (
        "_buffers_free",
        "_latency",
        "_notifications",
        "_readable_told",
        "address",
        "armed",
        "congested",
        "counters",
        "held_up",
        "memory",
        "port",
        "rcvbuf",
        "receive_bytes",
        "received",
        "settings",
        "timestamps",
        "updates",
    )

    def __init__(self, settings: Settings, counters: Counters) -> None:
        self.settings = settings
        self.counters = counters
        """Counters of the node."""
        self.address = ""
        """Bound address; empty while unbound."""
        self.port = 0
        self.rcvbuf = settings.rcvbuf
        """Payload bytes that may wait to be read before the port is congested."""
        self.received: deque[tuple[bytes, str, int, float, float, int | None]] = deque()
        """Messages to read: payload, sender's address and port, when its header and when all of it was there; the
        cookie of the memory that it offers."""
        self.receive_bytes = 0
        self.held_up: list[Callable[[float], None]] = []
        """What reads on, called with the time, once this socket has room: TCP connections wait for that."""
        self.congested = False
        """This port is marked in our congestion map."""
        self.armed = 0
        """Bits of destinations to which a non-blocking send failed."""
        self.updates = 0
        """Bits that changed and are to be reported."""
        self.memory: SocketMemory | None = None
        """What it offers for RDMA; None where it never did."""
        self.timestamps = False
        """SO_TIMESTAMP: tell with each message when it came."""
        self._latency: tuple[int, ...] = ()
        self._notifications: deque[Notification] = deque()
        self._buffers_free: deque[int] = deque()
        """Cookies of zerocopy that are to be reported."""
        self._readable_told = False

    @abstractmethod
    def emit_readable(self) -> None:
        """Tell the application that there is something to read."""

    @abstractmethod
    def mark_port(self, *, congested: bool) -> None:
        """Tell all peers whether this port takes messages."""

    def deliver(
        self,
        payload: bytes,
        address: str,
        port: int,
        began: float,
        now: float,
        cookie: int | None = None,
        *,
        at_any_rate: bool = False,
    ) -> bool:
        """Queue a message that has come, with the memory that it offers.

        False where the sender went on too far beyond the receive buffer, unless it is to be taken ``at_any_rate``.
        """
        counters = self.counters
        length = len(payload)
        queued = self.receive_bytes + length
        limits = self.settings.limits
        full = queued > self.rcvbuf + limits.overrun_bytes and self.receive_bytes
        if (full or len(self.received) >= limits.unread_messages) and not at_any_rate:
            return False
        self.received.append((payload, address, port, began, now, cookie))
        counters.recv_queued += 1
        if length:
            counters.recv_bytes_added_to_sock += length
            self.receive_bytes = queued
            if queued > self.rcvbuf and not self.congested:
                self._mark()
        if not self._readable_told:
            self.tell_readable()
        return True

    def recvmsg(
        self, size: int | None = None, *, now: float, flags: int = 0, with_control: bool = True
    ) -> ReceivedMessage:
        """The next notification or message, cut to ``size`` bytes (None: whole).

        Completions of zerocopy come with a message, or alone where there is none and MSG_DONTWAIT is given, as the
        kernel has it; without room for control messages they wait. Raises ``WouldBlock`` (EAGAIN) where there is none,
        ``SocketError`` (EINVAL) where ``size`` is negative.
        """
        if size is not None and size < 0:
            raise SocketError(errno.EINVAL, f"nobody can receive {size} bytes")
        if flags & MSG_OOB:
            return ReceivedMessage(b"", "", 0, 0)
        if self._notifications or self.updates:
            return self._control(peek=bool(flags & MSG_PEEK))
        if not self.received:
            self._readable_told = False
            if self._buffers_free and with_control and flags & MSG_DONTWAIT:
                return ReceivedMessage(b"", "", 0, 0, 0, (self._completion(),))
            raise WouldBlock(errno.EAGAIN, "there is no message", Wait.MESSAGE)
        payload, address, port, began, queued, cookie = self.received[0]
        counters = self.counters
        length = len(payload)
        if not flags & MSG_PEEK:
            self.received.popleft()
            counters.recv_delivered += 1
            if length:
                counters.recv_bytes_freed_fromsock += length
                self.receive_bytes -= length
                if self.congested:
                    self._mark()
            if self.held_up and self._has_room():
                self.let_go(now)
            if not self.received:
                self._readable_told = False
        data = payload if size is None or length <= size else payload[:size]
        control: tuple[ReceivedControl, ...] = ()
        if cookie is not None or self.timestamps or self._latency:
            control = self._beside(cookie, began, queued, now)
        if self._buffers_free and with_control:
            control += (self._completion(),)
        answered = length if flags & MSG_TRUNC else len(data)
        told = MSG_TRUNC if len(data) < length else 0
        # As ReceivedMessage(...), in a third of the time.
        return tuple.__new__(ReceivedMessage, (data, address, port, answered, told, control))

    def _has_room(self) -> bool:
        return self.receive_bytes <= self.rcvbuf and len(self.received) <= self.settings.limits.unread_messages // 2

    def let_go(self, now: float) -> None:
        """Have those TCP connections read on that waited for this socket."""
        waiting, self.held_up = self.held_up, []
        for go_on in waiting:
            go_on(now)

    def _control(self, *, peek: bool) -> ReceivedMessage:
        if self._notifications:
            control: tuple[ReceivedControl, ...] = tuple(self._notifications)
            if not peek:
                self._notifications.clear()
        else:
            control = (CongestionUpdate(self.updates),)
            if not peek:
                self.updates = 0
        if not self.readable:
            self._readable_told = False
        return ReceivedMessage(b"", "", 0, 0, 0, control)

    def buffer_free(self, cookie: int) -> None:
        """A message that was sent with zerocopy is acknowledged, or given up."""
        self._buffers_free.append(cookie)
        self.tell_readable()

    def _completion(self) -> ZerocopyCompletion:
        waiting = self._buffers_free
        return ZerocopyCompletion(tuple(waiting.popleft() for _ in range(min(len(waiting), ZCOPY_BATCH))))

    def _beside(self, cookie: int | None, began: float, queued: float, now: float) -> tuple[ReceivedControl, ...]:
        """What is told with a message, in the kernel's order (``recv.c``, ``rds_cmsg_recv``)."""
        control: list[ReceivedControl] = []
        if cookie is not None:
            control.append(RdmaDest(cookie))
        if self.timestamps:
            control.append(Timestamp(queued))
        if self._latency:
            control.append(self._trace(began, queued, now))
        return tuple(control)

    def _trace(self, began: float, queued: float, now: float) -> Latency:
        took = (0, round((queued - began) * _NS), round((now - queued) * _NS))
        return Latency(self._latency, tuple(took[point] for point in self._latency))

    def _mark(self) -> None:
        """Tell all peers where the receive queue has passed one of its marks."""
        change = crossing(self.receive_bytes, self.rcvbuf, congested=self.congested)
        if change is not None:
            self.congested = change
            self.mark_port(congested=change)

    def tell_readable(self) -> None:
        """Tell of the first thing to read, once until all is read."""
        if not self._readable_told:
            self._readable_told = True
            self.emit_readable()

    @property
    def readable(self) -> bool:
        """There is something to read."""
        return bool(self.received or self._notifications or self.updates or self._buffers_free)

    def map_updated(self, mask: int) -> None:
        """A peer's congestion map has come; ``mask`` has the bits that may have changed."""
        overlap = self.armed & mask
        if overlap:
            self.armed &= ~overlap
            self.updates |= overlap
            self.tell_readable()

    def trace_latency(self, *points: int) -> None:
        """SO_RDS_MSG_RXPATH_LATENCY: report these points with each message. Raises ``SocketError``: EFAULT."""
        if len(points) > LATENCY_POINTS or any(not 0 <= point < LATENCY_POINTS for point in points):
            raise SocketError(errno.EFAULT, f"there are {LATENCY_POINTS} points of the receive path, from 0")
        self._latency = points
