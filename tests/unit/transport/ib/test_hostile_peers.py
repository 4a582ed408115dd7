"""What a peer sends that it should not: dropped or refused, counted, with memory that does not grow."""

from __future__ import annotations

from random import Random

import pytest

from dissectors.wire.cm import CM_MESSAGES, Attribute
from dissectors.wire.icrc import MAX_PACKET_BYTES
from dissectors.wire.infiniband import AETH, BTH, RETH, Aeth, Bth, Opcode, Reth
from rdstool.errors import UsageError
from rdstool.protocol.ib.memory import Access
from rdstool.transport.ib.provider import Broken, Completed, Segment, Status
from rdstool.transport.ib.roce import mads, manager, outbox, queue_pairs
from rdstool.transport.ib.roce.connection import RoceConnection
from rdstool.transport.ib.roce.device import Device
from rdstool.transport.ib.roce.flow import Flow
from rdstool.transport.ib.roce.memory import MemoryTable
from rdstool.transport.ib.roce.states import QueuePairState
from tests.unit.transport.ib.driving import ACTIVE, PASSIVE, Pair, flip, of_kind, request, sent, statuses, tell

ALL = Access.LOCAL_WRITE | Access.REMOTE_WRITE | Access.REMOTE_READ | Access.REMOTE_ATOMIC


class Attacker:
    """Sends any packet to the passive end of a connection, as if from its active end."""

    def __init__(self, pair: Pair, source: str = ACTIVE) -> None:
        self.pair = pair
        self.active, self.passive = pair.connect()
        self.flow = Flow(source, 49152, PASSIVE)
        self.source = source
        self.psn = self.passive.receive_psn

    def raw(self, datagram: bytes) -> None:
        self.pair.passive.receive([datagram], self.source, 49152, self.pair.now)

    def packet(self, opcode: Opcode, /, body: bytes = b"", ahead: int = 0, **fields: int) -> list[bytes]:
        """Send it; the names and syndromes of what comes back."""
        psn = (self.psn + ahead) & 0xFFFFFF
        pad = -len(body) & 3
        bth = Bth(opcode=opcode, padcount=pad, dqpn=self.passive.number, ackreq=1, psn=psn)
        for name, value in fields.items():
            setattr(bth, name, value)
        self.raw(self.flow.seal(BTH.pack(bth) + body[:0], body, pad))
        return [outgoing.data for outgoing in sent(self.pair.passive, self.pair.now)]

    def syndromes(self, opcode: Opcode, /, body: bytes = b"", ahead: int = 0, **fields: int) -> list[int]:
        return [AETH.unpack_from(data, BTH.size).syndrome for data in self.packet(opcode, body, ahead, **fields)]


@pytest.fixture
def attacker(pair: Pair) -> Attacker:
    return Attacker(pair)


def count(pair: Pair, name: str) -> int:
    return pair.passive.counters.as_dict()[name]


@pytest.mark.parametrize(
    ("datagram", "counter"),
    [
        (b"", "malformed"),
        (bytes(15), "malformed"),
        (bytes(17), "malformed"),
        (bytes(MAX_PACKET_BYTES + 4), "malformed"),
        (bytes(16), "bad_icrc"),
        (bytes(4000), "bad_icrc"),
    ],
)
def test_what_is_no_packet_is_dropped(pair: Pair, datagram: bytes, counter: str) -> None:
    pair.passive.receive([datagram], ACTIVE, 5, 0.0)
    assert count(pair, counter) == 1
    assert sent(pair.passive, 0.0) == []


def test_damage_is_dropped(attacker: Attacker) -> None:
    attacker.passive.post_receive(0, 100)
    good = attacker.flow.seal(BTH.pack(Bth(opcode=4, dqpn=attacker.passive.number, psn=attacker.psn)), b"data", 0)
    for _ in range(10):  # the flow always has the identification 0
        attacker.raw(attacker.flow.seal(BTH.pack(Bth(opcode=0x18, dqpn=5)), b"", 0))
    for at in (0, 5, 13, 17):
        attacker.raw(flip(good, at))
    assert count(attacker.pair, "bad_icrc") == 4
    assert attacker.pair.passive.take_events() == []
    attacker.raw(good)
    assert len(attacker.pair.passive.take_events()) == 1


