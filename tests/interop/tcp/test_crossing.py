"""Both sides dial anew at the same time: one connection is agreed on, and no message is lost, doubled or reordered."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rdstool.protocol.events import ConnectionRefused, PathDown
from rdstool.protocol.reasons import DropReason, RefuseReason
from tests.interop.tcp.meeting import SETTINGS, Ground, Meeting, Role, exchange, expected

DELAY = ("delay", "2s")
"""So long are the kernel's packets on their way: before rdstool's dial is answered, the kernel has dialled too."""
MESSAGES = 5
ATTEMPTS = 5
"""A guest that is too slow for once to dial meanwhile does so another time."""


def crossings(meeting: Meeting) -> int:
    """How often the side with the larger address has dialled, which is refused, or was told so."""
    refused = [each for each in meeting.happened(ConnectionRefused) if each.reason is RefuseReason.LARGER_SIDE]
    told = [each for each in meeting.happened(PathDown) if each.reason is DropReason.LARGER_SIDE_DIALLED]
    return len(refused) + len(told)


@pytest.mark.parametrize("kernel", ["newest"], indirect=True)
@pytest.mark.parametrize("role", ["smaller", "larger"])
async def test_dials_that_cross_after_a_cut_cost_no_message(ground: Ground, role: Role) -> None:
    """Kernels before 7.0 lose messages themselves when connections are cut."""
    wire = ground.guest.wire
    async with ground.meeting(role, settings=replace(SETTINGS, paths=1)) as meeting:
        await meeting.agree_on_paths(1)
        here, there = [meeting.node.socket(0)], await meeting.open_many(1)
        before = crossings(meeting)
        cut = ["ss", "--no-header", "--tcp", "--numeric", "--kill", "src", meeting.local]
        for attempt in range(ATTEMPTS):
            delayed = wire.netem(*DELAY)
            await meeting.ask(delayed.__enter__)
            assert (await meeting.ask(ground.network.run, cut, capture_output=True, text=True)).stdout
            texts = [[(1000 * attempt + turn, 100 * turn) for turn in range(MESSAGES)]]
            got, came = await exchange(meeting, here, there, texts)
            await meeting.ask(delayed.__exit__, None, None, None)
            assert got == came == [expected(own) for own in texts]
            if crossings(meeting) > before:
                break
        assert crossings(meeting) > before
