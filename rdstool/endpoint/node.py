"""Nodes and sockets for asyncio.

    async with rdstool.Node("10.0.0.1") as node:
        sock = node.socket(port=4000)
        await sock.sendto(b"hello", ("10.0.0.2", 4000))
        data, sender = await sock.recvfrom()

A node owns its addresses: it answers pings, takes connections and acknowledges, as a host's kernel would.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Self

from rdstool.endpoint import rdma
from rdstool.endpoint.base import Address, SocketBase, given, not_bound, was_closed
from rdstool.endpoint.constants import MSG_DONTWAIT
from rdstool.endpoint.core import Core, NodeOptions
from rdstool.endpoint.starting import started
from rdstool.endpoint.waiting import Waiters
from rdstool.errors import TransportError, UsageError
from rdstool.protocol import events
from rdstool.protocol.control import ALL_BITS, SendControl
from rdstool.protocol.errors import Wait, WouldBlock
from rdstool.protocol.ib.memory import Memory
from rdstool.protocol.inbox import Inbox
from rdstool.protocol.node import Node as Engine
from rdstool.protocol.reasons import SendStatus
from rdstool.protocol.received import ReceivedMessage
from rdstool.protocol.sockets import Socket as EngineSocket
from rdstool.transport.driver import Driver

CLOSE_GRACE_S = 2.0
"""How long closing a node waits for its peers."""

MESSAGES_IN_A_ROW = 1024
"""Messages of one socket that find room at once before others in the event loop have their turn: a program that sends
short ones in a loop would never wait otherwise, nor its connections get on."""

Listener = Callable[[events.Event], None]


class Node:
    """A host that speaks RDS, for use in one event loop."""

    def __init__(self, *addresses: str, options: NodeOptions | None = None) -> None:
        if not addresses:
            raise UsageError("a node needs an address")
        self._addresses = addresses
        self._options = options or NodeOptions()
        self._core: Core | None = None
        self._waiters: dict[Inbox, Waiters] = {}
        """Those of each open socket."""
        self._on_peers: dict[Waiters, None] = {}
        """Those of them that wait for a peer; a dictionary, for its order."""
        self._listeners: list[Listener] = []

    # ---- Life

    async def start(self) -> None:
        """Take the addresses. Raises ``TransportError`` where one cannot be had, ``SocketError`` where it is none."""
        if self._core is not None:
            raise TransportError("the node is running already")
        self._core = started(self._addresses, self._options, self._hear)

    async def close(self) -> None:
        """Close all sockets and connections. What is not acknowledged is given up: ``drain`` sockets first.

        Raises ``TransportError``, when all is done, where a recording (``pcap``) is not complete.
        """
        core = self._core
        if core is None or core.engine.closed:
            return
        for waiters in self._waiters.values():
            waiters.wake_all()
        self._waiters.clear()
        try:
            await core.finish(CLOSE_GRACE_S)
        finally:
            self._core = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    @property
    def core(self) -> Core:
        """The running engine and transport. Raises ``TransportError`` before ``start`` and after ``close``."""
        if self._core is None:
            raise TransportError("the node is not running: use 'async with', or await start()")
        return self._core

    @property
    def engine(self) -> Engine:
        """The engine, to look at: counters, connections, trace (``rdstool.protocol.info`` reads it)."""
        return self.core.engine

    @property
    def addresses(self) -> tuple[str, ...]:
        """Own addresses, in canonical form."""
        return self.core.addresses

    def reached(self, peer: str, address: str | None = None) -> bool:
        """Whether ``peer`` is connected to ``address`` (or the node's first), or is an address of the node itself."""
        core = self.core
        return peer in core.addresses or core.engine.up(address or core.addresses[0], peer) > 0

    # ---- Use

    def socket(self, port: int | None = None, *, address: str | None = None) -> AsyncSocket:
        """Make a socket. With ``port``, it is bound: to that port, or with 0 to any free one, of ``address``.

        The default for ``address`` is the node's first. Raises ``SocketError`` as ``bind``.
        """
        core = self.core
        inner = core.engine.socket()
        waiters = self._waiters[inner] = Waiters(core.driver.loop, self._on_peers)
        sock = AsyncSocket(core.driver, inner, waiters, self._forget)
        if port is not None:
            try:
                sock.bind((address or core.addresses[0], port))
            except OSError:
                sock.close()
                raise
        return sock

    def on_event(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener``, which must not block nor raise, with each event of the engine.

        Call the function that this returns to end it.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    # ---- Inside

    def _hear(self, event: events.Event) -> None:
        match event:
            case events.SocketReadable():
                self._wake(event.socket, Wait.MESSAGE)
            case events.SocketWritable():
                self._wake(event.socket, Wait.SEND_ROOM)
            case events.CongestionChanged() | events.PathsAgreed():
                for waiters in tuple(self._on_peers):
                    waiters.wake_on_peer()
            case _:
                pass
        for listener in list(self._listeners):
            listener(event)

    def _wake(self, inner: Inbox, reason: Wait) -> None:
        waiters = self._waiters.get(inner)
        if waiters is not None:
            waiters.wake(reason)

    def _forget(self, inner: EngineSocket) -> None:
        self._waiters.pop(inner, None)


class AsyncSocket(SocketBase):
    """An RDS socket whose calls wait without blocking the event loop. Made by ``Node.socket``."""

    def __init__(
        self, driver: Driver, inner: EngineSocket, waiters: Waiters, forget: Callable[[EngineSocket], None]
    ) -> None:
        """``forget`` is told when the socket is closed."""
        super().__init__(driver, inner)
        self._waiters = waiters
        self._forget = forget
        self._in_a_row = 0
        """Messages that were sent since others in the loop had their turn for sure."""

    def bind(self, address: Address) -> None:
        """Take an address of the node and a port, 0 for any. Raises ``SocketError``."""
        with self._driver.lock:
            self._inner.bind(*given(address))

    # ---- Sending

    async def sendmsg(
        self,
        data: bytes | bytearray | memoryview,
        address: Address | None = None,
        *,
        flags: int = 0,
        token: int | None = None,
        control: Sequence[SendControl] = (),
    ) -> int:
        """Queue one message, waiting for room where there is none; returns its length. Port 0 pings.

        Over InfiniBand ``control`` has RDMA or an atomic to be done first, or memory to offer to the receiver.

        Raises ``SocketError`` as sendmsg(2); with MSG_DONTWAIT ``WouldBlock`` instead of waiting (EAGAIN where the
        send buffer is full, ENOBUFS where the destination is congested); ``TimeoutError`` after ``send_timeout_s``.
        """
        host, port = (None, 0) if address is None else given(address)
        driver, inner = self._driver, self._inner
        deadline: float | None = None
        self._in_a_row += 1
        if self._in_a_row > MESSAGES_IN_A_ROW:
            self._in_a_row = 0
            await asyncio.sleep(0)
        while True:
            try:
                with driver.lock:
                    now = driver.now()
                    length = inner.sendmsg(data, host, port, now=now, flags=flags, token=token, control=control)
                    driver.kick(length)
                    return length
            except WouldBlock as reason:
                with driver.lock:
                    driver.kick()
                if flags & MSG_DONTWAIT:
                    raise
                if deadline is None and self.send_timeout_s is not None:
                    deadline = driver.now() + self.send_timeout_s
                await self._until(reason.waiting_for, deadline)

    async def sendto(self, data: bytes | bytearray | memoryview, address: Address) -> int:
        """Send one message to an address and port."""
        return await self.sendmsg(data, address)

    async def send(self, data: bytes | bytearray | memoryview) -> int:
        """Send one message to the default destination."""
        return await self.sendmsg(data)

    async def drain(self) -> None:
        """Wait until everything that was sent is acknowledged or given up."""
        while True:
            with self._driver.turn:
                self._driver.transport.check_acks()
                # What this brings about is told before the wait ends: whoever counts acknowledgements has them all.
                self._driver.act()
                if self._inner.closed or self._inner.drained():
                    return
                future = self._waiters.wait(Wait.SEND_ROOM)
            await future

    # ---- RDMA, over InfiniBand

    async def _operate(self, operation: rdma.Operation, address: Address | None) -> None:
        """Begin an operation, and wait for its end. Raises ``RdmaError`` where it fails, and as ``sendmsg``."""
        future: asyncio.Future[SendStatus] = asyncio.get_running_loop().create_future()

        def ended(status: SendStatus) -> None:
            if not future.done():
                future.set_result(status)

        await self.sendmsg(b"", address, control=rdma.told(operation, ended))
        rdma.check(await future)

    async def rdma_write(
        self, cookie: int, data: Memory | bytes, address: Address | None = None, *, offset: int = 0
    ) -> None:
        """Put ``data`` into memory that the peer at ``address`` offered by ``cookie``, and wait until it is there.

        Raises ``RdmaError`` where the peer's memory refuses or the connection is lost, and what ``sendmsg`` raises.
        """
        await self._operate(rdma.write(cookie, [data], offset), address)

    async def rdma_read(self, cookie: int, into: Memory, address: Address | None = None, *, offset: int = 0) -> None:
        """Fill ``into`` from memory that the peer at ``address`` offered by ``cookie``. Raises as ``rdma_write``."""
        await self._operate(rdma.read(cookie, [into], offset), address)

    async def fetch_add(
        self, cookie: int, add: int, address: Address | None = None, *, offset: int = 0, nocarry_mask: int = 0
    ) -> int:
        """Add to the peer's 64-bit number at ``offset``, modulo 2^64; returns the number before.

        The number can be several fields that are added apart: bits of ``nocarry_mask`` are the highest of each, from
        which nothing is carried. Raises as ``rdma_write``.
        """
        operation = rdma.fetch_add(cookie, add, offset, nocarry_mask)
        await self._operate(operation, address)
        return rdma.original(operation)

    async def compare_swap(
        self,
        cookie: int,
        compare: int,
        swap: int,
        address: Address | None = None,
        *,
        offset: int = 0,
        compare_mask: int = ALL_BITS,
        swap_mask: int = ALL_BITS,
    ) -> int:
        """Replace the peer's 64-bit number at ``offset`` by ``swap`` if it is ``compare``; returns the number before.

        Only the bits of ``compare_mask`` are compared, and only those of ``swap_mask`` replaced. Raises as
        ``rdma_write``.
        """
        operation = rdma.compare_swap(cookie, compare, swap, offset, compare_mask, swap_mask)
        await self._operate(operation, address)
        return rdma.original(operation)

    # ---- Receiving

    async def recvmsg(self, size: int | None = None, *, flags: int = 0) -> ReceivedMessage:
        """The next message or notification, waiting for it. With MSG_PEEK it stays, with MSG_TRUNC ``length`` is whole.

        Raises with MSG_DONTWAIT ``WouldBlock`` instead of waiting; ``TimeoutError`` after ``receive_timeout_s``.
        """
        return await self._receive(size, flags, with_control=True)

    async def _receive(self, size: int | None, flags: int, *, with_control: bool) -> ReceivedMessage:
        """The next message, or ``with_control`` the next notification, too."""
        driver, inner = self._driver, self._inner
        deadline: float | None = None
        while True:
            try:
                with driver.lock:
                    message = inner.recvmsg(size, now=driver.now(), flags=flags, with_control=with_control)
                    driver.kick()
                    if with_control:
                        return self._dated(message) if inner.timestamps else message
                    if message[1]:  # the sender's address: it is not a notification
                        return message
            except WouldBlock as reason:
                if flags & MSG_DONTWAIT:
                    raise
                if deadline is None and self.receive_timeout_s is not None:
                    deadline = driver.now() + self.receive_timeout_s
                await self._until(reason.waiting_for, deadline)

    async def recvfrom(self, size: int | None = None) -> tuple[bytes, Address]:
        """The next message with its sender; notifications are passed over."""
        message = await self._receive(size, 0, with_control=False)
        return message.data, (message.address, message.port)

    async def recv(self, size: int | None = None) -> bytes:
        """The next message."""
        return (await self._receive(size, 0, with_control=False))[0]

    # ---- Waiting

    async def _until(self, reason: Wait, deadline: float | None) -> None:
        with self._driver.lock:
            self._check_open()
            if reason is Wait.SEND_ROOM:
                self._driver.transport.check_acks()
                self._driver.kick()
            future = self._waiters.wait(reason)
        if deadline is None:  # a timeout that never comes takes time as well
            await future
        else:
            async with asyncio.timeout_at(deadline):
                await future
        self._check_open()

    def _check_open(self) -> None:
        if self._inner.closed:
            raise was_closed()
        if not self._inner.address:
            raise not_bound()

    def close(self) -> None:
        """Free the port, and wake whoever waits on it."""
        super().close()
        self._forget(self._inner)
        self._waiters.wake_all()