@pytest.mark.parametrize(
    ("fields", "counter"),
    [
        ({"dqpn": 0x999}, "no_queue_pair"),
        ({"opcode": 0x18}, "malformed"),
        ({"opcode": 0x64}, "malformed"),
        ({"version": 1}, "malformed"),
        ({"pkey": 0x1234}, "bad_pkey"),
    ],
)
def test_packets_for_others_are_dropped(attacker: Attacker, fields: dict[str, int], counter: str) -> None:
    attacker.passive.post_receive(0, 100)
    assert attacker.packet(Opcode.SEND_ONLY, b"data", **fields) == []
    assert count(attacker.pair, counter) == 1
    assert attacker.pair.passive.take_events() == []


def test_another_address_cannot_speak_for_the_peer(pair: Pair) -> None:
    attacker = Attacker(pair, "192.0.2.66")
    attacker.passive.post_receive(0, 100)
    assert attacker.packet(Opcode.SEND_ONLY, b"data") == []
    assert count(pair, "wrong_peer") == 1


def test_a_packet_without_its_headers_is_dropped(attacker: Attacker) -> None:
    for opcode in (Opcode.READ_REQUEST, Opcode.FETCH_ADD, Opcode.WRITE_ONLY, Opcode.ACKNOWLEDGE):
        assert attacker.packet(opcode) == []
    assert attacker.packet(Opcode.SEND_ONLY, b"", padcount=3) == []
    assert count(attacker.pair, "malformed") == 5
    assert attacker.passive.state is QueuePairState.RTS


@pytest.mark.parametrize("ahead", [1, 1000, (1 << 23) - 1])
def test_packets_far_ahead_are_named_once_and_dropped(attacker: Attacker, ahead: int) -> None:
    attacker.passive.post_receive(0, 100)
    assert attacker.syndromes(Opcode.SEND_ONLY, b"data", ahead) == [0x60]
    assert attacker.syndromes(Opcode.SEND_ONLY, b"data", ahead) == []
    assert attacker.pair.passive.take_events() == []


@pytest.mark.parametrize("behind", [1, 1000, 1 << 23])
def test_packets_far_behind_are_acknowledged_and_not_executed(attacker: Attacker, behind: int) -> None:
    attacker.passive.post_receive(0, 100)
    assert attacker.syndromes(Opcode.SEND_ONLY, b"data", -behind) == [0x1F]
    assert attacker.packet(Opcode.READ_REQUEST, RETH.pack(Reth(0, 1, 8)), -behind) == []
    assert attacker.packet(Opcode.FETCH_ADD, bytes(28), -behind) == []
    assert attacker.pair.passive.take_events() == []


@pytest.mark.parametrize(
    "sequence",
    [
        [Opcode.SEND_MIDDLE],
        [Opcode.SEND_LAST],
        [Opcode.WRITE_MIDDLE],
        [Opcode.SEND_FIRST, Opcode.SEND_FIRST],
        [Opcode.SEND_FIRST, Opcode.SEND_ONLY],
        [Opcode.SEND_FIRST, Opcode.WRITE_MIDDLE],
        [Opcode.SEND_FIRST, Opcode.READ_REQUEST],
        [Opcode.SEND_ONLY_IMMEDIATE],
        [Opcode.SEND_ONLY_INVALIDATE],
    ],
)
def test_an_opcode_out_of_turn_ends_the_connection(attacker: Attacker, sequence: list[Opcode]) -> None:
    attacker.passive.post_receive(0, 10_000)
    for opcode in sequence:
        answer = attacker.syndromes(opcode, bytes(1024))
        attacker.psn += 1
    assert answer == [0x61]
    assert attacker.passive.state is QueuePairState.ERROR
    assert statuses(attacker.pair.passive)[-1] == (0, Status.FLUSHED)


@pytest.mark.parametrize(
    ("opcode", "size"),
    [(Opcode.SEND_FIRST, 1020), (Opcode.SEND_FIRST, 0), (Opcode.SEND_ONLY, 1028), (Opcode.SEND_FIRST, 1028)],
)
def test_a_packet_of_the_wrong_size_ends_the_connection(attacker: Attacker, opcode: Opcode, size: int) -> None:
    attacker.passive.post_receive(0, 10_000)
    assert attacker.syndromes(opcode, bytes(size)) == [0x61]


