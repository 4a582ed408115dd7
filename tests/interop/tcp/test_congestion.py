"""Who sends faster than the other side reads is told so, and may go on when there is room."""

from __future__ import annotations

import errno

import pytest

from rdstool.endpoint.constants import MSG_DONTWAIT
from rdstool.lab import digest, payload
from rdstool.protocol import events
from rdstool.protocol.errors import WouldBlock
from tests.interop.tcp.meeting import Ground, Role, read

SIZE = 4000
RCVBUF = 40_000
MOST = 200
"""Messages that are tried: far more than there is room for."""


@pytest.mark.parametrize("role", ["smaller", "larger"])
async def test_a_kernel_is_held_back_by_rdstools_congestion_map(ground: Ground, role: Role) -> None:
    async with ground.meeting(role) as meeting:
        await meeting.agree_on_paths()
        here, there = meeting.node.socket(4000), await meeting.open()
        here.setsockopt(1, 8, RCVBUF)
        await meeting.ask(ground.guest.rds.monitor_congestion, there)
        rds = ground.guest.rds
        sent = 0
        refused = ""
        while not refused and sent < MOST:
            # One at a time: the map is on its way while the kernel sends.
            (result,) = await meeting.ask(rds.send_many, [(there, here.getsockname(), SIZE, sent)], nonblocking=True)
            refused = result or ""
            sent += not refused
        assert refused == "ENOBUFS"
        assert here._inner.congested
        assert (await meeting.ask(rds.counters))["cong_send_error"] == 1
        assert await read(here, sent) == [(SIZE, digest(payload(seed, SIZE))) for seed in range(sent)]
        assert not here._inner.congested
        # RDS_CMSG_CONG_UPDATE wakes the sender.
        assert (await meeting.ask(rds.receive, there)).control
        await meeting.ask(rds.send, there, here.getsockname(), size=SIZE, seed=999)
        assert await read(here, 1) == [(SIZE, digest(payload(999, SIZE)))]


@pytest.mark.parametrize("role", ["smaller", "larger"])
async def test_rdstool_is_held_back_by_a_kernels_congestion_map(ground: Ground, role: Role) -> None:
    async with ground.meeting(role) as meeting:
        here, there = meeting.node.socket(4000), await meeting.open(rcvbuf=RCVBUF)
        sent = 0
        refused: WouldBlock | None = None
        while refused is None and sent < MOST:
            try:
                await here.sendmsg(payload(sent, SIZE), there.end, flags=MSG_DONTWAIT)
            except WouldBlock as reason:
                refused = reason
            else:
                sent += 1
                await here.drain()
        assert refused is not None
        assert refused.errno == errno.ENOBUFS
        assert meeting.counter("cong_send_error") == 1
        before = len(meeting.happened(events.CongestionChanged))
        came = await meeting.ask(ground.guest.rds.receive_many, [there], sent)
        assert [one.sha256 for one in came] == [digest(payload(seed, SIZE)) for seed in range(sent)]
        await here.sendto(payload(999, SIZE), there.end)
        assert len(meeting.happened(events.CongestionChanged)) > before
        assert (await meeting.ask(ground.guest.rds.receive, there)).sha256 == digest(payload(999, SIZE))
