"""Runs of rds-stress between two sides of rdstool, over real TCP on loopback."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

import rdstool
from dissectors.wire.stress import MESSAGE_BYTES, STRESS_MESSAGE, RdmaMode, RdmaOp, StressMessage
from rdstool.errors import TransportError
from rdstool.protocol import events
from rdstool.protocol.control import RdmaDest
from rdstool.protocol.kinds import Transport
from rdstool.stress.control import Doorway, dial
from rdstool.stress.counters import Counters
from rdstool.stress.failure import StressError
from rdstool.stress.parameters import Parameters, RdmaParameters
from rdstool.stress.rdma import Rdma
from rdstool.stress.run import Run, Side
from rdstool.stress.traffic import Pair
from rdstool.stress.watch import Interval, Summary
from tests.kit.loopback import own_addresses
from tests.unit.stress.runs import RDMA_RUNS

PATIENCE_S = 60.0


async def both_sides(
    parameters: Parameters, wait_for: int, *, larger_active: bool = False
) -> tuple[Summary | None, Summary | None]:
    """Run until the active side has ``wait_for`` acks; gives the summaries of the active and the passive side."""
    active, passive = own_addresses(2)
    if larger_active:
        active, passive = passive, active
    doorway = await Doorway.open(passive, parameters.port)

    async def answer() -> Summary | None:
        control = await doorway.control()
        with control:
            asked, peer = await control.asked()
            assert (asked, peer) == (parameters, active)
            async with rdstool.Node(passive, options=options(asked)) as node:
                run = Run(node, control, Side(passive, peer, active=False, patience_s=PATIENCE_S), asked)
                await run.whole(lambda _interval: None)
                return run.summary

    async def ask() -> Summary | None:
        async with rdstool.Node(active, options=options(parameters)) as node:
            with await dial(passive, parameters.port, active, 0) as control:
                await control.offer(parameters)
                run = Run(node, control, Side(active, passive, active=True, patience_s=PATIENCE_S), parameters)
                job = asyncio.create_task(run.whole(lambda _interval: None))
                while not job.done() and (run.summary is None or run.summary.interval.acks_received < wait_for):
                    await asyncio.wait({job}, timeout=0.01)
                job.cancel()
                await asyncio.wait({job})
                if not job.cancelled():
                    job.result()
                return run.summary

    passive_job = asyncio.create_task(answer())
    return await ask(), await passive_job


def options(parameters: Parameters) -> rdstool.NodeOptions:
    settings = rdstool.Settings(sndbuf=parameters.buffer_bytes, rcvbuf=parameters.buffer_bytes)
    return rdstool.NodeOptions(settings, transport=Transport.TCP if parameters.rdma is None else Transport.IB)


@pytest.mark.parametrize("larger_active", [False, True], ids=["smaller active", "larger active"])
@pytest.mark.parametrize(
    "parameters",
    [
        pytest.param(Parameters(), id="defaults"),
        pytest.param(Parameters(tasks=3, depth=4, request_bytes=5000, ack_bytes=700, verify=True), id="verified"),
        pytest.param(Parameters(simplex=True, depth=2, request_bytes=63), id="one way"),
        pytest.param(Parameters(request_bytes=1 << 20, depth=2, verify=True, tos=3), id="largest"),
    ],
)
async def test_both_sides_run_and_agree(parameters: Parameters, larger_active: bool) -> None:
    active, passive = await both_sides(parameters, 40, larger_active=larger_active)
    assert active is not None
    assert passive is not None
    one, other = active.interval, passive.interval
    assert one.acks_received >= 40
    assert other.requests_received >= 40
    assert (one.requests_received > 0) == (not parameters.simplex)
    assert active.p50_us is not None
    assert active.p99_us is not None
    assert active.longest_us is not None
    assert 0 < active.p50_us <= active.p99_us <= active.longest_us
    if parameters.simplex:
        unmeasured = other.send_us, other.round_trip_us, passive.p50_us, passive.p99_us, passive.longest_us
        assert unmeasured == (None,) * 5


@pytest.mark.parametrize("rdma", RDMA_RUNS.values(), ids=RDMA_RUNS)
async def test_memory_of_both_sides_is_read_and_written_and_compared(rdma: RdmaParameters) -> None:
    parameters = Parameters(tasks=2, depth=3, verify=True, rdma=rdma)
    active, passive = await both_sides(parameters, 150)
    for summary in (active, passive):
        assert summary is not None
        assert summary.interval.rdma_bytes_in > 0
        assert summary.interval.rdma_bytes_out > 0


@pytest.mark.parametrize("peer", ["ends", "stays"])
async def test_rdma_that_fails_is_a_failure_unless_the_peer_ends_the_run(
    peer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = Parameters(simplex=True, rdma=RdmaParameters(64))
    here, there = own_addresses(2)
    doorway = await Doorway.open(there, parameters.port)
    async with (
        rdstool.Node(here, options=options(parameters)) as active,
        rdstool.Node(there, options=options(parameters)) as passive,
    ):
        with await dial(there, parameters.port, here, 0) as asks, await doorway.control() as answers:
            run = Run(passive, answers, Side(there, here, active=False, patience_s=PATIENCE_S), parameters)
            job = asyncio.create_task(run.whole(lambda _interval: None))
            await asks.go(active=True)
            broken = asyncio.Event()
            passive.on_event(lambda event: broken.set() if isinstance(event, events.PathDown) else None)
            # It asks for RDMA from memory that was never offered.
            (port,) = parameters.ports()
            client = active.socket(port)
            message, _ = Pair((here, port), (there, port), parameters).next_request(bytes(1024 - MESSAGE_BYTES))
            asked = StressMessage(rdma_op=RdmaOp.READ, rdma_key=1 << 32 | 7, rdma_size=64, rdma_vector=1)
            rest = STRESS_MESSAGE.table["rdma_op"].offset
            request = message[:rest] + STRESS_MESSAGE.pack(asked)[rest:] + message[MESSAGE_BYTES:]
            if peer == "stays":
                monkeypatch.setattr("rdstool.stress.run.END_S", 0.01)
            await client.sendto(request, (there, port))
            await asyncio.wait_for(broken.wait(), PATIENCE_S)
            if peer == "stays":
                with pytest.raises(StressError, match="RDMA read failed: remote_error"):
                    await asyncio.wait_for(job, PATIENCE_S)
                return
            for _ in range(100):
                await asyncio.sleep(0)  # the run has noticed by then
            asks.close()
            await asyncio.wait_for(job, PATIENCE_S)


@pytest.mark.parametrize("kind", ["written", "read"])
async def test_memory_with_other_bytes_than_agreed_ends_a_run(kind: str) -> None:
    here, there = own_addresses(2)
    made = rdstool.NodeOptions(transport=Transport.IB)
    mode = RdmaMode.WRITE_ONLY if kind == "written" else RdmaMode.READ_ONLY
    run = RdmaParameters(64, mode=mode)
    async with rdstool.Node(here, options=made) as one, rdstool.Node(there, options=made) as other:
        client, server = one.socket(4001), other.socket(4001)
        asks = Rdma(client, run, 1, Counters(), 1, verify=True)
        answers = Rdma(server, run, 1, Counters(), 1, verify=True)
        changed = asyncio.Event()
        answers.changed = changed.set
        # Only the second request is of the mode: the first one is what a task with this number begins with.
        for seq in (11, 12):
            changed.clear()
            rest, control = asks.request(seq, 0)
            await client.sendmsg(b"x" * 19 + rest, server.getsockname(), control=control)
            request = await asyncio.wait_for(server.recvmsg(), PATIENCE_S)
            header = STRESS_MESSAGE.unpack_from(request.data)
            if seq == 12:
                header = replace(header, rdma_pattern=1)
            answers.request_came(0, header, request.control)
            rest, control = answers.ack(0)
            await server.sendmsg(b"x" * 19 + rest, client.getsockname(), control=control)
            await asyncio.wait_for(client.recvmsg(), PATIENCE_S)
            await asyncio.wait_for(changed.wait(), PATIENCE_S)
            if seq == 11:
                asks.ack_came(0)
                answers.check()
                assert not answers.busy(0)
        with pytest.raises(StressError, match="is damaged, first at byte"):
            asks.ack_came(0) if kind == "written" else answers.check()


def test_a_request_for_other_rdma_than_agreed_ends_a_run() -> None:
    socket: Any = None
    rdma = Rdma(socket, RdmaParameters(64), 1, Counters(), 0, verify=False)
    for header in (StressMessage(rdma_op=1, rdma_size=65, rdma_vector=1), StressMessage(rdma_op=3, rdma_size=64)):
        with pytest.raises(StressError, match=r"a request asks for RDMA .* 1 times 64 were agreed"):
            rdma.request_came(0, header, [RdmaDest(7)])


async def test_reports_come_each_second_until_the_time_is_over() -> None:
    parameters = Parameters(seconds=2)
    active, passive = own_addresses(2)
    doorway = await Doorway.open(passive, parameters.port)
    reports: list[Interval] = []

    async def answer() -> None:
        with await doorway.control() as control:
            asked, peer = await control.asked()
            async with rdstool.Node(passive) as node:
                side = Side(passive, peer, active=False, patience_s=PATIENCE_S)
                await Run(node, control, side, asked).whole(lambda _interval: None)

    job = asyncio.create_task(answer())
    async with rdstool.Node(active) as node:
        with await dial(passive, parameters.port, active, 0) as control:
            await control.offer(parameters)
            run = Run(node, control, Side(active, passive, active=True, patience_s=PATIENCE_S), parameters)
            await run.whole(reports.append)
    await job
    assert len(reports) == 2
    assert run.summary is not None
    assert sum(each.acks_received for each in reports) <= run.summary.interval.acks_received


async def test_nobody_listening_is_told_with_what_to_do() -> None:
    own, other = own_addresses(2)
    with pytest.raises(TransportError, match=r"\(Connection refused\): start 'rdstool stress'.*--connect-retries"):
        await dial(other, 4000, own, 0)


async def test_a_peer_that_goes_before_the_run_is_told() -> None:
    own, other = own_addresses(2)
    doorway = await Doorway.open(other, 4000)
    with await dial(other, 4000, own, 0):
        control = await doorway.control()
    with control, pytest.raises(TransportError, match="closed the control connection before the run began"):
        await control.asked()


async def test_silence_ends_a_run() -> None:
    own, other = own_addresses(2)
    doorway = await Doorway.open(other, 4000)
    async with rdstool.Node(own) as node:
        with await dial(other, 4000, own, 0) as control, await doorway.control() as silent:
            await control.offer(Parameters())
            run = Run(node, control, Side(own, other, active=True, patience_s=0.01), Parameters())
            job = asyncio.create_task(run.whole(lambda _interval: None))
            await silent.asked()
            await silent.go(active=False)
            with pytest.raises(StressError, match=f"nothing came from {other}"):
                await job


@pytest.mark.parametrize("turns", range(6))
async def test_a_run_that_is_cancelled_while_the_answer_arrives_is_over(turns: int) -> None:
    own, other = own_addresses(2)
    doorway = await Doorway.open(other, 4000)
    with await dial(other, 4000, own, 0) as control, await doorway.control():
        job = asyncio.create_task(control.go(active=True))
        await asyncio.sleep(0)
        control._reader.feed_data(b"\0")
        for _ in range(turns):
            await asyncio.sleep(0)
        if job.cancel():
            with pytest.raises(asyncio.CancelledError):
                await job