def test_an_empty_last_packet_ends_the_connection(attacker: Attacker) -> None:
    attacker.passive.post_receive(0, 10_000)
    attacker.packet(Opcode.SEND_FIRST, bytes(1024))
    attacker.psn += 1
    assert attacker.syndromes(Opcode.SEND_LAST) == [0x61]


def test_fragments_that_never_end_are_cut_off_at_the_size_of_the_receive(attacker: Attacker) -> None:
    attacker.passive.post_receive(0, 4096)
    answers = []
    for number in range(10):
        answers += attacker.syndromes(Opcode.SEND_MIDDLE if number else Opcode.SEND_FIRST, bytes(1024))
        attacker.psn += 1
    assert answers == [0x1F, 0x1F, 0x1F, 0x1F, 0x61]
    assert statuses(attacker.pair.passive) == [(0, Status.LOCAL_LENGTH_ERROR)]
    assert attacker.passive.responder._pieces == []


@pytest.mark.parametrize(
    ("announced", "sizes"), [(2048, [1024]), (1000, [1000, 24]), (1024, [1020]), (5, [8]), (0, [4]), (4096, [1020])]
)
def test_a_write_has_as_many_bytes_as_it_announces(attacker: Attacker, announced: int, sizes: list[int]) -> None:
    memory = bytearray(4096)
    region = attacker.pair.passive.register(memory, ALL)
    for index, size in enumerate(sizes):
        first, last = index == 0, index == len(sizes) - 1
        opcode = {(1, 1): Opcode.WRITE_ONLY, (1, 0): Opcode.WRITE_FIRST, (0, 1): Opcode.WRITE_LAST}[first, last]
        body = RETH.pack(Reth(0, region.rkey, announced)) if first else b""
        answer = attacker.syndromes(opcode, body + b"x" * size)
        attacker.psn += 1
    assert answer in ([0x61], [])
    assert attacker.passive.state is QueuePairState.ERROR


def test_more_reads_than_agreed_end_the_connection(pair: Pair) -> None:
    attacker = Attacker(pair)
    region = pair.passive.register(bytearray(8), ALL)
    attacker.passive.responder._resources = 4
    for number in range(20):
        bth = Bth(opcode=Opcode.READ_REQUEST, dqpn=attacker.passive.number, psn=(attacker.psn + number) & 0xFFFFFF)
        attacker.raw(attacker.flow.seal(BTH.pack(bth) + RETH.pack(Reth(0, region.rkey, 8)), b"", 0))
    assert len(attacker.passive.responder.replies) <= 9
    assert attacker.passive.state is QueuePairState.ERROR


def test_repeated_reads_do_not_pile_up(attacker: Attacker) -> None:
    region = attacker.pair.passive.register(bytearray(100_000), ALL)
    body = RETH.pack(Reth(0, region.rkey, 100_000))
    bth = Bth(opcode=Opcode.READ_REQUEST, dqpn=attacker.passive.number, psn=attacker.psn)
    for _ in range(1000):
        attacker.raw(attacker.flow.seal(BTH.pack(bth) + body, b"", 0))
    assert len(attacker.passive.responder.replies) == 1


def test_a_repeated_read_cannot_ask_for_more_or_other_memory(attacker: Attacker) -> None:
    region = attacker.pair.passive.register(bytearray(100_000), ALL)
    assert len(attacker.packet(Opcode.READ_REQUEST, RETH.pack(Reth(0, region.rkey, 2048)))) == 2
    for address, length in ((0, 2049), (8, 2048), (50_000, 8)):
        assert attacker.packet(Opcode.READ_REQUEST, RETH.pack(Reth(address, region.rkey, length))) == []
    assert len(attacker.packet(Opcode.READ_REQUEST, RETH.pack(Reth(1024, region.rkey, 1024)), 1)) == 1


def test_answers_to_nothing_are_ignored(attacker: Attacker) -> None:
    for syndrome in range(256):
        for ahead in (-1, 0, 1, 1 << 22):
            attacker.psn = attacker.passive.requester._oldest + ahead
            attacker.packet(Opcode.ACKNOWLEDGE, AETH.pack(Aeth(syndrome, 0)))
            attacker.packet(Opcode.READ_RESPONSE_ONLY, AETH.pack(Aeth(0, 0)) + b"evil")
            attacker.packet(Opcode.ATOMIC_ACKNOWLEDGE, bytes(12))
    assert attacker.passive.state is QueuePairState.RTS
    assert attacker.pair.passive.take_events() == []


