"""The provider verbs, in a guest with Soft-RoCE: against the provider roce here, against itself, and a kernel's RDS."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from rdstool.endpoint.blocking import Socket
from rdstool.endpoint.core import NodeOptions
from rdstool.endpoint.stack import Stack
from rdstool.lab import Guest, Network
from rdstool.lab.annex import Annex
from rdstool.lab.capture import Capture
from rdstool.lab.content import digest, payload
from rdstool.lab.kernels import Kernel
from rdstool.lab.rds import RdsSocket
from rdstool.protocol.config import Settings
from rdstool.protocol.errors import RdmaError
from rdstool.protocol.ib.memory import RdmaFlags
from rdstool.protocol.kinds import Transport
from rdstool.protocol.reasons import SendStatus
from rdstool.transport.ib.roce_udp import RoceProvider
from tests.interop import rdma_program, verbs_peer
from tests.interop.ib_ends import SIZES, WANTED, WRITTEN, Client, Server, run, server_memory
from tests.interop.infiniband import await_port
from tests.interop.rdma_program import content
from tests.interop.roce import dial
from tests.interop.rxe import add_rxe, remove_rxe
from tests.interop.verbs_peer import BUFFER, PORT, RDS_PORT, TIMEOUT_S

ROOT = Path(__file__).parents[2]
PYTHON = "/usr/bin/python3"
"""Debian's, for which there is pyverbs."""
SCENARIOS = ["ib-ping", "ib-checksum-bad", "ib-fragments-endless", "ib-private-version", "ib-rkey-stale"]
ONCE_MORE = ("6.1", "newest")
"""Kernels whose RDS takes part in a second connection: that of 6.12 stands still once the first has ended."""


class Remote:
    """A program in the guest that does as it is told."""

    def __init__(self, guest: Guest, network: Network) -> None:
        program = Path(verbs_peer.__file__)
        command = [PYTHON, "-m", f"tests.interop.{program.stem}", guest.address]
        self._process = guest.popen(command, environment={"PYTHONPATH": str(ROOT)})
        self.wire = dial(network, guest.address, PORT)
        self._lines = self.wire.makefile("r")

    def tell(self, name: str, *arguments: object) -> None:
        """Have it do something."""
        self.wire.sendall(json.dumps([name, *arguments]).encode() + b"\n")

    def answer(self) -> Any:
        """What it says to that."""
        line = self._lines.readline()
        if not line:
            raise AssertionError(self._process.kill().stderr)
        return json.loads(line)

    def ask(self, name: str, *arguments: object) -> Any:
        """Both."""
        self.tell(name, *arguments)
        return self.answer()

    def answered(self) -> bool:
        """Whether there is an answer."""
        self.wire.setblocking(False)
        try:
            self.wire.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        else:
            return True
        finally:
            self.wire.settimeout(TIMEOUT_S)

    def end(self) -> None:
        """End it."""
        self._lines.close()
        self.wire.close()
        self._process.kill("SIGKILL")


class Neighbours:
    """Guests beside others in their networks, by kernel."""

    def __init__(self) -> None:
        self._made: dict[str, Guest] = {}
        self._booting: set[str] = set()

    def begin(self, kernel: Kernel, network: Network) -> None:
        """Have one boot, unless there is one."""
        if kernel.name not in self._made:
            made = self._made[kernel.name] = Guest(kernel, Annex(network).start())
            made.begin()
            self._booting.add(kernel.name)

    def get(self, kernel: Kernel, network: Network) -> Guest:
        """One that is up."""
        self.begin(kernel, network)
        made = self._made[kernel.name]
        if kernel.name in self._booting:
            self._booting.remove(kernel.name)
            made.await_agent()
            made.allow_buffers(BUFFER)
            made.add_rxe()
        return made

    def stop(self) -> None:
        """Switch all off."""
        for guest in self._made.values():
            guest.kill()


@pytest.fixture(scope="module")
def remotes() -> Iterator[dict[str, tuple[Guest, Remote]]]:
    """Programs in guests that have a Soft-RoCE device, by kernel: they take seconds to start."""
    made: dict[str, tuple[Guest, Remote]] = {}
    yield made
    for guest, program in made.values():
        if guest.alive:
            program.end()
            remove_rxe(guest)


