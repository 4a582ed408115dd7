"""Loss, duplication, reordering and corruption on the wire are TCP's to mend: RDS messages arrive as they were sent."""

from __future__ import annotations

import asyncio

import pytest

from tests.interop.tcp.meeting import Ground, expected, read, send, told

FAULTS = {
    "loss": ("loss", "3%"),
    "duplication": ("duplicate", "20%"),
    "reordering": ("delay", "5ms", "reorder", "30%", "50%"),
    "corruption": ("corrupt", "2%"),
}
MESSAGES = 60


@pytest.mark.parametrize("role", ["smaller", "larger"])
async def test_messages_arrive_as_they_were_sent(ground: Ground, role: str) -> None:
    guest = ground.guest
    async with ground.meeting(role) as meeting:  # type: ignore[arg-type]
        await meeting.agree_on_paths()
        resets = meeting.counter("conn_reset")
        for number, fault in enumerate(FAULTS.values()):
            here, there = [meeting.node.socket(0) for _ in range(4)], await meeting.open_many(4)
            texts = [(seed, 300 * (seed % 20)) for seed in range(1000 * number, 1000 * number + MESSAGES)]
            plan = [
                (sock, to.getsockname(), size, seed)
                for seed, size in texts
                for sock, to in zip(there, here, strict=True)
            ]
            context = guest.wire.netem(*fault)
            await meeting.ask(context.__enter__)
            _, came, *got = await asyncio.gather(
                meeting.ask(guest.rds.send_many, plan, nonblocking=True),
                meeting.ask(guest.rds.receive_many, there, 4 * MESSAGES, timeout_s=80),
                *(read(sock, MESSAGES) for sock in here),
                *(send(sock, to, texts) for sock, to in zip(here, there, strict=True)),
            )
            await meeting.ask(context.__exit__, None, None, None)
            assert all(each == expected(texts) for each in got[:4])
            for sock in there:
                assert told([one for one in came if one.socket == sock.number]) == expected(texts)
            await meeting.ask(guest.rds.close, *there)
            for sock in here:
                sock.close()
        assert meeting.counter("conn_reset") == resets
