"""TCP connections that are cut in the middle of traffic cost no message.

Kernels before 7.0 lose, double and reorder messages themselves then: they give up what they have acknowledged and not
read, and exchange paths. With them rdstool is held to its own part, and what the kernel did goes into the report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.interop.tcp.cut_traffic import MESSAGES, SOCKETS, Arrival, Traffic, Turns, amiss
from tests.interop.tcp.meeting import SETTINGS, Ground, Role

Note = Callable[[str, object], None]


async def cut_traffic(ground: Ground, role: Role, paths: int) -> Traffic:
    """Run traffic while either side's system resets all connections, in turn."""
    async with ground.meeting(role, settings=replace(SETTINGS, paths=paths)) as meeting:
        await meeting.agree_on_paths(paths)
        here = [meeting.node.socket(0) for _ in range(SOCKETS)]
        there = await meeting.open_many(SOCKETS)
        traffic = Traffic(meeting, here, there)

        async def kernel_cuts() -> bool:
            return await meeting.ask(ground.guest.wire.cut, meeting.local) > 0

        async def host_cuts() -> bool:
            command = ["ss", "--no-header", "--tcp", "--numeric", "--kill", "src", meeting.local]
            done = await meeting.ask(ground.network.run, command, capture_output=True, text=True)
            return bool(done.stdout)

        await traffic.run(kernel_cuts, host_cuts, kernel_cuts)
        return traffic


@pytest.mark.parametrize("paths", [1, 8], ids=["one path", "eight paths"])
@pytest.mark.parametrize("role", ["smaller", "larger"])
async def test_nothing_is_lost_doubled_or_reordered(
    ground: Ground, role: Role, paths: int, record_property: Note
) -> None:
    ground.may_have_errors = ground.learns_paths_late
    traffic = await cut_traffic(ground, role, paths)
    if not ground.learns_paths_late:
        assert not amiss(traffic.to_rdstool), amiss(traffic.to_rdstool)
        assert not amiss(traffic.to_kernel), amiss(traffic.to_kernel)
        return
    record_property("of the kernel's messages", amiss(traffic.to_rdstool))
    record_property("of rdstool's messages", amiss(traffic.to_kernel))
    (recording,) = ground.recorded
    wrong = misdelivered(traffic.arrivals(recording), traffic.to_rdstool)
    assert not wrong, wrong
    # All is sent, in order, and numbered, flagged and repeated as it should, whatever the kernel makes of it.
    found = ground.findings()
    unsent = amiss(traffic.sent(ground.capture.path))
    assert not unsent, unsent
    from_rdstool = f"{traffic.meeting.local} > {traffic.meeting.kernel}"
    rules = "RDS-SEQ", "RDS-RTX"
    wrong = "\n".join(
        str(each) for each in found if each.message.startswith(from_rdstool) and each.rule.startswith(rules)
    )
    assert not wrong, wrong


def misdelivered(arrivals: list[list[Arrival]], delivered: list[Turns]) -> str:
    """Where rdstool has not handed on what came to it over TCP, once and in order; a line for each such socket."""
    moved = moved_sockets(arrivals)
    found = []
    for index, (came, turns) in enumerate(zip(arrivals, delivered, strict=True)):
        if index not in moved:
            # The kernel repeats on the same path what was not acknowledged: nothing is missing, nothing comes twice.
            if turns != list(range(MESSAGES)):
                found.append(f"of {index}, which kept its path: {amiss([turns])}")
            continue
        rest = iter([each.turn for each in came])
        if not all(turn in rest for turn in turns):
            found.append(f"socket {index}: {turns} did not come in this order, but {[each.turn for each in came]}")
        due = Counter(each.turn for each in came if not each.flagged)
        if missing := due - Counter(turns):
            found.append(f"socket {index}: not handed on, though not flagged: {sorted(missing)}")
    return "\n".join(found)


def moved_sockets(arrivals: list[list[Arrival]]) -> set[int]:
    """Sockets whose messages came on a path that served more than one of the kernel's: a socket stays on one there."""
    partners: dict[int, set[int]] = {}
    for index, came in enumerate(arrivals):
        for each in came:
            partners.setdefault(each.path, set()).add(index)
    exchanged = {path for came in arrivals if len(paths := {each.path for each in came}) > 1 for path in paths}
    return {index for path in exchanged for index in partners[path]}


def test_only_sockets_that_share_a_path_with_one_that_moved_may_miss_messages() -> None:
    def came(*paths: int) -> list[Arrival]:
        return [Arrival(turn, path, False) for turn, path in enumerate(paths)]

    assert moved_sockets([came(0, 0), came(1, 2), came(2), came(3, 3), came()]) == {1, 2}
    whole = list(range(MESSAGES))
    assert not misdelivered([came(0)], [whole])
    assert "lost [0]" in misdelivered([came(0)], [whole[1:]])
    assert "did not come in this order" in misdelivered([came(0, 1)], [[1, 0]])
    assert "not handed on, though not flagged: [1]" in misdelivered([came(0, 1)], [[0]])
    assert not misdelivered([came(0, 1)], [[0, 1]])
