"""What must hold in every run: nothing lost, doubled or out of order, and nothing beyond its limits."""

from __future__ import annotations

from dataclasses import dataclass, field

from rdstool.protocol.ib.link import IbLink
from rdstool.protocol.loopback import LoopbackConnection
from rdstool.protocol.reasons import SendStatus
from rdstool.protocol.sockets import Socket
from tests.sim.host import Host


class Violation(AssertionError):  # noqa: N818
    """An invariant that does not hold."""


@dataclass(slots=True, eq=False)
class Bound:
    """One socket of one life of its host."""

    host: Host
    socket: Socket
    name: str
    alive: bool = True
    last: dict[str, int] = field(default_factory=dict)
    """Number of the message received last, by sender."""
    slow: float = 0.0
    """Seconds between two looks of its application."""


@dataclass(slots=True)
class Sent:
    """One message, as its sender remembers it."""

    number: int
    source: Bound
    target: Bound | None
    """The socket that was bound to the destination when it was sent."""
    destination: tuple[str, int]
    data: bytes
    arrived: set[int] = field(default_factory=set)
    """Receiving sockets, by identity."""
    status: SendStatus | None = None
    canceled: bool = False


class Model:
    """All sockets and messages of a run."""

    def __init__(self) -> None:
        self.sockets: dict[tuple[str, int], Bound] = {}
        """Those that live, by address and port."""
        self.messages: list[Sent] = []

    def bind(self, host: Host, port: int) -> Bound:
        """A socket of a host's application."""
        socket = host.node.socket()
        socket.bind(host.address, port)
        bound = Bound(host, socket, f"{host.address}:{port}/{host.restarts}")
        self.sockets[host.address, port] = bound
        return bound

    def forget(self, bound: Bound) -> None:
        """The socket is closed, or its host is dead."""
        bound.alive = False
        self.sockets.pop((bound.socket.address, bound.socket.port), None)

    def send(self, source: Bound, destination: tuple[str, int], filler: int, now: float, flags: int) -> Sent:
        """Send one message that can be told from all others; raises what sendmsg raises."""
        number = len(self.messages)
        data = number.to_bytes(8, "big") + bytes((number + at) & 0xFF for at in range(min(filler, 64)))
        data += bytes(max(0, filler - 64))
        message = Sent(number, source, self.sockets.get(destination), destination, data)
        source.socket.sendmsg(data, *destination, now=now, flags=flags, token=number)
        self.messages.append(message)
        return message

    def receive(self, target: Bound, data: bytes, address: str, port: int) -> Sent:
        """Judge one message that an application got."""
        number = int.from_bytes(data[:8], "big")
        if number >= len(self.messages):
            raise Violation(f"{target.name} got a message that nobody sent")
        message = self.messages[number]
        here = (target.socket.address, target.socket.port)
        if message.data != data or message.destination != here:
            raise Violation(f"{target.name} got message {number} changed, or one that was for {message.destination}")
        sender = message.source
        if (sender.socket.address, sender.socket.port) != (address, port):
            raise Violation(f"message {number} came from {sender.name}, recvmsg says {address}:{port}")
        if id(target) in message.arrived:
            raise Violation(f"{target.name} got message {number} of {sender.name} twice")
        last = target.last.get(sender.name, -1)
        if number < last:
            raise Violation(f"{target.name} got message {number} of {sender.name} after message {last}")
        target.last[sender.name] = number
        message.arrived.add(id(target))
        return message

    def finished(self, number: int, status: SendStatus) -> None:
        """The engine told how a message ended."""
        message = self.messages[number]
        if message.status is not None:
            raise Violation(f"message {number} ended twice: {message.status.name}, {status.name}")
        message.status = status
        if status is SendStatus.DROPPED and message.target is not None and not message.target.host.restarts:
            raise Violation(f"message {number} was dropped, but its receiver was never restarted")
        if status is SendStatus.CANCELED and not message.canceled and message.source.alive:
            raise Violation(f"message {number} was cancelled by nobody")

    def check_limits(self) -> None:
        """Buffers hold what they account for, and no more than they may."""
        for bound in self.sockets.values():
            socket = bound.socket
            queued = sum(len(entry[0]) for entry in socket.received)
            if queued != socket.receive_bytes:
                raise Violation(f"{bound.name} accounts for {socket.receive_bytes} bytes to read and has {queued}")
            if not 0 <= socket.send_bytes < 2 * socket.sndbuf or (socket.outstanding == 0) != (not _held(bound)):
                raise Violation(f"{bound.name} has {socket.send_bytes} bytes, {socket.outstanding} messages to send")
            if socket.receive_bytes > socket.rcvbuf and not socket.congested:
                raise Violation(f"{bound.name} is above its receive buffer and not congested")

    def missing(self) -> list[Sent]:
        """Messages between sockets that live, which are neither there nor given up."""
        return [
            message
            for message in self.messages
            if message.source.alive and message.target is not None and message.target.alive
            if not message.canceled and message.status is not SendStatus.DROPPED
            if id(message.target) not in message.arrived
        ]

    def busy(self) -> list[Bound]:
        """Sockets that have something unsent, unacknowledged or unread."""
        return [bound for bound in self.sockets.values() if bound.socket.outstanding or bound.socket.received]


def _held(bound: Bound) -> bool:
    """Whether any queue of the engine holds a message of the socket."""
    for connection in bound.host.node.connections.values():
        if isinstance(connection, LoopbackConnection):
            continue
        for path in connection.lanes():
            for messages in path.queues():
                if any(message.socket is bound.socket for message in messages):
                    return True
            link = path.current_link()
            if isinstance(link, IbLink) and any(message.socket is bound.socket for message in link.silent):
                return True
    return False
