"""Commands against a kernel's RDS over Soft-RoCE: craft, --transport auto, info -I; and the atomics that it refuses."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from rdstool.craft.judge import Match
from rdstool.craft.library import names, scenario
from rdstool.craft.play import play
from rdstool.endpoint.base import Address
from rdstool.endpoint.blocking import Socket
from rdstool.protocol.control import RdmaDest
from rdstool.protocol.errors import RdmaError
from rdstool.protocol.ib.memory import RdmaFlags
from rdstool.protocol.kinds import Transport
from rdstool.protocol.reasons import SendStatus
from tests.interop import rdma_program
from tests.interop.infiniband import BROKEN, TIMEOUT_S, Meeting, until
from tests.unit.cli.running import ROOT

PROGRAM = Path(rdma_program.__file__)
FRESH = (f"192.0.2.{number}" for number in (*range(2, 77), *range(110, 200)))
"""Addresses that the kernel has nothing left to tell."""
LASTING = "6.12"
"""Its RDS stands still when a connection ends (``tests/interop/infiniband.py``), and each scenario that makes one ends
it, at the latest when it is over: it plays what makes none."""
REFUSED = ("ib-private-version", "ib-private-version-3-0")
OFFERED = "ib-rdma-outside"
"""Needs memory that the kernel offers."""
UNCHECKED = {"6.1": {"ib-fragment-short"}, "newest": set[str]()}
"""Which 6.1 takes: its reassembly does not look at the length of fragments."""
PATIENCE = 8.0
"""Answers may take half a minute; they come at once where the machine is not busy."""
AT_ONCE = 4
"""Scenarios: what takes time is mostly silence."""
LIMIT_S = 200
ENDING = pytest.mark.parametrize("own_guest", ["6.1", "newest"], indirect=True)


def fresh_address(meeting: Meeting) -> str:
    """One more address of ours."""
    address = next(FRESH)
    meeting.network.add_address(address)
    return address


@pytest.fixture
def own(meeting: Meeting) -> str:
    """A fresh address of ours."""
    return fresh_address(meeting)


def rdstool(meeting: Meeting, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in the network of the guest."""
    command = [sys.executable, "-m", "rdstool", *arguments]
    return meeting.network.run(command, capture_output=True, text=True, timeout=LIMIT_S)


async def played(meeting: Meeting, chosen: Sequence[str], cookie: int | None = None) -> dict[str, str]:
    """How the kernel differs from scenarios, each from an address of its own, several at a time."""
    turn = asyncio.Semaphore(AT_ONCE)

    async def one(name: str, own: str) -> tuple[str, str]:
        match = Match(
            own, meeting.guest.address, 1, PATIENCE, Transport.IB, cookie=cookie, make_socket=meeting.network.socket
        )
        async with turn:
            verdict = await play(scenario(name), match)
        story = "".join(f"\n{line.time_s:9.3f} {line.arrow:2} {line.text}" for line in verdict.lines[-8:])
        return name, verdict.difference and verdict.difference + story

    found = await asyncio.gather(*(one(name, fresh_address(meeting)) for name in chosen))
    return {name: text for name, text in found if text}


async def test_kernels_refuse_what_scenarios_say(meeting: Meeting) -> None:
    assert await played(meeting, REFUSED) == {}


def test_the_question_of_auto_is_answered_and_leaves_nothing_behind(meeting: Meeting, own: str) -> None:
    guest = meeting.guest
    program = f"from rdstool.transport.ib.answering import speaks_ib; print(speaks_ib({guest.address!r}, {own!r}))"
    done = meeting.network.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=LIMIT_S)
    assert done.stdout == "True\n", done.stderr
    assert own not in {each["peer"] for each in guest.rds.table("connections")}


def test_info_shows_the_kernels_connections_over_infiniband_as_ours(meeting: Meeting) -> None:
    guest, there = meeting.guest, meeting.theirs()
    with meeting.ours(meeting.network.larger) as here:
        here.sendto(b"hello", there.end)
        assert guest.rds.receive(there, timeout_s=TIMEOUT_S).length == 5
        command = [sys.executable, "-m", "rdstool", "info", "--kernel", "--json", "-I"]
        told = [json.loads(line) for line in guest.run(command, folder=str(ROOT)).stdout.splitlines()]
        (found,) = (each for each in told if each["peer"] == meeting.network.larger)
    assert (found["section"], found["local"], found["tos"], found["sl"]) == ("ib_connections", guest.address, 0, 0)
    gids = f"::ffff:{guest.address}", f"::ffff:{meeting.network.larger}"
    assert (found["local_gid"], found["peer_gid"]) == gids
    assert (found["max_send_wr"], found["max_recv_wr"]) == (256, 1024)


