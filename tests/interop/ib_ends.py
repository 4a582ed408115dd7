"""Two ends of reliable connections that use all that a provider can, whichever provider it is.

The client's script: messages that come back, RDMA WRITE and READ, atomics, a wrong key, and all of it anew on another
connection. Runs on the host and in the guest: standard library and rdstool only.
"""

from __future__ import annotations

import select
import struct
import sys
from collections import deque
from collections.abc import Callable, Generator
from time import monotonic

from dissectors.wire.cm import SERVICE_ID_TCP, RejectReason
from rdstool.lab.content import payload
from rdstool.protocol.ib.memory import Access
from rdstool.transport.ib.provider import (
    Broken,
    Completed,
    Connection,
    ConnectRequested,
    Disconnected,
    Established,
    Event,
    Operation,
    Provider,
    Refused,
    Segment,
    Status,
)

SERVICE = SERVICE_ID_TCP | 7175
OTHER_SERVICE = SERVICE_ID_TCP | 7179
"""Nobody listens to it."""
SIZES = (0, 1, 4095, 4096, 4097, 65536, 1 << 20)
LARGEST = max(SIZES)
MEMORY_BYTES = 1 << 16
OFFER = struct.Struct(">QII")
"""Address, key and size of the server's memory: private data of its answer."""
ALL = Access.LOCAL_WRITE | Access.REMOTE_WRITE | Access.REMOTE_READ | Access.REMOTE_ATOMIC
TIMEOUT_S = 120.0
"""For a step that takes a second on an idle machine."""
RECEIVE, ECHO = 1, 2
SECOND = 1 << 40
"""A number that one atomic operation puts where another looks for it."""


Script = Generator[type[Event], Event, None]
"""Asks for an event of a kind, and goes on when it has happened."""


