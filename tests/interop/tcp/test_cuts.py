"""TCP connections that are cut in the middle of traffic cost no message."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from rdstool.endpoint.node import AsyncSocket
from rdstool.lab import RdsSocket, payload
from tests.interop.tcp.meeting import SETTINGS, Ground, Meeting, Role, Text, expected, told

SOCKETS, MESSAGES, SIZE = 8, 150, 3000
CUTS = 3
QUIET_S = 3.0
"""After this time without a message, and with nothing left to send on either side, no more is expected."""


class Traffic:
    """Messages both ways, on several sockets, while connections are cut."""

    def __init__(self, meeting: Meeting, here: list[AsyncSocket], there: list[RdsSocket]) -> None:
        self.meeting = meeting
        self.here, self.there = here, there
        self.texts: list[list[Text]] = [
            [(1000 * index + turn, SIZE + turn) for turn in range(MESSAGES)] for index in range(len(here))
        ]
        self.to_rdstool: list[list[tuple[int, str]]] = [[] for _ in here]
        self.to_kernel: list[list[tuple[int, str]]] = [[] for _ in here]
        self._came = asyncio.Condition()

    async def _read(self, index: int) -> None:
        while True:
            data, _ = await self.here[index].recvfrom()
            self.to_rdstool[index].append((len(data), data[:16].hex()))
            async with self._came:
                self._came.notify_all()

    async def _send(self, index: int) -> None:
        for seed, size in self.texts[index]:
            await self.here[index].sendto(payload(seed, size), self.there[index].end)
            await asyncio.sleep(0)

    async def _kernel_sends(self) -> None:
        rds = self.meeting.guest.rds
        for first in range(0, MESSAGES, 10):
            plan = [
                (sock, to.getsockname(), size, seed)
                for turn in range(first, first + 10)
                for sock, to, texts in zip(self.there, self.here, self.texts, strict=True)
                for seed, size in texts[turn : turn + 1]
            ]
            assert set(await self.meeting.ask(rds.send_many, plan, nonblocking=True)) == {None}

    async def _kernel_reads(self, sending: asyncio.Task[None]) -> None:
        rds = self.meeting.guest.rds
        wanted = len(self.there) * MESSAGES
        index = {sock.number: number for number, sock in enumerate(self.there)}
        found = 0
        while True:
            came = await self.meeting.ask(
                rds.receive_many, self.there, max(wanted - found, 1), timeout_s=QUIET_S if found < wanted else 0.0
            )
            found += len(came)
            for one in came:
                self.to_kernel[index[one.socket]] += told([one])
            if sending.done() and not came:
                return

    async def _arrived(self, number: int) -> None:
        async with self._came:
            await self._came.wait_for(lambda: sum(map(len, self.to_rdstool)) >= number)

    async def run(self, *cuts: object) -> None:
        """Have everything sent, cutting connections on the way, and wait until it has arrived or is lost."""
        readers = [asyncio.create_task(self._read(index)) for index in range(len(self.here))]
        senders = [asyncio.create_task(self._send(index)) for index in range(len(self.here))]
        kernel = asyncio.create_task(self._kernel_sends())

        async def all_sent() -> None:
            await asyncio.gather(*senders, kernel)
            for sock in self.here:
                await sock.drain()

        sending = asyncio.create_task(all_sent())
        reading = asyncio.create_task(self._kernel_reads(sending))
        total = len(self.here) * MESSAGES
        for number, cut in enumerate(cuts, start=1):
            await self._arrived(number * total // (len(cuts) + 1))
            await cut()  # type: ignore[operator]
        await reading
        try:
            async with asyncio.timeout(QUIET_S):
                await self._arrived(total)
        except TimeoutError:
            pass
        await asyncio.sleep(0)
        for task in readers:
            task.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


async def cut_traffic(ground: Ground, role: Role, paths: int) -> Traffic:
    """Run traffic while either side's system resets all connections, in turn."""
    async with ground.meeting(role, settings=replace(SETTINGS, paths=paths)) as meeting:
        await meeting.agree_on_paths(paths)
        here = [meeting.node.socket(0) for _ in range(SOCKETS)]
        there = await meeting.open_many(SOCKETS)
        traffic = Traffic(meeting, here, there)

        async def kernel_cuts() -> None:
            assert await meeting.ask(ground.guest.wire.cut, meeting.local) > 0

        async def host_cuts() -> None:
            command = ["ss", "--no-header", "--tcp", "--numeric", "--kill", "src", meeting.local]
            done = await meeting.ask(ground.network.run, command, capture_output=True, text=True)
            assert done.stdout

        await traffic.run(kernel_cuts, host_cuts, kernel_cuts)
        assert meeting.counter("conn_reset") >= CUTS
        return traffic


def wanted(traffic: Traffic) -> list[list[tuple[int, str]]]:
    return [[(size, payload(seed, size)[:16].hex()) for seed, size in texts] for texts in traffic.texts]


def is_whole(traffic: Traffic) -> bool:
    """Nothing is lost, doubled or reordered, on either side."""
    return traffic.to_rdstool == wanted(traffic) and traffic.to_kernel == [expected(own) for own in traffic.texts]


@pytest.mark.parametrize("role", ["smaller", "larger"])
async def test_nothing_is_lost_doubled_or_reordered_on_one_path(ground: Ground, role: Role) -> None:
    assert is_whole(await cut_traffic(ground, role, paths=1))


@pytest.mark.parametrize("role", ["smaller", "larger"])
async def test_nothing_is_lost_doubled_or_reordered_on_eight_paths(ground: Ground, role: Role, kernel: str) -> None:
    """Kernels before 7.0 exchange paths when they reconnect. Where they do, the capture shows it, and whose it was."""
    ground.may_have_errors = kernel != "newest"
    traffic = await cut_traffic(ground, role, paths=8)
    found = ground.findings()
    ends = f"{traffic.meeting.kernel} > {traffic.meeting.local}"
    other_ends = f"{traffic.meeting.local} > {traffic.meeting.kernel}"
    exchanged = [each for each in found if each.rule in {"RDS-DLV-008", "RDS-SEQ-006"} and ends in each.message]
    if kernel == "newest" or not exchanged:
        assert is_whole(traffic)
    # What rdstool sends is numbered, flagged and repeated as it should, whatever the kernel makes of it.
    own = [
        each for each in found if each.message.startswith(other_ends) and each.rule.startswith(("RDS-SEQ", "RDS-RTX"))
    ]
    assert own == []
