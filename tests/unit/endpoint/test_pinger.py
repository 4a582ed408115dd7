"""A run of pings, as a program has it: what ends it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import rdstool
from rdstool.endpoint.pinger import Outcome, Pinger
from tests.kit.loopback import own_addresses

TIMEOUT_S = 0.01


async def test_a_listener_that_fails_ends_a_run_of_which_many_pings_are_lost_at_once() -> None:
    small, large = own_addresses(2)
    loop = asyncio.get_running_loop()
    unhandled: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: unhandled.append(context))

    def hear(_: Outcome) -> None:
        until = loop.time() + TIMEOUT_S  # by then all others are lost, too
        while loop.time() < until:
            pass
        raise BrokenPipeError

    async with rdstool.Node(small) as node:
        with pytest.raises(ExceptionGroup) as ended:
            await Pinger(node, large, hear, interval_s=0, timeout_s=TIMEOUT_S).run()
    assert ended.group_contains(BrokenPipeError)
    assert unhandled == []