@pytest.mark.parametrize("size", [0, 4, 12, 20])
def test_a_read_response_of_the_wrong_size_writes_nothing(attacker: Attacker, size: int) -> None:
    landing = bytearray(16)
    region = attacker.pair.passive.register(landing, Access.LOCAL_WRITE)
    attacker.passive.post_read(1, Segment(4, 8, region.lkey), 0, 0)
    sent(attacker.pair.passive, attacker.pair.now)
    attacker.psn = attacker.passive.requester._oldest
    attacker.packet(Opcode.READ_RESPONSE_ONLY, AETH.pack(Aeth(0x1F, 0)) + b"evil" * (size // 4))
    assert landing == bytes(16)
    assert statuses(attacker.pair.passive) == [(1, Status.BAD_RESPONSE)]


def test_an_answer_of_another_kind_ends_the_connection(attacker: Attacker) -> None:
    attacker.passive.post_send(1, b"x")
    sent(attacker.pair.passive, attacker.pair.now)
    attacker.psn = attacker.passive.requester._oldest
    attacker.packet(Opcode.ATOMIC_ACKNOWLEDGE, bytes(12))
    assert statuses(attacker.pair.passive) == [(1, Status.BAD_RESPONSE)]


def test_a_flood_of_requests_and_ports_takes_bounded_memory(pair: Pair) -> None:
    device = pair.passive
    random = Random(5)
    for number in range(3000):
        port = random.randrange(1, 65_536)
        flow = Flow(ACTIVE, port, PASSIVE)
        body = request(local_comm_id=number + 1, local_qpn=number + 2)
        message = mads.pack(mads.ManagementMessage(Attribute.REQ, number, body))
        device.receive([flow.seal(mads.head(number), message, 0)], ACTIVE, port, 0.0)
    assert len(device._inflows) <= queue_pairs.MAX_FLOWS
    assert len(device.numbered) == manager.MAX_REQUESTS
    assert device.counters.mads_dropped == 3000 - manager.MAX_REQUESTS - outbox.MAX_QUEUED
    answers = 0
    while batch := sent(device, 0.0):
        answers += len(batch)
    assert answers == outbox.MAX_QUEUED


def test_random_management_datagrams_raise_nothing(pair: Pair) -> None:
    random = Random(7)
    for attribute in Attribute:
        for _ in range(50):
            codec = CM_MESSAGES.get(attribute)
            if codec is not None:
                tell(pair.passive, attribute, codec.unpack_from(random.randbytes(codec.size)))
    assert pair.passive.take_events() == []


def test_other_connections_are_undisturbed(pair: Pair) -> None:
    active, passive = pair.connect()
    attacker = Attacker(pair)
    attacker.packet(Opcode.SEND_LAST, b"evil")
    assert of_kind(pair.passive.take_events(), Broken)
    passive.post_receive(0, 10)
    active.post_send(1, b"fine")
    pair.settle()
    assert [done.data for done in of_kind(pair.passive.take_events(), Completed)] == [b"fine"]


def test_random_packets_raise_nothing() -> None:
    random = Random(11)
    for _ in range(300):
        device = Device(PASSIVE, Random(1))
        region = device.register(bytearray(4096), ALL)
        connection = device.queue_pair(ACTIVE)
        device.join(connection, 9, 0, 0)
        connection.post_receive(0, 5000)
        flow = Flow(ACTIVE, 49152, PASSIVE)
        for _ in range(20):
            opcode = random.choice(list(Opcode))
            body = random.choice((b"", RETH.pack(Reth(random.randrange(4096), region.rkey, random.randrange(4096)))))
            body += random.randbytes(4 * random.randrange(300))
            word = random.choice((0, 1, 2, random.getrandbits(24)))
            bth = Bth(opcode=opcode, dqpn=connection.number, psn=word, ackreq=1)
            device.receive([flow.seal(BTH.pack(bth), body, 0)], ACTIVE, 49152, 0.0)
            sent(device, 0.0)
        assert isinstance(connection, RoceConnection)


def test_regions_are_checked_when_they_are_made() -> None:
    table = MemoryTable(Random(1))
    with pytest.raises(UsageError, match="LOCAL_WRITE"):
        table.register(bytearray(1), Access.REMOTE_WRITE)
    with pytest.raises(UsageError, match="bytearray"):
        table.register(memoryview(b"constant"), Access.LOCAL_WRITE)