class End:
    """A provider whose events go to ``handle``."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.broken: list[str] = []
        self.ended: list[bool] = []
        """Of each connection that has ended: whether the peer did it."""
        self.last: deque[str] = deque(maxlen=8)
        """The last events, for who wants to know where it stands still."""

    def handle(self, event: Event) -> None:
        """Take an event."""
        detail = getattr(event, "operation", getattr(event, "detail", ""))
        self.last.append(f"{type(event).__name__} {detail}")
        if isinstance(event, Broken):
            self.broken.append(event.detail)
            event.connection.disconnect()
        elif isinstance(event, Disconnected):
            self.ended.append(event.by_peer)


def run(ends: list[End], done: Callable[[], object]) -> None:
    """Let all ends do what they have to, until ``done``."""
    deadline = monotonic() + TIMEOUT_S
    while not done():
        assert monotonic() < deadline, [(end.broken, end.ended, end.last) for end in ends]
        idle = True
        for end in ends:
            for event in end.provider.process(monotonic()):
                idle = False
                end.handle(event)
        if idle:
            timers = [due for end in ends if (due := end.provider.next_timer()) is not None]
            wait_s = min([0.1, *(max(due - monotonic(), 0.0) for due in timers)])
            select.select([file for end in ends for file in end.provider.filenos()], [], [], wait_s)


class Server(End):
    """Sends back what comes, and offers memory."""

    def __init__(self, provider: Provider) -> None:
        super().__init__(provider)
        self.memory = bytearray(MEMORY_BYTES)
        self.region = provider.register(self.memory, ALL)
        self.asked: list[str] = []
        """Private data of requests."""
        provider.listen(SERVICE)

    def handle(self, event: Event) -> None:
        """Accept, and send back."""
        super().handle(event)
        if isinstance(event, ConnectRequested):
            self.asked.append(event.private_data.rstrip(b"\0").decode())
            for _ in range(2):
                event.connection.post_receive(RECEIVE, LARGEST)
            event.connection.accept(OFFER.pack(self.region.address, self.region.rkey, len(self.memory)))
        elif isinstance(event, Completed) and event.operation is Operation.RECEIVE and event.status is Status.SUCCESS:
            event.connection.post_receive(RECEIVE, LARGEST)
            event.connection.post_send(ECHO, event.data)

    def close(self) -> None:
        """Offer no more."""
        self.provider.stop_listening(SERVICE)
        self.provider.deregister(self.region)


class Client(End):
    """Does what its script says; ``result`` has what it found."""

    def __init__(self, provider: Provider, peer: str) -> None:
        super().__init__(provider)
        self.peer = peer
        self.connection: Connection
        self.result: dict[str, object] = {}
        self.done = False
        self._script = self._steps()
        self._wanted: type[Event]
        self._advance(None)

    def handle(self, event: Event) -> None:
        """Take the next step when what it waits for has happened."""
        super().handle(event)
        if event.connection is not self.connection or self.done:
            return
        if isinstance(event, Completed) and event.wr_id == ECHO and event.operation is Operation.SEND:
            return
        if isinstance(event, Completed) and event.status is Status.FLUSHED:
            return
        if isinstance(event, self._wanted):
            self._advance(event)

    def _advance(self, event: Event | None) -> None:
        try:
            self._wanted = next(self._script) if event is None else self._script.send(event)
        except StopIteration:
            self.done = True

    def _steps(self) -> Script:
        self.connection = self.provider.connect(self.peer, OTHER_SERVICE)
        refused = yield Refused
        assert isinstance(refused, Refused)
        self.result["refused"] = refused.reason == RejectReason.INVALID_SERVICE_ID
        for attempt in ("first", "second"):
            yield from self._connection(attempt)

    def _connection(self, attempt: str) -> Script:
        self.connection = self.provider.connect(self.peer, SERVICE, attempt.encode())
        established = yield Established
        assert isinstance(established, Established)
        address, key, size = OFFER.unpack_from(established.private_data)
        echoed = []
        for size_sent in SIZES:
            data = payload(size_sent, size_sent)
            self.connection.post_receive(RECEIVE, LARGEST)
            self.connection.post_send(ECHO, data)
            received = yield Completed
            assert isinstance(received, Completed)
            if received.data == data:
                echoed.append(size_sent)
        self.result[f"{attempt} echoed"] = echoed
        yield from self._memory(attempt, address, key, size)

    def _memory(self, attempt: str, address: int, key: int, size: int) -> Script:
        data = payload(size, size - 16)
        into = bytearray(size - 16)
        region = self.provider.register(into, Access.LOCAL_WRITE)
        connection = self.connection
        found: list[Event] = []
        connection.post_write(3, data, address + 16, key)
        found.append((yield Completed))
        connection.post_read(4, Segment(region.address, len(into), region.lkey), address + 16, key)
        found.append((yield Completed))
        self.result[f"{attempt} read back"] = bytes(into) == data
        word = address + -address % 8
        connection.post_write(5, bytes(8), word, key)
        found.append((yield Completed))
        numbers: list[Event] = []
        connection.post_fetch_add(6, word, key, 5)
        numbers.append((yield Completed))
        connection.post_compare_swap(7, word, key, 5, SECOND)
        numbers.append((yield Completed))
        connection.post_compare_swap(8, word, key, 5, 6)
        numbers.append((yield Completed))
        self.result[f"{attempt} numbers"] = [each.original for each in numbers if isinstance(each, Completed)]
        connection.post_write(9, b"nowhere", address, key ^ 0x5A5A5A5A)
        found.extend([*numbers, (yield Completed)])
        self.result[f"{attempt} statuses"] = [each.status.name for each in found if isinstance(each, Completed)]
        yield Broken
        self.provider.deregister(region)


WANTED = {"refused": True} | {
    f"{attempt} {name}": value
    for attempt in ("first", "second")
    for name, value in {
        "echoed": list(SIZES),
        "read back": True,
        "numbers": [0, 5, SECOND],
        "statuses": ["SUCCESS"] * 6 + ["REMOTE_ACCESS_ERROR"],
    }.items()
}
"""What the client finds."""


WRITTEN = payload(MEMORY_BYTES, MEMORY_BYTES - 16)
"""What the server's memory holds afterwards, from its 16th byte on."""


def server_memory(server: Server) -> bytes:
    """The same of a server, once its word that atomics worked on is found right."""
    start = -server.region.address % 8
    assert int.from_bytes(server.memory[start : start + 8], sys.byteorder) == SECOND
    return bytes(server.memory[16:])
