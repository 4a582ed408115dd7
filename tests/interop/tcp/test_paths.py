"""How many paths rdstool and a kernel agree on, and that messages use them."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.interop.tcp.meeting import SETTINGS, Ground, expected, read, send, told

SOCKETS, MESSAGES = 16, 20


@pytest.mark.parametrize("paths", [1, 2, 4, 8])
async def test_the_smaller_number_of_paths_is_used(ground: Ground, paths: int) -> None:
    for role in ("smaller", "larger"):
        async with ground.meeting(role, settings=replace(SETTINGS, paths=paths)) as meeting:  # type: ignore[arg-type]
            await meeting.agree_on_paths(paths)
            here = [meeting.node.socket(0) for _ in range(SOCKETS)]
            there = await meeting.open_many(SOCKETS)
            texts = [(seed, 500) for seed in range(MESSAGES)]
            plan = [
                (sock, to.getsockname(), size, seed)
                for seed, size in texts
                for sock, to in zip(there, here, strict=True)
            ]
            _, came, *got = await asyncio.gather(
                meeting.ask(ground.guest.rds.send_many, plan, nonblocking=True),
                meeting.ask(ground.guest.rds.receive_many, there, SOCKETS * MESSAGES),
                *(read(sock, MESSAGES) for sock in here),
                *(send(sock, to, texts) for sock, to in zip(here, there, strict=True)),
            )
            assert all(each == expected(texts) for each in got[:SOCKETS])
            for sock in there:
                assert told([one for one in came if one.socket == sock.number]) == expected(texts)
            assert meeting.connection.npaths == paths
            connections = await meeting.ask(ground.guest.wire.connections)
            assert len([ends for ends in connections if any(meeting.local in end for end in ends)]) == paths
            used = [path.index for path in meeting.connection.paths if path.next_tx > 1]
            assert len(used) > 1 or paths == 1
            await meeting.ask(ground.guest.rds.close, *there)
