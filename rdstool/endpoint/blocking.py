"""A plain RDS socket that feels like the standard library's.

    with rdstool.Socket() as sock:
        sock.bind(("10.0.0.1", 4000))
        sock.sendto(b"hello", ("10.0.0.2", 4000))
        data, sender = sock.recvfrom(65536)

It needs no kernel module and no privileges: a thread of this process speaks RDS over TCP port 16385 of the address.
Sockets may be used by several threads.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence

from rdstool.endpoint import rdma
from rdstool.endpoint.base import Address, SocketBase, given, not_bound, was_closed
from rdstool.endpoint.constants import MSG_DONTWAIT
from rdstool.endpoint.stack import Residence, Stack, default_stack
from rdstool.errors import AddressError
from rdstool.protocol.control import ALL_BITS, SendControl
from rdstool.protocol.errors import SocketError, Wait, WouldBlock
from rdstool.protocol.ib.memory import Memory
from rdstool.protocol.reasons import SendStatus
from rdstool.protocol.received import Poll, ReceivedMessage

ACK_POLL_S = 0.001
"""A sender that waits for room asks the system this often what the peer has acknowledged."""


class Socket(SocketBase):
    """One RDS socket; calls wait as long as its timeouts say."""

    def __init__(self, stack: Stack | None = None) -> None:
        self._stack = stack or default_stack()
        nowhere = self._stack.nowhere
        super().__init__(nowhere, nowhere.engine.socket())
        self._home: Residence | None = None
        self._blocking = True
        self._event = -1
        self._signalled = False

    # ---- Names

    def bind(self, address: Address) -> None:
        """Take an address of this machine and a port, 0 for any.

        Raises ``SocketError``: EINVAL, EADDRINUSE; ``AddressError`` where the address cannot be had: EADDRNOTAVAIL, or
        ENOPROTOOPT where a transport was chosen before; EADDRINUSE where another program speaks RDS at it.
        """
        if self._home is not None or self.closed:
            raise SocketError(errno.EINVAL, "the socket is bound or closed already")
        host, port = given(address)
        try:
            home = self._stack.enter(host, self._inner.transport)
        except AddressError as problem:
            if problem.errno == errno.EADDRNOTAVAIL and self._inner.transport is not None:
                problem.errno = errno.ENOPROTOOPT
            raise
        try:
            with home.changed:
                home.core.engine.adopt(self._inner)
                self._inner.bind(host, port)
        except BaseException:
            with home.changed:
                self._stack.nowhere.engine.adopt(self._inner)
            self._stack.leave(home)
            raise
        self._home, self._driver = home, home.core.driver
        if self._event >= 0:
            self._watch(home)

    # ---- Timeouts

    def settimeout(self, seconds: float | None) -> None:
        """How long calls wait: None for ever, 0 not at all. Raises ``ValueError`` below 0."""
        if seconds is not None and seconds < 0:
            raise ValueError("Timeout value out of range")
        self._blocking = seconds is None or seconds > 0
        self.send_timeout_s = self.receive_timeout_s = seconds or None

    def gettimeout(self) -> float | None:
        """The timeout that ``settimeout`` set: seconds, or None to wait for ever."""
        return self.receive_timeout_s if self._blocking else 0.0

    def getblocking(self) -> bool:
        """Whether calls wait, for ever or for a time."""
        return self._blocking

    def setblocking(self, blocking: bool) -> None:
        """Wait for ever, or not at all."""
        self.settimeout(None if blocking else 0.0)

    # ---- Sending

    def sendmsg(
        self,
        data: bytes | bytearray | memoryview,
        address: Address | None = None,
        *,
        flags: int = 0,
        token: int | None = None,
        control: Sequence[SendControl] = (),
    ) -> int:
        """Queue one message; returns its length. Port 0 pings. With ``token``, its end is reported by ``recvmsg``.

        Raises ``SocketError`` as sendmsg(2); without waiting ``WouldBlock`` (EAGAIN where the send buffer is full,
        ENOBUFS where the destination is congested); ``TimeoutError`` after the timeout.
        """
        host, port = (None, 0) if address is None else given(address)
        driver, inner = self._driver, self._inner
        if not self._blocking:
            flags |= MSG_DONTWAIT
        deadline: float | None = None
        with driver.lock:
            while True:
                try:
                    now = driver.now()
                    length = inner.sendmsg(data, host, port, now=now, flags=flags, token=token, control=control)
                except WouldBlock as reason:
                    deadline = self._blocked(reason, flags, self.send_timeout_s, deadline)
                else:
                    driver.kick(length)
                    return length

    def sendto(self, data: bytes | bytearray | memoryview, address: Address) -> int:
        """Send one message to an address and port."""
        return self.sendmsg(data, address)

    def send(self, data: bytes | bytearray | memoryview) -> int:
        """Send one message to the default destination."""
        return self.sendmsg(data)

    def drain(self, timeout_s: float | None = None) -> None:
        """Wait until everything that was sent is acknowledged or given up. Raises ``TimeoutError``."""
        home = self._home
        if home is None:
            return
        deadline = None if timeout_s is None else self._driver.now() + timeout_s
        with home.changed:
            while not self._inner.closed and not self._inner.drained():
                self._wait(home, deadline, asking=True)

    # ---- RDMA, over InfiniBand

    def _operate(self, operation: rdma.Operation, address: Address | None, timeout_s: float | None) -> None:
        """Begin an operation, and wait for its end. Where the time is over it goes on.

        Raises ``TimeoutError``, ``RdmaError`` where it fails, and what ``sendmsg`` raises.
        """
        ends: list[SendStatus] = []

        def ended(status: SendStatus) -> None:
            ends.append(status)
            self.wake_waiters()

        self.sendmsg(b"", address, control=rdma.told(operation, ended))
        self.wait_until(lambda: bool(ends), timeout_s)
        rdma.check(ends[0])

    def rdma_write(
        self,
        cookie: int,
        data: Memory | bytes,
        address: Address | None = None,
        *,
        offset: int = 0,
        timeout_s: float | None = None,
    ) -> None:
        """Put ``data`` into memory that the peer at ``address`` offered by ``cookie``, and wait until it is there.

        Raises ``RdmaError`` where the peer's memory refuses or the connection is lost, and what ``sendmsg`` raises.
        """
        self._operate(rdma.write(cookie, [data], offset), address, timeout_s)

    def rdma_read(
        self,
        cookie: int,
        into: Memory,
        address: Address | None = None,
        *,
        offset: int = 0,
        timeout_s: float | None = None,
    ) -> None:
        """Fill ``into`` from memory that the peer at ``address`` offered by ``cookie``. Raises as ``rdma_write``."""
        self._operate(rdma.read(cookie, [into], offset), address, timeout_s)

    def fetch_add(
        self,
        cookie: int,
        add: int,
        address: Address | None = None,
        *,
        offset: int = 0,
        nocarry_mask: int = 0,
        timeout_s: float | None = None,
    ) -> int:
        """Add to the peer's 64-bit number at ``offset``, modulo 2^64; returns the number before.

        The number can be several fields that are added apart: bits of ``nocarry_mask`` are the highest of each, from
        which nothing is carried. Raises as ``rdma_write``.
        """
        operation = rdma.fetch_add(cookie, add, offset, nocarry_mask)
        self._operate(operation, address, timeout_s)
        return rdma.original(operation)

    def compare_swap(
        self,
        cookie: int,
        compare: int,
        swap: int,
        address: Address | None = None,
        *,
        offset: int = 0,
        compare_mask: int = ALL_BITS,
        swap_mask: int = ALL_BITS,
        timeout_s: float | None = None,
    ) -> int:
        """Replace the peer's 64-bit number at ``offset`` by ``swap`` if it is ``compare``; returns the number before.

        Only the bits of ``compare_mask`` are compared, and only those of ``swap_mask`` replaced. Raises as
        ``rdma_write``.
        """
        operation = rdma.compare_swap(cookie, compare, swap, offset, compare_mask, swap_mask)
        self._operate(operation, address, timeout_s)
        return rdma.original(operation)

    # ---- Receiving

    def recvmsg(self, size: int | None = None, *, flags: int = 0) -> ReceivedMessage:
        """The next message or notification. With MSG_PEEK it stays, with MSG_TRUNC ``length`` is that of all of it.

        Raises without waiting ``WouldBlock`` (EAGAIN); ``TimeoutError`` after the timeout.
        """
        return self._receive(size, flags, with_control=True)

    def _receive(self, size: int | None, flags: int, *, with_control: bool) -> ReceivedMessage:
        """The next message, or ``with_control`` the next notification, too."""
        driver, inner = self._driver, self._inner
        if not self._blocking:
            flags |= MSG_DONTWAIT
        deadline: float | None = None
        with driver.lock:
            while True:
                try:
                    message = inner.recvmsg(size, now=driver.now(), flags=flags, with_control=with_control)
                except WouldBlock as reason:
                    deadline = self._blocked(reason, flags, self.receive_timeout_s, deadline)
                else:
                    driver.kick()
                    if self._signalled:
                        self._signal()
                    if with_control:
                        return self._dated(message) if inner.timestamps else message
                    if message[1]:  # the sender's address: it is not a notification
                        return message

    def recvfrom(self, size: int | None = None) -> tuple[bytes, Address]:
        """The next message with its sender; notifications are passed over."""
        message = self._receive(size, 0, with_control=False)
        return message.data, (message.address, message.port)

    def recv(self, size: int | None = None) -> bytes:
        """The next message."""
        return self._receive(size, 0, with_control=False)[0]

    def recvfrom_into(self, buffer: bytearray | memoryview, size: int = 0) -> tuple[int, Address]:
        """Put the next message into ``buffer``, ``size`` bytes at most or (0) what it has room for; the rest is lost.

        Returns the number of bytes, and the sender. Raises ``ValueError`` where the buffer is shorter than ``size``.
        """
        with memoryview(buffer) as view, view.cast("B") as room:
            if size > len(room):
                raise ValueError(f"{size} bytes are more than the buffer has")
            data, sender = self.recvfrom(size or len(room))
            room[: len(data)] = data
            return len(data), sender

    def recv_into(self, buffer: bytearray | memoryview, size: int = 0) -> int:
        """As ``recvfrom_into``, without the sender."""
        return self.recvfrom_into(buffer, size)[0]

    # ---- Waiting

    def wake_waiters(self) -> None:
        """Something that ``wait_until`` waits for has happened; called under the lock."""
        if self._home is not None:
            self._home.wake()

    def wait_until(self, happened: Callable[[], bool], timeout_s: float | None = None) -> None:
        """Wait for something of this socket's. ``happened`` is asked under the lock. Raises ``TimeoutError``."""
        home = self._home
        if home is None:
            raise not_bound()
        deadline = None if timeout_s is None else self._driver.now() + timeout_s
        with home.changed:
            while not happened():
                self._wait(home, deadline, asking=False)

    def _blocked(self, reason: WouldBlock, flags: int, timeout_s: float | None, deadline: float | None) -> float | None:
        """Wait for what a call would block for, or raise; returns the call's deadline. The lock is held."""
        driver = self._driver
        driver.kick()
        if self._inner.closed:
            raise was_closed() from None
        if flags & MSG_DONTWAIT:
            raise reason
        if self._home is None:
            raise not_bound() from None
        if deadline is None and timeout_s is not None:
            deadline = driver.now() + timeout_s
        self._wait(self._home, deadline, asking=reason.waiting_for is Wait.SEND_ROOM)
        return deadline

    def _wait(self, home: Residence, deadline: float | None, *, asking: bool) -> None:
        """Wait until something changes; with ``asking``, ask the system for acknowledgements. The lock is held."""
        now = self._driver.now()
        if deadline is not None and now >= deadline:
            raise TimeoutError("timed out")
        if self._inner.closed:
            raise was_closed()
        wait_s = None if deadline is None else deadline - now
        if asking:
            before = self._inner.outstanding
            self._driver.transport.check_acks(polling=True)
            if not self._driver.act_here():
                self._driver.kick()
            if self._inner.outstanding < before:
                return
            wait_s = ACK_POLL_S if wait_s is None else min(wait_s, ACK_POLL_S)
        home.wait(wait_s)

    def fileno(self) -> int:
        """A descriptor for ``select`` and its like, readable while ``poll`` has IN. Not to be read from. Linux only.

        -1 once the socket is closed.
        """
        if self._event < 0 and not self.closed:
            self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            if self._home is not None:
                self._watch(self._home)
        return self._event

    def _watch(self, home: Residence) -> None:
        with home.changed:
            home.watchers[self._inner] = self._signal
            self._signal()

    def _signal(self) -> None:
        """Make the descriptor say what ``poll`` says."""
        readable = bool(self._inner.poll() & Poll.IN)
        if readable and not self._signalled:
            os.eventfd_write(self._event, 1)
        elif self._signalled and not readable:
            os.eventfd_read(self._event)
        self._signalled = readable

    def close(self) -> None:
        """Free the port, and the address with its last socket. What is not acknowledged is lost: ``drain`` first."""
        if self.closed:
            return
        super().close()
        home, self._home = self._home, None
        if home is not None:
            with home.changed:
                home.watchers.pop(self._inner, None)
                home.wake()
        if self._event >= 0:
            os.close(self._event)
            self._event = -1
        if home is not None:
            self._stack.leave(home)