@pytest.fixture
def remote(guest: Guest, network: Network, remotes: dict[str, tuple[Guest, Remote]], neighbours: Neighbours) -> Remote:
    """The program in the guest. The guest beside it boots meanwhile."""
    if guest.kernel.name not in remotes:
        neighbours.begin(guest.kernel, network)
        add_rxe(guest)
        remotes[guest.kernel.name] = guest, Remote(guest, network)
    return remotes[guest.kernel.name][1]


def test_roce_here_uses_all_that_verbs_there_can(remote: Remote, guest: Guest, network: Network) -> None:
    remote.ask("serve", 2)
    with closing(RoceProvider(network.larger, make_socket=network.socket)) as provider:
        client = Client(provider, guest.address)
        run([client], remote.answered)
        assert remote.answer() == [["first", "second"], 2, digest(WRITTEN)]
        run([client], lambda: client.done)
        assert client.result == WANTED
        assert provider.device.counters.bad_icrc == 0


@pytest.mark.parametrize("suffix", ["", "6"], ids=["ipv4", "ipv6"])
def test_verbs_there_uses_all_that_roce_here_can(remote: Remote, network: Network, suffix: str) -> None:
    there, here = getattr(network, "guest" + suffix), getattr(network, "larger" + suffix)
    with closing(RoceProvider(here, make_socket=network.socket)) as provider:
        server = Server(provider)
        remote.tell("call", there, here)
        run([server], remote.answered)
        assert remote.answer() == WANTED
        run([server], lambda: len(server.ended) == 2)
        assert server.asked == ["first", "second"]
        assert server_memory(server) == WRITTEN
        assert provider.device.counters.bad_icrc == 0


def test_verbs_talks_to_itself(remote: Remote) -> None:
    assert remote.ask("alone") == [WANTED, ["first", "second"], 2]


# ---- RDS


@pytest.fixture
def rds(remote: Remote) -> Iterator[Remote]:
    """RDS over verbs, in the guest."""
    remote.ask("open")
    yield remote
    remote.ask("close")


@pytest.fixture
def here(network: Network) -> Iterator[Socket]:
    """A socket of RDS over roce."""
    settings = Settings(sndbuf=BUFFER, rcvbuf=BUFFER)
    options = NodeOptions(settings, transport=Transport.IB, make_socket=network.socket)
    with Stack(options) as stack, Socket(stack) as made:
        made.bind((network.smaller, 4000))
        made.settimeout(TIMEOUT_S)
        yield made


def we_send(here: Socket, rds: Remote, to: tuple[str, int]) -> None:
    for seed, size in enumerate(SIZES):
        here.sendto(payload(seed, size), to)
    assert rds.ask("receive", len(SIZES)) == [digest(payload(seed, size)) for seed, size in enumerate(SIZES)]
    here.drain(TIMEOUT_S)


def they_send(here: Socket, rds: Remote) -> None:
    rds.tell("send", *here.getsockname(), list(SIZES), 100)
    assert [here.recv() for _ in SIZES] == [payload(100 + seed, size) for seed, size in enumerate(SIZES)]
    assert rds.answer() == "sent"


def test_scenarios_are_played_over_verbs(remote: Remote, here: Socket) -> None:
    assert remote.ask("craft", here.getsockname()[0], SCENARIOS) == {}


@pytest.mark.parametrize("first", ["roce", "verbs"])
def test_rds_over_verbs_and_over_roce_exchange_messages_whoever_connects(
    rds: Remote, here: Socket, guest: Guest, judged: Capture, first: str
) -> None:
    if first == "verbs":
        they_send(here, rds)
    we_send(here, rds, (guest.address, RDS_PORT))
    if first == "roce":
        they_send(here, rds)


def test_rds_over_verbs_uses_memory_that_is_offered_here(
    rds: Remote, here: Socket, guest: Guest, judged: Capture
) -> None:
    memory = bytearray(100_000)
    cookie = here.offer_memory(memory, RdmaFlags.READWRITE)
    told = rds.ask("work", cookie, *here.getsockname(), len(memory), 7)
    assert told == [True, [0, 7, 9], SendStatus.REMOTE_ERROR.name]
    assert memory[8:] == payload(7, len(memory))[8:]
    they_send(here, rds)


