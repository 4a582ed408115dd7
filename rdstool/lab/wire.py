"""Faults of the guest's network: netem on what it sends, connections cut, its link down."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from dissectors.wire.rds import TCP_PORT
from rdstool.lab.completed import Completed


class Machine(Protocol):
    """What has the network device."""

    device: str
    """Its name there."""

    def run(self, arguments: Sequence[str], /) -> Completed:
        """Run a command there."""

    def set_link(self, *, up: bool) -> None:
        """Put in the device's cable, or pull it."""

    def sysctl(self, name: str, value: object = None) -> str:
        """Set a sysctl there; its value."""


class Wire:
    """The guest's network device."""

    def __init__(self, guest: Machine) -> None:
        self._guest = guest

    @contextmanager
    def netem(self, *arguments: str) -> Iterator[None]:
        """Treat what the guest sends with netem while the context lasts: ``netem("loss", "1%", "delay", "5ms")``.

        Also ``duplicate 1%``, ``reorder 25% 50%`` (with a delay), ``corrupt 0.1%``: see tc-netem(8).
        """
        device = self._guest.device
        # Segments are of the size of the wire then, so that loss hits one at a time.
        self._guest.run(["tc", "qdisc", "replace", "dev", device, "root", "netem", *arguments])
        try:
            yield
        finally:
            self._guest.run(["tc", "qdisc", "del", "dev", device, "root"])

    def cut(self, peer: str | None = None, port: int = TCP_PORT) -> int:
        """Reset all TCP connections from or to ``port``, or those with ``peer`` alone; how many there were."""
        state = f"( sport = :{port} or dport = :{port} )"
        if peer is not None:
            state += f" and dst {peer}"
        done = self._guest.run(["ss", "--no-header", "--tcp", "--numeric", "--kill", state])
        return len(done.stdout.splitlines())

    def connections(self, port: int = TCP_PORT) -> list[tuple[str, str]]:
        """TCP connections from or to ``port`` that are established: local and peer, as ``address:port``."""
        filter_ = f"( sport = :{port} or dport = :{port} )"
        done = self._guest.run(["ss", "--no-header", "--tcp", "--numeric", "state", "established", filter_])
        return [(fields[2], fields[3]) for fields in (line.split() for line in done.stdout.splitlines())]

    @contextmanager
    def unplugged(self) -> Iterator[None]:
        """Pull the cable while the context lasts: the guest sees no carrier, and keeps its addresses."""
        self._guest.set_link(up=False)
        try:
            yield
        finally:
            self._guest.set_link(up=True)

    @contextmanager
    def down(self) -> Iterator[None]:
        """Take the guest's link down while the context lasts; IPv6 addresses stay."""
        device = self._guest.device
        self._guest.sysctl(f"net.ipv6.conf.{device}.keep_addr_on_down", 1)
        self._guest.run(["ip", "link", "set", device, "down"])
        try:
            yield
        finally:
            self._guest.run(["ip", "link", "set", device, "up"])
