"""Where nothing is lost nothing waits for a timer, however large the window is and whatever is posted."""

from __future__ import annotations

from random import Random

import pytest

from rdstool.protocol.ib.memory import Access
from rdstool.transport.ib.provider import Segment, Status
from rdstool.transport.ib.roce.connection import RoceConnection
from tests.unit.transport.ib.driving import Pair, sent, statuses

ALL = Access.LOCAL_WRITE | Access.REMOTE_WRITE | Access.REMOTE_READ | Access.REMOTE_ATOMIC
LONGEST = 50_000
SIZES = (1, 64, 1000, 1100, 4144, 9000, LONGEST)
WINDOWS = (4, 5, 8, 12, 16, 20, 28, 32, 128)
MOST = 400
"""Requests of a run, at most."""


def post(chance: Random, connection: RoceConnection, number: int, lkey: int, rkey: int) -> None:
    """One request of any kind."""
    fence, size = chance.random() < 0.3, chance.choice(SIZES)
    kind = chance.choices(("send", "write", "read", "add"), (12, 3, 3, 2))[0]
    match kind:
        case "send":
            connection.post_send(number, bytes(size), fence=fence)
        case "write":
            connection.post_write(number, bytes(size), 0, rkey, fence=fence)
        case "read":
            connection.post_read(number, Segment(0, size, lkey), 0, rkey, fence=fence)
        case _:
            connection.post_fetch_add(number, 0, rkey, 1, fence=fence)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("seed", range(20))
def test_everything_is_done_without_time(seed: int, window: int) -> None:
    chance, pair = Random(seed), Pair()
    active, passive = pair.connect()
    active.requester._window = window
    passive.post_receive(0, LONGEST, MOST)
    here, there = (device.register(bytearray(LONGEST), ALL) for device in (pair.active, pair.passive))
    count = 0
    while count < MOST - 30 and chance.random() < 0.9:
        for _ in range(chance.randrange(1, 30)):
            post(chance, active, count, here.lkey, there.rkey)
            count += 1
        for _ in range(chance.randrange(4)):
            pair.deliver(pair.active, pair.passive, sent(pair.active, pair.now))
            pair.deliver(pair.passive, pair.active, sent(pair.passive, pair.now))
    pair.settle()
    assert statuses(pair.active) == [(number, Status.SUCCESS) for number in range(count)]