def test_memory_that_rds_over_verbs_offers_is_used_from_here(
    rds: Remote, here: Socket, guest: Guest, judged: Capture
) -> None:
    size, to = 100_000, (guest.address, RDS_PORT)
    cookie = rds.ask("offer", size)
    here.rdma_write(cookie, payload(8, size), to, timeout_s=TIMEOUT_S)
    assert rds.ask("memory") == digest(payload(8, size))
    into = bytearray(size)
    here.rdma_read(cookie, into, to, timeout_s=TIMEOUT_S)
    assert bytes(into) == payload(8, size)
    here.rdma_write(cookie, bytes(8), to, timeout_s=TIMEOUT_S)
    assert here.fetch_add(cookie, 7, to, timeout_s=TIMEOUT_S) == 0
    assert here.compare_swap(cookie, 7, 9, to, timeout_s=TIMEOUT_S) == 7
    assert here.compare_swap(cookie, 7, 0, to, timeout_s=TIMEOUT_S) == 9
    with pytest.raises(RdmaError) as caught:
        here.rdma_write(cookie ^ 0x5A5A5A5A, b"nowhere", to, timeout_s=TIMEOUT_S)
    assert caught.value.status is SendStatus.REMOTE_ERROR
    we_send(here, rds, to)


# ---- Against the RDS of a kernel, in another guest: where it is, it takes the requests for all addresses.


@pytest.fixture(scope="module")
def neighbours() -> Iterator[Neighbours]:
    """Guests with RDS over Soft-RoCE beside those with verbs."""
    made = Neighbours()
    yield made
    made.stop()


@pytest.fixture
def kernels(neighbours: Neighbours, network: Network, guest: Guest) -> Iterator[Guest]:
    """The guest beside, with the same kernel."""
    made = neighbours.get(guest.kernel, network)
    yield made
    made.rds.close_all()


def kernel_sends(kernels: Guest, there: RdsSocket, rds: Remote, to: tuple[str, int]) -> None:
    rds.tell("receive", len(SIZES))
    for seed, size in enumerate(SIZES):
        kernels.rds.send(there, to, size=size, seed=100 + seed, timeout_s=TIMEOUT_S)
    assert rds.answer() == [digest(payload(100 + seed, size)) for seed, size in enumerate(SIZES)]


def kernel_receives(kernels: Guest, there: RdsSocket, rds: Remote) -> None:
    assert rds.ask("send", *there.end, list(SIZES), 0) == "sent"
    arrived = kernels.rds.receive_many([there], len(SIZES), timeout_s=TIMEOUT_S)
    assert [each.sha256 for each in arrived] == [digest(payload(seed, size)) for seed, size in enumerate(SIZES)]


def test_rds_over_verbs_exchanges_messages_with_a_kernel_that_connects_and_offers_memory_to_it(
    rds: Remote, guest: Guest, kernels: Guest, judged: Capture
) -> None:
    there = kernels.rds.open(kernels.address, 4000, transport="ib", sndbuf=BUFFER, rcvbuf=BUFFER)
    kernel_sends(kernels, there, rds, (guest.address, RDS_PORT))
    kernel_receives(kernels, there, rds)
    program = kernels.popen([sys.executable, "-S", str(Path(rdma_program.__file__)), "serve", kernels.address, "4001"])
    await_port(kernels, 4001)
    for seed, (operation, size) in enumerate(product("rw", (1, 4096, 10_000, 1 << 20))):
        told = rds.ask("ask", kernels.address, 4001, operation, size, seed)
        assert told == ["done", "0", digest(content(seed, size)), True]
    program.kill()


@pytest.mark.parametrize("kernel", ONCE_MORE)
def test_rds_over_verbs_connects_to_a_kernel_and_exchanges_messages(
    rds: Remote, guest: Guest, kernels: Guest, judged: Capture
) -> None:
    there = kernels.rds.open(kernels.address, 4000, transport="ib", sndbuf=BUFFER, rcvbuf=BUFFER)
    kernel_receives(kernels, there, rds)
    kernel_sends(kernels, there, rds, (guest.address, RDS_PORT))


def test_what_the_kernels_rds_listens_to_cannot_be_had(remote: Remote, guest: Guest) -> None:
    guest.load_modules("rds_rdma")
    assert "the kernel's RDS has it" in remote.ask("why_not")