def test_an_atomic_of_the_kernel_is_refused_by_its_device_and_told(meeting: Meeting, own: str) -> None:
    guest = meeting.guest
    memory = bytearray(8)
    with meeting.ours(own) as here:
        cookie = here.offer_memory(memory, RdmaFlags.READWRITE)
        address, port = here.getsockname()
        command = [sys.executable, "-S", str(PROGRAM), "add", guest.address, "5003", address, str(port), str(cookie)]
        program = guest.popen(command)
        until(lambda: f"atomic ib_post_send to ::ffff:{own} returned -22" in guest.run(["dmesg"]).stdout)
        program.kill("SIGKILL")
        assert memory == bytes(8)


@ENDING
def test_a_ping_goes_over_the_transport_that_a_kernel_answers_by(meeting: Meeting, own: str) -> None:
    pinged = rdstool(meeting, "ping", meeting.guest.address, "-I", own, "-c", "1", "--transport", "auto")
    assert pinged.returncode == 0, pinged.stderr
    assert f"auto: {meeting.guest.address} over ib" in pinged.stderr


@contextmanager
def offered(meeting: Meeting, port: int) -> Iterator[tuple[Socket, Address, int]]:
    """Memory of the kernel, 4,096 bytes: a socket of ours, who offers it, and its cookie."""
    guest, there = meeting.guest, meeting.theirs()
    with meeting.ours(BROKEN) as here:
        # The program offers memory again and again until there is a connection, and would slow down who makes it.
        here.sendto(b"", there.end)
        assert guest.rds.receive(there, timeout_s=TIMEOUT_S).length == 0
        address, ours = here.getsockname()
        command = [sys.executable, "-S", str(PROGRAM), "ask", guest.address, str(port), address, str(ours), "w,4096,1"]
        program = guest.popen(command)
        request = here.recvmsg()
        (memory,) = request.control
        assert isinstance(memory, RdmaDest)
        try:
            yield here, (request.address, request.port), memory.cookie
        finally:
            program.kill("SIGKILL")


@ENDING
def test_ordinary_memory_of_a_kernel_refuses_atomics(meeting: Meeting) -> None:
    with offered(meeting, 5004) as (here, peer, cookie):
        with pytest.raises(RdmaError) as caught:
            here.fetch_add(cookie, 1, peer, timeout_s=TIMEOUT_S)
        assert caught.value.status in {SendStatus.REMOTE_ERROR, SendStatus.DROPPED}


@ENDING
def test_a_kernel_refuses_what_is_behind_the_end_of_its_memory(meeting: Meeting) -> None:
    with offered(meeting, 5005) as (here, peer, cookie):
        assert asyncio.run(played(meeting, [OFFERED], cookie)) == {}
        # The key is good, and for the memory itself it stays so: only the end of the region was in the way.
        here.rdma_write(cookie, bytes(4096), peer, timeout_s=TIMEOUT_S)


@pytest.mark.parametrize("own_guest", [LASTING], indirect=True)
def test_a_kernel_that_bears_no_end_refuses_what_is_behind_its_memory_too(meeting: Meeting) -> None:
    """The last test of its guest, whose RDS it ends."""
    with offered(meeting, 5005) as (_, _, cookie):
        assert asyncio.run(played(meeting, [OFFERED], cookie)) == {}


@pytest.mark.timeout(900)  # a minute on an idle machine
@pytest.mark.parametrize(("own_guest", "unchecked"), UNCHECKED.items(), indirect=["own_guest"])
async def test_kernels_do_what_scenarios_say(meeting: Meeting, unchecked: set[str]) -> None:
    left_out = {OFFERED, *unchecked, *REFUSED}
    chosen = [name for name in names() if scenario(name).transport is Transport.IB and name not in left_out]
    assert await played(meeting, chosen) == {}
    assert meeting.guest.alive
