"""Peers that are not there, not yet, or not any more."""

from __future__ import annotations

from itertools import count

from rdstool.endpoint.node import AsyncSocket
from rdstool.lab import RdsSocket, digest, payload
from rdstool.protocol import events
from rdstool.protocol.states import PathState
from tests.interop.tcp.meeting import Ground, Meeting, expected, read, send

MARKER = 8
MARKER_S = 5.0
"""Bytes of a message that only shows that there is a way, and how long it is waited for before the next."""


async def test_an_address_that_nobody_has_is_tried_again_and_again(ground: Ground) -> None:
    async with ground.meeting("smaller") as meeting:
        sock = meeting.node.socket(4000)
        await sock.sendmsg(b"hello", (ground.network.nobody, 4000))
        await meeting.until(lambda: len(meeting.happened(events.ConnectFailed)) >= 2)
        failed = meeting.happened(events.ConnectFailed)
        assert {each.peer for each in failed} == {ground.network.nobody}
        assert [each.attempt for each in failed[:2]] == [1, 2]
        assert "route" in failed[0].detail
        assert sock.cancel_sent_to((ground.network.nobody, 4000)) == 1


async def test_a_kernel_without_rds_refuses_and_is_reached_when_it_has_it(ground: Ground) -> None:
    guest = ground.guest
    async with ground.meeting("smaller") as meeting:
        await meeting.ask(guest.unload_modules, "rds_tcp", "rds")
        sock = meeting.node.socket(4000)
        await sock.sendto(b"", (meeting.kernel, 0))
        await meeting.until(lambda: len(meeting.happened(events.ConnectFailed)) >= 3)
        assert {each.detail for each in meeting.happened(events.ConnectFailed)} == {"Connection refused"}
        await meeting.ask(guest.load_modules, "rds_tcp")
        assert await sock.recvfrom() == (b"", (meeting.kernel, 0))


async def test_messages_that_are_cancelled_before_the_peer_comes_are_not_sent(ground: Ground) -> None:
    rds = ground.guest.rds
    for role in ("smaller", "larger"):
        local = ground.take_address(role)
        there = rds.open(ground.network.guest)
        rds.send(there, (local, 4000), size=100, seed=1, flags=["nonblocking"])
        rds.send(there, (local, 4001), size=100, seed=2, flags=["nonblocking"])
        rds.cancel_sent_to(there, (local, 4000))
        async with ground.meeting(role, address=local) as meeting:
            cancelled, kept = meeting.node.socket(4000), meeting.node.socket(4001)
            await meeting.ask(rds.send, there, (local, 4000), size=100, seed=3, flags=["nonblocking"])
            assert await read(kept, 1) == expected([(2, 100)])
            assert await read(cancelled, 1) == expected([(3, 100)])
            assert not cancelled._inner.received


async def test_what_rdstool_cancels_while_the_link_is_down_is_not_sent(ground: Ground) -> None:
    async with ground.meeting("smaller") as meeting:
        here, there = meeting.node.socket(4000), await meeting.open()
        wire = ground.guest.wire.down()
        await meeting.ask(wire.__enter__)
        for seed in range(10):
            await here.sendto(payload(seed, 100), there.end)
        assert here.cancel_sent_to(there.end) == 10
        assert here.unacknowledged == 0
        await here.sendto(payload(99, 100), there.end)
        await meeting.ask(wire.__exit__, None, None, None)
        came = await meeting.ask(ground.guest.rds.receive, there)
        assert came.sha256 == digest(payload(99, 100))
        await here.drain()
        await meeting.count_alike()


async def test_a_kernel_that_is_killed_and_booted_again_is_talked_to_again(ground: Ground) -> None:
    guest = ground.guest
    local = ground.take_address("larger")
    ground.may_have_errors = ground.learns_paths_late
    async with ground.meeting("smaller") as one, ground.meeting("larger", address=local) as other:
        meetings = one, other
        for life in range(2):
            for meeting in meetings:
                here, there = meeting.node.socket(4000 + life), await meeting.open()
                if life and ground.learns_paths_late:
                    await _settle(meeting, here, there)
                texts = [(seed, 1000) for seed in range(life * 100, life * 100 + 20)]
                await send(here, there, texts)
                came = await meeting.ask(guest.rds.receive_many, [there], len(texts))
                assert [(one.length, one.sha256) for one in came] == expected(texts)
                await meeting.ask(
                    guest.rds.send_many, [(there, here.getsockname(), size, seed) for seed, size in texts]
                )
                assert await read(here, len(texts)) == expected(texts)
                await here.drain()
            if not life:
                up = {meeting: _paths_up(meeting) for meeting in meetings}
                await one.ask(guest.reboot)
                await one.ask(guest.allow_buffers, 8 << 20)
                # What is written to a connection that died unnoticed may be given up with it (§5.5).
                for meeting in meetings:
                    await _notice(meeting, up[meeting])
        for meeting in meetings:
            told = meeting.connection.peer_gen
            restarts = meeting.counter("peer_restarts")
            # Kernels before 7.0 have no generation number to tell it by.
            assert restarts == (1 if told else 0)
            assert meeting.connection.paths[0].state is PathState.UP


async def _settle(meeting: Meeting, here: AsyncSocket, there: RdsSocket) -> None:
    """Send messages until one arrives, in either direction.

    A kernel that does not know yet how many paths there are resets connections, with what it has acknowledged on them.
    """
    rds = meeting.guest.rds
    for seed in count():
        await here.sendto(payload(seed, MARKER), there.end)
        came = [each.sha256 for each in await meeting.ask(rds.receive_many, [there], seed + 1, timeout_s=MARKER_S)]
        if digest(payload(seed, MARKER)) in came:
            break
    for seed in count():
        await meeting.ask(rds.send, there, here.getsockname(), size=MARKER, seed=seed)
        if (MARKER, digest(payload(seed, MARKER))) in await read(here, seed + 1, MARKER_S):
            return


def _paths_up(meeting: Meeting) -> set[int]:
    return {path.index for path in meeting.connection.paths if path.state is PathState.UP}


async def _notice(meeting: Meeting, up: set[int]) -> None:
    """Wait until all these paths are seen to have ended."""
    await meeting.until(lambda: up <= {event.path for event in meeting.happened(events.PathDown)})
