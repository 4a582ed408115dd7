"""Requests between two devices: what goes over the wire, what both ends are told, what is done about loss."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import pytest

from dissectors.wire.infiniband import BTH, Bth, Opcode
from rdstool.errors import TransportError
from rdstool.protocol.errors import LocalProtocolError
from rdstool.protocol.ib.memory import Access
from rdstool.transport.ib.provider import Broken, Completed, ConnectRequested, Operation, Segment, Status
from rdstool.transport.ib.roce.connection import RoceConnection
from rdstool.transport.ib.roce.states import TRANSITIONS, QueuePairInput, QueuePairState, step
from rdstool.transport.ib.roce.work import MAX_WORK_REQUESTS
from tests.unit.transport.ib.driving import PASSIVE, QUICK, Filter, Pair, messages, of_kind, one, sent, statuses

ALL = Access.LOCAL_WRITE | Access.REMOTE_WRITE | Access.REMOTE_READ | Access.REMOTE_ATOMIC
TEXT = bytes(index * 7 & 0xFF for index in range(10_000))


@pytest.fixture
def pair() -> Pair:
    return Pair()


def receives(connection: RoceConnection, count: int = 1, size: int = 16_384) -> None:
    for number in range(count):
        connection.post_receive(number, size)


def lose(*lost: tuple[str, int]) -> Filter:
    """Lose the n-th packet, from 1, of each of these opcodes."""
    seen: dict[str, int] = {}

    def apply(_: str, bth: Bth, datagram: bytes) -> list[bytes]:
        name = Opcode(bth.opcode).name
        seen[name] = seen.get(name, 0) + 1
        return [] if (name, seen[name]) in lost else [datagram]

    return apply


def opcodes(pair: Pair, source: str) -> list[str]:
    return [name for sender, name, _ in pair.wire if sender == source]


# ---- SEND


def test_success_of_a_send_that_is_not_signaled_is_told_by_the_next(pair: Pair) -> None:
    active, passive = pair.connect()
    receives(passive, 3)
    for number in (1, 2, 3):
        active.post_send(number, TEXT[: 2000 * number - 1900], signaled=number == 2)
    pair.settle()
    assert statuses(pair.active) == [(2, Status.SUCCESS)]
    assert [len(data) for data in messages(pair.passive)] == [100, 2100, 4100]


def test_failure_is_told_of_each_send(pair: Pair) -> None:
    active, passive = pair.connect()
    receives(passive, 2, size=10)
    for number in (1, 2, 3):
        active.post_send(number, TEXT[: 8 * number], signaled=False)
    pair.settle()
    failed = [(2, Status.REMOTE_INVALID_REQUEST), (3, Status.FLUSHED)]
    assert [(one.wr_id, one.status) for one in of_kind(pair.active.take_events(), Completed)] == failed


def test_receives_are_posted_many_at_a_time(pair: Pair) -> None:
    active, passive = pair.connect()
    passive.post_receive(7, 100, 3)
    for number in range(3):
        active.post_send(number, bytes([number]))
    pair.settle()
    done = of_kind(pair.passive.take_events(), Completed)
    assert [(one.wr_id, one.data) for one in done] == [(7, b"\0"), (7, b"\1"), (7, b"\2")]


@pytest.mark.parametrize(
    ("size", "packets"),
    [
        (0, ["SEND_ONLY"]),
        (1, ["SEND_ONLY"]),
        (1024, ["SEND_ONLY"]),
        (1025, ["SEND_FIRST", "SEND_LAST"]),
        (4144, ["SEND_FIRST", "SEND_MIDDLE", "SEND_MIDDLE", "SEND_MIDDLE", "SEND_LAST"]),
    ],
)
def test_a_send_takes_as_many_packets_as_its_bytes_need(pair: Pair, size: int, packets: list[str]) -> None:
    active, passive = pair.connect()
    receives(passive)
    active.post_send(7, TEXT[:size])
    pair.settle()
    assert opcodes(pair, pair.active.address) == packets
    (got,) = of_kind(pair.passive.take_events(), Completed)
    assert (got.operation, got.status, got.data) == (Operation.RECEIVE, Status.SUCCESS, TEXT[:size])
    assert statuses(pair.active) == [(7, Status.SUCCESS)]


@pytest.mark.parametrize("mtu", [256, 512, 1024, 2048, 4096])
def test_a_message_is_cut_at_every_path_mtu(pair: Pair, mtu: int) -> None:
    active, passive = pair.connect(replace(QUICK, path_mtu=mtu))
    receives(passive)
    active.post_send(1, TEXT)
    pair.settle()
    assert messages(pair.passive) == [TEXT]
    assert len(opcodes(pair, pair.active.address)) == -(-len(TEXT) // mtu)


def test_solicited_events_are_told(pair: Pair) -> None:
    active, passive = pair.connect()
    receives(passive, 2)
    active.post_send(1, TEXT, solicited=True)
    active.post_send(2, TEXT)
    pair.settle()
    assert [done.solicited for done in of_kind(pair.passive.take_events(), Completed)] == [True, False]


def test_one_acknowledgement_stands_for_a_burst(pair: Pair) -> None:
    active, passive = pair.connect()
    receives(passive, 10)
    for number in range(10):
        active.post_send(number, b"x")
    pair.settle()
    assert opcodes(pair, PASSIVE) == ["ACKNOWLEDGE"]
    assert statuses(pair.active) == [(number, Status.SUCCESS) for number in range(10)]


@pytest.mark.parametrize("size", [64, 1024, 2500])
def test_a_peer_slower_than_the_window_is_asked_for_few_acknowledgements(pair: Pair, size: int) -> None:
    active, passive = pair.connect()
    count = 1000
    receives(passive, count)
    for number in range(count):
        active.post_send(number, bytes(size))
    on_the_way = deque(sent(pair.active, 0.0))
    asked = 0
    while on_the_way:
        one_more = on_the_way.popleft()
        asked += BTH.unpack_from(one_more.data).ackreq
        pair.deliver(pair.active, pair.passive, [one_more])
        pair.deliver(pair.passive, pair.active, sent(pair.passive, 0.0))
        on_the_way += sent(pair.active, 0.0)
    assert statuses(pair.active) == [(number, Status.SUCCESS) for number in range(count)]
    packets = opcodes(pair, pair.active.address)
    assert asked == opcodes(pair, PASSIVE).count("ACKNOWLEDGE") < len(packets) / 12


@pytest.mark.parametrize("behind", [1, 5, 15, 16, 100])
def test_a_read_behind_sends_goes_out_without_a_timer(pair: Pair, behind: int) -> None:
    active, passive = pair.connect()
    receives(passive, 200)
    memory, into = bytearray(40_000), bytearray(40_000)
    there, here = pair.passive.register(memory, ALL), pair.active.register(into, ALL)
    for number in range(behind):
        active.post_send(number, b"x")
    active.post_read(1000, Segment(0, len(into), here.lkey), 0, there.rkey)
    pair.settle()
    assert statuses(pair.active)[-1] == (1000, Status.SUCCESS)


def test_both_sides_can_send_at_once(pair: Pair) -> None:
    active, passive = pair.connect()
    receives(active)
    receives(passive)
    active.post_send(1, b"there")
    passive.post_send(1, b"back")
    pair.settle()
    assert (messages(pair.active), messages(pair.passive)) == ([b"back"], [b"there"])


def test_what_is_posted_before_the_connection_is_there_goes_out_then(pair: Pair) -> None:
    active = pair.active.connect(PASSIVE, 0x0106_1C06, options=QUICK)
    active.post_send(1, b"early")
    pair.settle()
    passive = one(pair.passive, ConnectRequested).connection
    passive.post_receive(0, 100)
    passive.accept()
    pair.settle()
    assert messages(pair.passive) == [b"early"]


def test_without_a_receive_the_peer_is_told_to_wait(pair: Pair) -> None:
    active, passive = pair.connect()
    active.post_send(1, TEXT)
    active.post_send(2, b"second")
    pair.settle()
    assert pair.passive.counters.rnr_naks_sent == 1
    assert statuses(pair.active) == []
    receives(passive, 2)
    pair.wait(0.001)
    assert messages(pair.passive) == [TEXT, b"second"]
    assert statuses(pair.active) == [(1, Status.SUCCESS), (2, Status.SUCCESS)]


def test_a_receiver_that_is_never_ready_ends_the_connection(pair: Pair) -> None:
    active, _ = pair.connect(replace(QUICK, rnr_retry=2))
    active.post_send(1, b"x")
    pair.wait(0.1)
    assert pair.passive.counters.rnr_naks_sent == 3
    assert statuses(pair.active) == [(1, Status.RECEIVER_NOT_READY)]


def test_a_message_that_is_too_long_ends_the_connection_at_both_ends(pair: Pair) -> None:
    active, passive = pair.connect()
    receives(passive, 2, 2000)
    active.post_send(1, TEXT)
    active.post_send(2, b"never")
    pair.settle()
    assert statuses(pair.active) == [(1, Status.REMOTE_INVALID_REQUEST), (2, Status.FLUSHED)]
    assert statuses(pair.passive) == [(0, Status.LOCAL_LENGTH_ERROR), (1, Status.FLUSHED)]
    assert (active.state, passive.state) == (QueuePairState.ERROR, QueuePairState.ERROR)


# ---- RDMA and atomics


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 10_000])
def test_write_and_read_move_memory_exactly(pair: Pair, size: int) -> None:
    active, _ = pair.connect()
    memory, landing = bytearray(b"." * 12_000), bytearray(b"-" * 12_000)
    remote, local = pair.passive.register(memory, ALL), pair.active.register(landing, Access.LOCAL_WRITE)
    active.post_write(1, TEXT[:size], 1000, remote.rkey)
    active.post_read(2, Segment(5, size, local.lkey), 1000, remote.rkey)
    pair.settle()
    assert statuses(pair.active) == [(1, Status.SUCCESS), (2, Status.SUCCESS)]
    assert memory == b"." * 1000 + TEXT[:size] + b"." * (11_000 - size)
    assert landing == b"-" * 5 + TEXT[:size] + b"-" * (11_995 - size)


def test_a_long_read_is_asked_for_in_pieces(pair: Pair) -> None:
    active, _ = pair.connect()
    memory, landing = bytearray(TEXT * 10), bytearray(100_000)
    remote, local = pair.passive.register(memory, ALL), pair.active.register(landing, Access.LOCAL_WRITE)
    active.post_read(1, Segment(0, 100_000, local.lkey), 0, remote.rkey)
    pair.settle()
    assert landing == memory
    assert opcodes(pair, pair.active.address).count("READ_REQUEST") == 7


def test_atomics_tell_the_value_before(pair: Pair) -> None:
    active, _ = pair.connect()
    memory = bytearray(32)
    region = pair.passive.register(memory, ALL)
    active.post_fetch_add(1, 8, region.rkey, 5)
    active.post_fetch_add(2, 8, region.rkey, -1)
    active.post_compare_swap(3, 8, region.rkey, 4, 1 << 63)
    active.post_compare_swap(4, 8, region.rkey, 4, 9)
    active.post_fetch_add(5, 8, region.rkey, 1 << 63)
    pair.settle()
    done = of_kind(pair.active.take_events(), Completed)
    assert [one.original for one in done] == [0, 5, 4, 1 << 63, 1 << 63]
    assert memory == bytes(32)


def test_no_more_reads_are_in_flight_than_both_ends_agreed(pair: Pair) -> None:
    active, _ = pair.connect(replace(QUICK, initiator_depth=2))
    region = pair.passive.register(bytearray(64), ALL)
    for number in range(8):
        active.post_fetch_add(number, 0, region.rkey, 1)
    assert len(sent(pair.active, pair.now)) == 2


def test_a_peer_that_answers_no_reads_is_not_asked(pair: Pair) -> None:
    active, _ = pair.connect(replace(QUICK, initiator_depth=0))
    active.post_fetch_add(1, 0, 1, 1)
    pair.settle()
    assert statuses(pair.active) == [(1, Status.LOCAL_OPERATION_ERROR)]


def test_a_fence_waits_for_reads(pair: Pair) -> None:
    active, passive = pair.connect()
    receives(passive)
    region = pair.passive.register(bytearray(64), ALL)
    active.post_fetch_add(1, 0, region.rkey, 1)
    active.post_send(2, b"after", fence=True)
    first = sent(pair.active, pair.now)
    assert len(first) == 1
    pair.deliver(pair.active, pair.passive, first)
    pair.settle()
    assert messages(pair.passive) == [b"after"]


@pytest.mark.parametrize(
    ("address", "length", "access", "key"),
    [
        (0, 65, ALL, 0),
        (1, 64, ALL, 0),
        (64, 1, ALL, 0),
        ((1 << 64) - 1, 1, ALL, 0),
        (0, 8, ALL, 1),
        (0, 8, Access.LOCAL_WRITE, 0),
        (0, 8, Access.LOCAL_WRITE | Access.REMOTE_ATOMIC, 0),
    ],
)
@pytest.mark.parametrize("operation", [Operation.WRITE, Operation.READ])
def test_memory_that_is_not_offered_is_refused(
    pair: Pair, address: int, length: int, access: Access, key: int, operation: Operation
) -> None:
    active, _ = pair.connect()
    memory = bytearray(b"secret.." * 8)
    region = pair.passive.register(memory, access)
    landing = bytearray(100)
    local = pair.active.register(landing, Access.LOCAL_WRITE)
    if operation is Operation.WRITE:
        active.post_write(1, bytes(length), address, region.rkey ^ key)
    else:
        active.post_read(1, Segment(0, length, local.lkey), address, region.rkey ^ key)
    pair.settle()
    assert statuses(pair.active) == [(1, Status.REMOTE_ACCESS_ERROR)]
    assert of_kind(pair.passive.take_events(), Broken)
    assert memory == b"secret.." * 8
    assert landing == bytes(100)


def test_an_atomic_needs_the_right_and_an_aligned_address(pair: Pair) -> None:
    active, _ = pair.connect()
    region = pair.passive.register(bytearray(16), Access.LOCAL_WRITE | Access.REMOTE_WRITE | Access.REMOTE_READ)
    with pytest.raises(TransportError, match="divides"):
        active.post_fetch_add(1, 4, region.rkey, 1)
    active.post_fetch_add(1, 8, region.rkey, 1)
    pair.settle()
    assert statuses(pair.active) == [(1, Status.REMOTE_ACCESS_ERROR)]


def test_a_region_that_was_taken_away_is_refused(pair: Pair) -> None:
    active, _ = pair.connect()
    region = pair.passive.register(bytearray(64), ALL)
    pair.passive.deregister(region)
    active.post_write(1, b"x", 0, region.rkey)
    pair.settle()
    assert statuses(pair.active) == [(1, Status.REMOTE_ACCESS_ERROR)]


def test_a_region_that_goes_while_it_is_written_is_written_no_further(pair: Pair) -> None:
    active, _ = pair.connect()
    memory = bytearray(10_000)
    region = pair.passive.register(memory, ALL)
    active.post_write(1, TEXT, 0, region.rkey)
    batch = sent(pair.active, pair.now)
    pair.deliver(pair.active, pair.passive, batch[:2])
    pair.passive.deregister(region)
    pair.deliver(pair.active, pair.passive, batch[2:])
    pair.settle()
    assert memory == TEXT[:2048] + bytes(10_000 - 2048)
    assert statuses(pair.active) == [(1, Status.REMOTE_ACCESS_ERROR)]


def test_a_region_that_goes_while_it_is_read_is_an_error_of_the_peer(pair: Pair) -> None:
    active, _ = pair.connect()
    region = pair.passive.register(bytearray(16_384), ALL)
    local = pair.active.register(bytearray(16_384), Access.LOCAL_WRITE)
    active.post_read(1, Segment(0, 16_384, local.lkey), 0, region.rkey)
    pair.deliver(pair.active, pair.passive, sent(pair.active, pair.now))
    pair.passive.deregister(region)
    pair.settle()
    assert statuses(pair.active) == [(1, Status.REMOTE_OPERATION_ERROR)]


def test_a_read_lands_in_registered_memory_only(pair: Pair) -> None:
    active, _ = pair.connect()
    region = pair.active.register(bytearray(10), Access.LOCAL_WRITE)
    for bad in (Segment(0, 11, region.lkey), Segment(5, 6, region.lkey), Segment(0, 5, region.lkey ^ 1)):
        with pytest.raises(TransportError, match="local key"):
            active.post_read(1, bad, 0, 1)


# ---- Loss


@pytest.mark.parametrize(
    "lost",
    [
        ("SEND_FIRST", 1),
        ("SEND_MIDDLE", 2),
        ("SEND_LAST", 1),
        ("ACKNOWLEDGE", 1),
        ("WRITE_FIRST", 1),
        ("WRITE_LAST", 1),
        ("READ_REQUEST", 1),
        ("READ_RESPONSE_FIRST", 1),
        ("READ_RESPONSE_MIDDLE", 3),
        ("READ_RESPONSE_LAST", 1),
        ("FETCH_ADD", 1),
        ("ATOMIC_ACKNOWLEDGE", 1),
    ],
)
def test_whatever_is_lost_is_made_good(pair: Pair, lost: tuple[str, int]) -> None:
    active, passive = pair.connect()
    receives(passive, 2)
    memory, landing = bytearray(10_016), bytearray(10_000)
    remote, local = pair.passive.register(memory, ALL), pair.active.register(landing, Access.LOCAL_WRITE)
    pair.filter = lose(lost)
    active.post_send(1, TEXT)
    active.post_write(2, TEXT, 16, remote.rkey)
    active.post_read(3, Segment(0, 10_000, local.lkey), 16, remote.rkey, fence=True)
    active.post_fetch_add(4, 8, remote.rkey, 1)
    active.post_send(5, b"end")
    pair.wait(1.0)
    assert statuses(pair.active) == [(number, Status.SUCCESS) for number in range(1, 6)]
    assert messages(pair.passive) == [TEXT, b"end"]
    assert memory == bytes(8) + b"\x01" + bytes(7) + TEXT
    assert landing == TEXT


def test_a_gap_is_told_once(pair: Pair) -> None:
    active, passive = pair.connect()
    receives(passive, 9)
    pair.filter = lose(("SEND_ONLY", 1))
    for number in range(9):
        active.post_send(number, b"x")
    pair.settle()
    assert pair.passive.counters.sequence_naks_sent == 1
    assert pair.passive.counters.ahead == 7
    assert pair.active.counters.timeouts == 0
    assert len(statuses(pair.active)) == 9


def test_an_atomic_whose_answer_was_lost_is_answered_from_memory(pair: Pair) -> None:
    active, _ = pair.connect()
    memory = bytearray(8)
    region = pair.passive.register(memory, ALL)
    pair.filter = lose(("ATOMIC_ACKNOWLEDGE", 1), ("ATOMIC_ACKNOWLEDGE", 2))
    active.post_fetch_add(1, 0, region.rkey, 1)
    pair.wait(1.0)
    assert memory[0] == 1
    (done,) = of_kind(pair.active.take_events(), Completed)
    assert (done.status, done.original) == (Status.SUCCESS, 0)
    assert opcodes(pair, pair.active.address) == ["FETCH_ADD"] * 3


def test_a_read_is_continued_where_it_was_cut(pair: Pair) -> None:
    active, _ = pair.connect()
    memory, landing = bytearray(TEXT), bytearray(10_000)
    remote, local = pair.passive.register(memory, ALL), pair.active.register(landing, Access.LOCAL_WRITE)
    pair.filter = lose(("READ_RESPONSE_MIDDLE", 5))
    active.post_read(1, Segment(0, 10_000, local.lkey), 0, remote.rkey)
    pair.settle()
    asked = [psn for _, name, psn in pair.wire if name == "READ_REQUEST"]
    assert len(asked) == 2
    assert asked[1] == asked[0] + 5
    assert landing == TEXT


@pytest.mark.parametrize("lost", ["SEND_ONLY", "ACKNOWLEDGE"])
def test_the_loss_of_the_last_packet_is_found_before_the_timeout(pair: Pair, lost: str) -> None:
    active, passive = pair.connect()
    receives(passive)
    pair.filter = lose((lost, 1))
    active.post_send(1, b"x")
    pair.wait(0.005)
    assert statuses(pair.active) == [(1, Status.SUCCESS)]
    assert messages(pair.passive) == [b"x"]
    assert (pair.active.counters.probes, pair.active.counters.timeouts) == (1, 0)


def test_the_end_of_a_read_is_asked_for_again_before_the_timeout(pair: Pair) -> None:
    active, _ = pair.connect()
    memory, landing = bytearray(TEXT * 3), bytearray(30_000)
    remote, local = pair.passive.register(memory, ALL), pair.active.register(landing, Access.LOCAL_WRITE)
    pair.filter = lose(("READ_RESPONSE_LAST", 2))
    active.post_read(1, Segment(0, 30_000, local.lkey), 0, remote.rkey)
    pair.wait(0.01)
    asked = [psn for _, name, psn in pair.wire if name == "READ_REQUEST"]
    assert [psn - asked[0] for psn in asked] == [0, 16, 29]
    assert landing == memory
    assert pair.active.counters.timeouts == 0


def test_a_peer_that_is_gone_is_given_up_after_the_retries(pair: Pair) -> None:
    active, passive = pair.connect()
    receives(active)
    pair.filter = lambda *_: []
    active.post_send(1, b"x")
    active.post_send(2, b"y")
    pair.wait(0.4)
    assert statuses(pair.active) == []
    pair.wait(0.2)
    assert opcodes(pair, pair.active.address) == ["SEND_ONLY"] * (8 * 2 + 8)  # and a probe each time
    assert statuses(pair.active) == [(1, Status.RETRIES_EXCEEDED), (2, Status.FLUSHED), (0, Status.FLUSHED)]
    assert passive.state is QueuePairState.RTS


def test_doubled_packets_are_executed_once(pair: Pair) -> None:
    active, passive = pair.connect()
    receives(passive, 5)
    memory = bytearray(8)
    region = pair.passive.register(memory, ALL)
    pair.filter = lambda _, __, datagram: [datagram, datagram]
    active.post_send(1, b"one")
    active.post_fetch_add(2, 0, region.rkey, 1)
    active.post_send(3, TEXT)
    pair.settle()
    assert messages(pair.passive) == [b"one", TEXT]
    assert memory[0] == 1
    assert statuses(pair.active) == [(1, Status.SUCCESS), (2, Status.SUCCESS), (3, Status.SUCCESS)]


def test_packets_stay_in_order_when_their_numbers_wrap(pair: Pair) -> None:
    pair.active._random.seed(0)
    active = pair.active.queue_pair(PASSIVE, QUICK)
    passive = pair.passive.queue_pair(pair.active.address, QUICK)
    receives(passive, 9)
    pair.active.join(active, passive.number, 0xFFFFFD, 0)
    pair.passive.join(passive, active.number, 0, 0xFFFFFD)
    pair.filter = lose(("SEND_ONLY", 2), ("SEND_ONLY", 6))
    for number in range(9):
        active.post_send(number, bytes([number + 1]))
    pair.wait(0.5)
    assert messages(pair.passive) == [bytes([number + 1]) for number in range(9)]
    assert {psn for _, name, psn in pair.wire if name == "SEND_ONLY"} == {0xFFFFFD, 0xFFFFFE, 0xFFFFFF, *range(6)}


# ---- States


@pytest.mark.parametrize("state", list(QueuePairState))
@pytest.mark.parametrize("given", list(QueuePairInput))
def test_a_state_takes_the_inputs_of_its_row_and_refuses_all_others(
    state: QueuePairState, given: QueuePairInput
) -> None:
    after = TRANSITIONS.get((state, given))
    if after is None:
        with pytest.raises(LocalProtocolError, match=f"{state.name} cannot take {given.name}"):
            step(state, given)
    else:
        assert step(state, given) is after
        assert (after is QueuePairState.ERROR) == (given is QueuePairInput.FAIL)


def test_what_is_posted_after_the_end_is_flushed(pair: Pair) -> None:
    active, _ = pair.connect()
    active.disconnect()
    active.post_send(1, b"")
    active.post_receive(2, 1)
    assert statuses(pair.active) == [(1, Status.FLUSHED), (2, Status.FLUSHED)]


def test_queues_are_bounded(pair: Pair) -> None:
    active, _ = pair.connect()
    for _ in range(MAX_WORK_REQUESTS):
        active.post_send(1, b"")
        active.post_receive(1, 1)
    with pytest.raises(TransportError, match="wait until"):
        active.post_send(1, b"")
    with pytest.raises(TransportError, match="wait until"):
        active.post_receive(1, 1)


def test_a_clock_that_goes_back_is_an_error(pair: Pair) -> None:
    pair.active.advance(5.0)
    with pytest.raises(LocalProtocolError, match="went back"):
        pair.active.advance(4.0)
