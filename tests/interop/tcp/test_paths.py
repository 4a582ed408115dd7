"""How many paths rdstool and a kernel agree on, and that messages use them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.interop.tcp.meeting import SETTINGS, Ground, exchange, expected

SOCKETS, MESSAGES = 16, 20


@pytest.mark.parametrize("paths", [1, 2, 4, 8])
async def test_the_smaller_number_of_paths_is_used(ground: Ground, paths: int) -> None:
    for role in ("smaller", "larger"):
        async with ground.meeting(role, settings=replace(SETTINGS, paths=paths)) as meeting:
            await meeting.agree_on_paths(paths)
            here = [meeting.node.socket(0) for _ in range(SOCKETS)]
            there = await meeting.open_many(SOCKETS)
            texts = [[(1000 * index + turn, 500) for turn in range(MESSAGES)] for index in range(SOCKETS)]
            got, came = await exchange(meeting, here, there, texts)
            assert got == came == [expected(own) for own in texts]
            assert meeting.connection.npaths == paths
            connections = await meeting.ask(ground.guest.wire.connections)
            assert len([ends for ends in connections if any(meeting.local in end for end in ends)]) == paths
            used = [path.index for path in meeting.connection.paths if path.next_tx > 1]
            assert len(used) > 1 or paths == 1
            await meeting.ask(ground.guest.rds.close, *there)
