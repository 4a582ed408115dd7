"""A kernel's RDS over Soft-RoCE, and nodes on our side that last as long as it.

Linux 6.12 bears no end of a connection: its ``rdma_rxe`` flushes receives without telling who waits for them
(``flush_recv_wqe`` posts them as not solicited, and RDS asks for solicited ones only), so that RDS waits for its empty
receive ring for ever (``rds_ib_conn_path_shutdown``), on the one worker that all its connections have. 6.1 and 7.3 do
not. So connections live through all tests that do not need their end, and are to survive a machine that stands still
for seconds: both sides try as often, and wait as long, as InfiniBand lets them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from time import monotonic
from types import TracebackType
from typing import Self

from rdstool.endpoint.blocking import Socket
from rdstool.endpoint.core import NodeOptions
from rdstool.endpoint.stack import Stack
from rdstool.lab import Guest, Network
from rdstool.lab.rds import RdsSocket
from rdstool.protocol.config import Settings
from rdstool.protocol.kinds import Transport
from rdstool.transport.ib.provider import ConnectionOptions
from rdstool.transport.ib.roce.connection import RoceConnection
from rdstool.transport.ib.roce_udp import RoceProvider

TIMEOUT_S = 90.0
"""For a step that takes seconds on an idle machine."""
BUFFER = 4 << 20
CALLED = "192.0.2.77"
"""Of ours: nobody but the kernel begins connections with it."""
BROKEN = "192.0.2.78"
"""Of ours: its connections may end."""
PATIENT = 20
"""``ack_timeout`` of 8 times 4.3 s."""


class CountingProvider(RoceProvider):
    """Userspace RoCE that waits long for acknowledgements, where asked for, and counts what it asks for."""

    def __init__(self, network: Network, address: str) -> None:
        super().__init__(address, make_socket=network.socket)
        self._patient = address != BROKEN
        self.dialled = 0
        """Connections that the engine has asked for."""

    def connect(
        self, peer: str, service_id: int, private_data: bytes = b"", options: ConnectionOptions | None = None
    ) -> RoceConnection:
        """Ask for a connection."""
        self.dialled += 1
        options = options or ConnectionOptions()
        if self._patient:
            options = replace(options, ack_timeout=PATIENT)
        return super().connect(peer, service_id, private_data, options)


class Meeting:
    """One kernel, as it has booted, and one stack of nodes; a context manager."""

    def __init__(self, guest: Guest) -> None:
        assert guest.network is not None
        self.guest, self.network = guest, guest.network
        self.providers: dict[str, CountingProvider] = {}
        options = NodeOptions(Settings(sndbuf=BUFFER, rcvbuf=BUFFER), transport=Transport.IB, provider=self._provider)
        self.stack = Stack(options)
        self._keeping: list[Socket] = []

    def _provider(self, address: str) -> CountingProvider:
        made = self.providers[address] = CountingProvider(self.network, address)
        return made

    def prepare(self) -> None:
        """Load RDS over Soft-RoCE into the guest as it has booted."""
        self.guest.allow_buffers(BUFFER)
        self.guest.run(["modprobe", "rds_rdma", "rds_ib_retry_count=7"])
        self.guest.add_rxe()

    def renew(self) -> None:
        """Boot the guest anew; the nodes on our side last, and are to find that out."""
        self.guest.reboot()
        self.prepare()

    def __enter__(self) -> Self:
        self.prepare()
        network = self.network
        for own in (CALLED, BROKEN):
            network.add_address(own)
        # An address is given up with its last socket.
        addresses = (network.smaller, network.larger, network.smaller6, CALLED, BROKEN)
        self._keeping = [self.ours(address) for address in addresses]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.close()

    # ---- Sockets

    def ours(self, address: str, port: int = 0) -> Socket:
        """A socket of our side; port 0 for any."""
        socket = Socket(self.stack)
        socket.bind((address, port))
        socket.settimeout(TIMEOUT_S)
        return socket

    def theirs(self, address: str | None = None, *, rcvbuf: int = BUFFER) -> RdsSocket:
        """A socket of the kernel."""
        where = address or self.guest.address
        return self.guest.rds.open(where, transport="ib", sndbuf=BUFFER, rcvbuf=rcvbuf)


def until(done: Callable[[], object]) -> None:
    """Until ``done``."""
    deadline = monotonic() + TIMEOUT_S
    while not done():
        assert monotonic() < deadline, "what the test waits for did not happen"


def await_port(guest: Guest, port: int) -> None:
    """Until a program in the guest has bound it."""
    until(lambda: any(each["port"] == port for each in guest.rds.table("sockets")))
