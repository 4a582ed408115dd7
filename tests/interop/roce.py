"""The userspace RoCE provider as a peer of programs in the guest, on a network that may lose or damage datagrams."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from random import Random
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Self

from rdstool.lab import Guest, Network
from rdstool.lab.completed import Completed as GuestCompleted
from rdstool.protocol.ib.memory import Access
from rdstool.transport.ib.provider import ConnectionOptions, Event
from rdstool.transport.ib.roce.flow import UDP_PROTOCOL
from rdstool.transport.ib.roce_udp import RoceProvider

FAULTS = 0.02
"""Part of the datagrams that something happens to."""
TIMEOUT_S = 120.0
"""For a step that takes a second on an idle machine."""
DIAL_AGAIN_S = 0.1
"""Between attempts to connect: to refuse one takes the guest time, which it needs to come to where it listens."""
ALL = Access.LOCAL_WRITE | Access.REMOTE_WRITE | Access.REMOTE_READ | Access.REMOTE_ATOMIC
OPTIONS = ConnectionOptions(ack_timeout=19)
"""A busy machine holds a guest up for seconds: 8 times 2 s."""


class FaultySocket(socket.socket):
    """Loses, doubles, reorders or damages one datagram in fifty of those that it sends, and one burst in fifty.

    Of a burst, the end is lost or doubled, or one datagram is damaged.
    """

    fault = ""
    random: Random
    late: bytes | None = None
    """Held back until after the next one."""

    @classmethod
    def make(cls, network: Network, fault: str, family: int, kind: int) -> Self:
        """One on the host's side of the network."""
        made = cls(family, kind, fileno=network.socket(family, kind).detach())
        made.fault, made.random = fault, Random(family)
        return made

    def sendto(self, data: bytes, address: Any) -> int:  # type: ignore[override]
        """Send, or not."""
        if self.fault and self.random.random() < FAULTS:
            if self.fault == "loss":
                return len(data)
            if self.fault == "duplicate":
                super().sendto(data, address)
            elif self.fault == "corrupt":
                place = self.random.randrange(len(data))
                data = data[:place] + bytes([data[place] ^ 1 << self.random.randrange(8)]) + data[place + 1 :]
            elif self.late is None:
                self.late = data
                return len(data)
        sent = super().sendto(data, address)
        self._catch_up(address)
        return sent

    def sendmsg(self, datagrams: Any, ancillary: Any = (), flags: int = 0, address: Any = None) -> int:
        """Send a burst, or not all of it."""
        if self.fault and self.random.random() < FAULTS:
            place = self.random.randrange(len(datagrams))
            if self.fault == "corrupt":
                byte = self.random.randrange(len(datagrams[place]))
                datagrams = list(datagrams)
                content = bytearray(datagrams[place])
                content[byte] ^= 1 << self.random.randrange(8)
                datagrams[place] = bytes(content)
            elif self.fault == "duplicate":
                super().sendmsg(datagrams[: place + 1], ancillary, flags, address)
            elif self.fault == "loss":
                datagrams = datagrams[: place + 1]
        sent = super().sendmsg(datagrams, ancillary, flags, address)
        self._catch_up(address)
        return sent

    def _catch_up(self, address: Any) -> None:
        if self.late is not None:
            late, self.late = self.late, None
            super().sendto(late, address)


class Program:
    """A program in the guest that does not outlive its test."""

    def __init__(self, guest: Guest, arguments: list[str]) -> None:
        self._process = guest.popen(arguments)
        self._done: GuestCompleted | None = None

    def wait(self, *, check: bool = True) -> GuestCompleted:
        """Wait for its end."""
        self._done = self._process.wait(TIMEOUT_S, check=check)
        return self._done

    def end(self) -> None:
        """End it, if it has not ended."""
        if self._done is None:
            self._done = self._process.kill("SIGKILL")


class Peer:
    """The provider at one address of the host's side; a context manager. ``on`` is called with each event."""

    def __init__(self, network: Network, address: str, fault: str = "") -> None:
        self.provider = RoceProvider(address, make_socket=partial(FaultySocket.make, network, fault))
        self.on: Callable[[Event], None] = self.seen
        self.events: list[Event] = []

    def seen(self, event: Event) -> None:
        """Keep an event."""
        self.events.append(event)

    def turn(self) -> None:
        """Wait a moment for datagrams, and handle what happens."""
        provider = self.provider
        events = provider.process(monotonic())
        for event in events:
            self.on(event)
        if not events:
            due = provider.next_timer()
            wait = 0.1 if due is None else min(max(due - monotonic(), 0.0), 0.1)
            select.select(provider.filenos(), [], [], wait)

    def until(self, done: Callable[[], object]) -> None:
        """Go on until ``done``."""
        deadline = monotonic() + TIMEOUT_S
        while not done():
            assert monotonic() < deadline, f"nothing more after {self.events[-3:]}, {self.counted()}"
            self.turn()

    def counted(self) -> dict[str, int]:
        """What is not 0."""
        return {name: count for name, count in self.provider.device.counters.as_dict().items() if count}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.provider.close()


def dial(network: Network, address: str, port: int) -> socket.socket:
    """A TCP connection to a program that may not listen yet."""
    deadline = monotonic() + TIMEOUT_S
    while True:
        wire = network.socket(socket.AF_INET, socket.SOCK_STREAM)
        wire.settimeout(TIMEOUT_S)
        with suppress(ConnectionRefusedError):
            wire.connect((address, port))
            return wire
        wire.close()
        sleep(DIAL_AGAIN_S)
        assert monotonic() < deadline, f"nothing listens on {address} port {port}"


def roce_packets(path: Path, source: str | None = None) -> Iterator[bytes]:
    """All RoCE v2 packets of a pcap, from their IP headers on, or those from one address."""
    content = path.read_bytes()
    address = None if source is None else ip_address(source).packed
    at = 24
    while at < len(content):
        (length,) = struct.unpack_from("=I", content, at + 8)
        packet = content[at + 16 + 14 : at + 16 + length]
        at += 16 + length
        if packet[:1] not in {b"\x45", b"\x60"}:
            continue
        addresses, size, protocol, udp = (12, 4, 9, 20) if packet[0] == 0x45 else (8, 16, 6, 40)
        if packet[protocol] != UDP_PROTOCOL or packet[udp + 2 : udp + 4] != b"\x12\xb7":
            continue
        if address is None or packet[addresses : addresses + size] == address:
            yield packet
