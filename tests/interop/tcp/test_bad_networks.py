"""Loss, duplication, reordering and corruption on the wire are TCP's to mend: RDS messages arrive as they were sent."""

from __future__ import annotations

import pytest

from tests.interop.tcp.meeting import Ground, Role, exchange, expected

FAULTS = {
    "loss": ("loss", "3%"),
    "duplication": ("duplicate", "20%"),
    "reordering": ("delay", "5ms", "reorder", "30%", "50%"),
}
MESSAGES = 60


@pytest.mark.parametrize("role", ["smaller", "larger"])
async def test_messages_arrive_as_they_were_sent(ground: Ground, role: Role) -> None:
    await _messages_arrive(ground, role, *FAULTS.values())


@pytest.mark.parametrize("role", ["smaller", "larger"])
async def test_messages_arrive_over_a_network_that_changes_bits(ground: Ground, role: Role) -> None:
    ground.corrupted = True
    await _messages_arrive(ground, role, ("corrupt", "2%"))


async def _messages_arrive(ground: Ground, role: Role, *faults: tuple[str, ...]) -> None:
    guest = ground.guest
    async with ground.meeting(role) as meeting:
        await meeting.agree_on_paths()
        resets = meeting.counter("conn_reset")
        for number, fault in enumerate(faults):
            here, there = [meeting.node.socket(0) for _ in range(4)], await meeting.open_many(4)
            texts = [
                [(10_000 * number + 1000 * index + turn, 300 * (turn % 20)) for turn in range(MESSAGES)]
                for index in range(len(here))
            ]
            context = guest.wire.netem(*fault)
            await meeting.ask(context.__enter__)
            got, came = await exchange(meeting, here, there, texts)
            await meeting.ask(context.__exit__, None, None, None)
            assert got == came == [expected(own) for own in texts]
            await meeting.ask(guest.rds.close, *there)
            for own in here:
                own.close()
        assert meeting.counter("conn_reset") == resets
