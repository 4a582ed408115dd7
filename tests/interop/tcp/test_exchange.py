"""Messages between rdstool and a kernel arrive whole, once and in order."""

from __future__ import annotations

import pytest

from tests.interop.tcp.meeting import MIB, Ground, Role, exchange, expected, read, send, told

SIZES = [0, 1, 47, 48, 4096, 65_536, MIB]
TO_KERNEL = list(enumerate(SIZES, start=1))
TO_RDSTOOL = list(enumerate(SIZES, start=100))
ROLES: tuple[Role, ...] = ("smaller", "larger")


@pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "ipv6"])
async def test_messages_of_all_sizes_whoever_connects_and_whoever_speaks_first(ground: Ground, ipv6: bool) -> None:
    for role in ROLES:
        for kernel_first in (False, True):
            async with ground.meeting(role, ipv6=ipv6) as meeting:
                here, there = meeting.node.socket(4000), await meeting.open()
                plan = [(there, here.getsockname(), size, seed) for seed, size in TO_RDSTOOL]

                async def kernel_speaks() -> None:
                    results = await meeting.ask(ground.guest.rds.send_many, plan)  # noqa: B023
                    assert results == [None] * len(SIZES)
                    assert await read(here, len(SIZES)) == expected(TO_RDSTOOL)  # noqa: B023

                async def rdstool_speaks() -> None:
                    await send(here, there, TO_KERNEL)  # noqa: B023
                    came = await meeting.ask(ground.guest.rds.receive_many, [there], len(SIZES))  # noqa: B023
                    assert told(came) == expected(TO_KERNEL)

                turns = [rdstool_speaks, kernel_speaks]
                for speak in reversed(turns) if kernel_first else turns:
                    await speak()
                await here.drain()
                await meeting.count_alike()
                await meeting.ask(ground.guest.rds.close, there)


@pytest.mark.parametrize("role", ROLES)
async def test_ten_thousand_messages_over_32_sockets_both_ways(ground: Ground, role: Role) -> None:
    number, each = 32, 10_000 // 32 + 1
    async with ground.meeting(role) as meeting:
        await meeting.agree_on_paths()
        here = [meeting.node.socket(0) for _ in range(number)]
        there = await meeting.open_many(number)
        known = {name: meeting.counter(name) for name in ("recv_delivered", "recv_queued", "conn_reset")}
        before = await meeting.ask(ground.guest.rds.counters)
        texts = [[(1 + 1000 * index + turn, 1 + 37 * turn % 700) for turn in range(each)] for index in range(number)]
        got, came = await exchange(meeting, here, there, texts)
        assert got == came == [expected(own) for own in texts]
        for sock in here:
            await sock.drain()
        after = await meeting.ask(ground.guest.rds.counters)
        grown = {name: after[name] - before[name] for name in after}
        assert grown["recv_delivered"] == grown["recv_queued"] == number * each
        told_of = {name: meeting.counter(name) - known[name] for name in known}
        assert told_of["recv_delivered"] == told_of["recv_queued"] == number * each
        assert grown["conn_reset"] == told_of["conn_reset"] == 0
        # A knock that the kernel overtakes is counted as a reset, and takes its probe with it.
        if role == "smaller":
            of_sockets = 1
            of_node = meeting.counter("send_pong") - meeting.counter("recv_ping")
            assert after["recv_ping"] == of_sockets + of_node
        assert meeting.paths_up() == 8


async def test_pings_are_answered_both_ways(ground: Ground) -> None:
    for role in ROLES:
        async with ground.meeting(role) as meeting:
            here, there = meeting.node.socket(0), await meeting.open()
            for _ in range(20):
                await here.sendto(b"", (meeting.kernel, 0))
                assert await here.recvfrom() == (b"", (meeting.kernel, 0))
                await meeting.ask(ground.guest.rds.send, there, (meeting.local, 0))
                pong = await meeting.ask(ground.guest.rds.receive, there)
                assert (pong.source, pong.length) == ((meeting.local, 0), 0)
