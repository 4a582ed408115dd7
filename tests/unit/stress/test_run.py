"""Runs of rds-stress between two sides of rdstool, over real TCP on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import rdstool
from dissectors.wire.stress import MESSAGE_BYTES, STRESS_MESSAGE, RdmaMode, RdmaOp, StressMessage, pattern
from rdstool.errors import TransportError, UsageError
from rdstool.protocol import events
from rdstool.protocol.control import RdmaDest
from rdstool.protocol.kinds import Transport
from rdstool.stress.control import Doorway, dial
from rdstool.stress.counters import Counters, KeyMeter, Times
from rdstool.stress.failure import StressError
from rdstool.stress.parameters import LONG_BYTES, SHORT_BYTES, Parameters, RdmaParameters, unpack
from rdstool.stress.rdma import Rdma
from rdstool.stress.run import Run, Side
from rdstool.stress.traffic import Pair
from rdstool.stress.watch import Interval, Summary
from tests.kit.loopback import own_addresses

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
    assert 0 < active.p50_us <= active.p99_us <= active.longest_us


RDMA_RUNS = {
    "one use": RdmaParameters(10_000),
    "freed": RdmaParameters(4096, use_once=False, fence=False),
    "registered before": RdmaParameters(100, use_get_mr=True, key_meter=True),
    "kept": RdmaParameters(8192, use_once=False, use_get_mr=True, cache=True, mode=RdmaMode.WRITE_ONLY),
    "vectors": RdmaParameters(2_500, vector=3, mode=RdmaMode.READ_ONLY),
}


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


@pytest.mark.parametrize("rdma", RDMA_RUNS.values(), ids=RDMA_RUNS)
def test_the_peer_is_told_what_rdma_to_do(rdma: RdmaParameters) -> None:
    parameters = Parameters(rdma=rdma)
    assert unpack(parameters.packed("10.0.0.1", "10.0.0.2")) == (parameters, "10.0.0.1")


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


@pytest.mark.parametrize(
    ("made", "complaint"),
    [
        (lambda: RdmaParameters(1 << 19, vector=3), "the bytes of one RDMA is 1572864"),
        (lambda: RdmaParameters(1, vector=513), "the number of RDMA buffers is 513"),
        (lambda: RdmaParameters(64, cache=True), "cannot be for one use"),
        (lambda: RdmaParameters(64, cache=True, use_once=False), "is registered before"),
        (lambda: Parameters(tasks=64, rdma=RdmaParameters(1 << 20)), "are more than"),
    ],
)
def test_rdma_that_cannot_be_done_is_refused(made: Callable[[], object], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        made()


def test_keys_that_come_again_are_counted() -> None:
    keys = KeyMeter()
    for cookie in (1, 2, 1 << 32 | 1, 1):
        keys.add(cookie)
    assert keys.reissued == 2
    assert 0 <= keys.least_s <= keys.total_s / 2


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


# ---- What is checked


def pairs(depth: int = 1, request_bytes: int = 1024) -> tuple[Pair, Pair]:
    parameters = Parameters(depth=depth, request_bytes=request_bytes)
    one, other = ("10.0.0.1", 4001), ("10.0.0.2", 4002)
    return Pair(one, other, parameters), Pair(other, one, parameters)


def test_requests_and_acks_share_one_sequence_and_acks_name_their_slot() -> None:
    one, other = pairs(depth=3)
    requests = [one.next_request(b"")[0] for _ in range(3)]
    for request in requests:
        other.request_came(request)
    acks = [other.next_ack(b"")[0] for _ in range(3)]
    back = other.next_request(b"")[0]
    assert [STRESS_MESSAGE.unpack_from(each).index for each in (*requests, *acks)] == [0, 1, 2, 0, 1, 2]
    assert [STRESS_MESSAGE.unpack_from(each).seq for each in (*acks, back)] == [0, 1, 2, 3]
    for ack in acks:
        one.ack_came(ack, 0.0)
    one.request_came(back)
    assert (one.outstanding, one.owed, other.outstanding) == (0, 1, 1)


def request(pair: Pair) -> bytes:
    message, _ = pair.next_request(b"")
    return message


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda pair: [request(pair), request(pair)][1], "seq 1 instead of 0, index 1 instead of 0"),
        (lambda pair: b"\0\0\0\0\x7f" + request(pair)[5:], r"from_addr 127\.0\.0\.1 instead of 10\.0\.0\.1"),
        (lambda pair: request(pair)[:14] + b"\0\x63" + request(pair)[16:], "to_port 99 instead"),
    ],
    ids=["one is missing", "another address", "another port"],
)
def test_a_message_that_was_not_to_come_is_told_field_by_field(spoil: Callable[[Pair], bytes], complaint: str) -> None:
    one, other = pairs(depth=4)
    with pytest.raises(StressError, match=complaint):
        other.request_came(spoil(one))


def test_more_requests_than_agreed_are_refused() -> None:
    one, other = pairs(depth=1)
    other.request_came(one.next_request(b"")[0])
    with pytest.raises(StressError, match="more than 1 requests outstanding"):
        other.request_came(one.next_request(b"")[0])


def test_an_ack_for_nothing_is_refused() -> None:
    one, other = pairs()
    one.request_came(other.next_request(b"")[0])
    ack = one.next_ack(b"")[0]
    other.ack_came(ack, 0.0)
    with pytest.raises(StressError, match="acks a request that was not made"):
        other.ack_came(ack, 0.0)


# ---- Options


@pytest.mark.parametrize("tos", [0, 9])
def test_the_options_come_over_whole(tos: int) -> None:
    parameters = Parameters(3, 2000, 100, 5000, 4, 60, verify=True, simplex=True, tos=tos, show=True, real_time=True)
    block = parameters.packed("10.0.0.1", "10.0.0.2")
    assert len(block) == (LONG_BYTES if tos else SHORT_BYTES)
    assert unpack(block) == (parameters, "10.0.0.1")


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"request_bytes": 62}, "request size is 62, it can be 63 to 1048576"),
        ({"ack_bytes": (1 << 20) + 1}, "ack size"),
        ({"depth": 0}, "depth is 0"),
        ({"tasks": 257}, "number of tasks is 257"),
        ({"port": 65535}, "port is 65535"),
        ({"tasks": 200, "depth": 60000, "request_bytes": 100_000}, "buffers of .* choose less"),
    ],
)
def test_what_cannot_be_done_is_refused(changed: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        replace(Parameters(), **changed)


@pytest.mark.parametrize(("at", "complaint"), [(3, "depth"), (27, "tasks")], ids=["no depth", "no tasks"])
def test_a_hostile_option_block_is_refused(at: int, complaint: str) -> None:
    block = bytearray(Parameters().packed("10.0.0.1", "10.0.0.2"))
    block[at] = 0
    with pytest.raises(UsageError, match=complaint):
        unpack(bytes(block))


def test_percentiles_are_off_by_a_sixteenth_at_most() -> None:
    times = Times()
    for us in range(1, 10_001):
        times.add(us)
    for share in (0.1, 0.5, 0.9, 0.99):
        assert times.percentile_us(share) == pytest.approx(share * 10_000, rel=1 / 16)
    assert times.percentile_us(1.0) <= times.longest_us == 10_000
    assert Times().percentile_us(0.5) == 0


def test_a_histogram_counts_between_powers_of_two() -> None:
    times = Times()
    assert times.doublings() == []
    for us in (0, 1, 2, 3, 4, 1023, 1024, 1025, 5_000_000):
        times.add(us)
    counted = {each.from_us: each.count for each in times.doublings() if each.count}
    assert counted == {0: 2, 2: 2, 4: 1, 512: 1, 1024: 2, 1 << 22: 1}
    edges = [(each.from_us, each.below_us) for each in times.doublings()]
    assert edges == [(0, 2), *((1 << power, 2 << power) for power in range(1, 23))]


def test_long_round_trips_are_told() -> None:
    told: list[str] = []
    counters = Counters(outlier_us=100, tell=told.append)
    for us in (50, 100, 101):
        counters.round_trip(us, 4001, "10.0.0.2:4002")
    assert told == ["round trip of 101 us: 4001 to 10.0.0.2:4002"]
    assert counters.round_trips.count == 3


def test_the_pattern_is_what_verified_messages_carry() -> None:
    one, _ = pairs(request_bytes=100)
    assert one.next_request(pattern(37))[0][63:] == pattern(37)
