"""No memory outside an offered region is ever read or written, whatever a peer asks for."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from dissectors.wire.infiniband import ATOMIC_ETH, BTH, RETH, AtomicEth, Bth, Opcode, Reth
from rdstool.protocol.ib.memory import Access
from rdstool.transport.ib.provider import Segment
from rdstool.transport.ib.roce.device import Device
from rdstool.transport.ib.roce.flow import Flow
from rdstool.transport.ib.roce.memory import MemoryTable
from tests.unit.transport.ib.driving import sent

ACTIVE, PASSIVE = "192.0.2.1", "192.0.2.2"
SECRET = b"\xa5"
"""Fills everything that is not offered."""
OFFERED_AT, OFFERED = 300, 200
"""The part of the memory that the readable and the writable region each have."""
BASE = 0x7000
REMOTE = Access.REMOTE_READ | Access.REMOTE_WRITE | Access.REMOTE_ATOMIC

addresses = st.one_of(
    st.integers(BASE - 40, BASE + OFFERED + 40), st.integers(0, 600), st.integers((1 << 64) - 300, (1 << 64) - 1)
)
lengths = st.one_of(st.integers(0, OFFERED + 40), st.integers((1 << 32) - 300, (1 << 32) - 1))


@st.composite
def packets(draw: st.DrawFn) -> tuple[Opcode, int, int, int, bytes]:
    """(opcode, address, length, which key, payload)"""
    opcode = draw(
        st.sampled_from(
            (
                Opcode.WRITE_ONLY, Opcode.WRITE_FIRST, Opcode.WRITE_MIDDLE, Opcode.WRITE_LAST, Opcode.READ_REQUEST,
                Opcode.FETCH_ADD, Opcode.COMPARE_SWAP,
            )
        )
    )  # fmt: skip
    size = draw(st.sampled_from((0, 4, 64, 256, 260)))
    return opcode, draw(addresses), draw(lengths), draw(st.integers(0, 4)), bytes([draw(st.integers(0, 255))]) * size


@given(st.lists(packets(), max_size=12), st.booleans())
@settings(max_examples=400)
def test_nothing_outside_an_offered_region_is_read_or_written(
    asked: list[tuple[Opcode, int, int, int, bytes]], repeat: bool
) -> None:
    device = Device(PASSIVE, Random(3))
    whole = bytearray(SECRET * 800)
    offered = memoryview(whole)[OFFERED_AT : OFFERED_AT + OFFERED]
    offered[:] = bytes(OFFERED)
    hidden = bytearray(SECRET * 800)
    regions = [
        device.register(offered, Access.REMOTE_READ, BASE),
        device.register(offered, Access.LOCAL_WRITE | Access.REMOTE_WRITE | Access.REMOTE_ATOMIC, BASE),
        device.register(hidden, Access.LOCAL_WRITE),
        device.register(hidden, Access.LOCAL_WRITE | REMOTE, BASE),
    ]
    device.deregister(regions[3])
    keys = [region.rkey for region in regions] + [regions[0].lkey]
    flow = Flow(ACTIVE, 49152, PASSIVE)
    connection, psn = None, 0
    for opcode, address, length, key, payload in asked:
        if connection is None or connection.state != 3:
            connection, psn = device.queue_pair(ACTIVE), 0
            device.join(connection, 9, 0, 0)
        head = BTH.pack(Bth(opcode=opcode, dqpn=connection.number, psn=psn, ackreq=1))
        if opcode in {Opcode.WRITE_ONLY, Opcode.WRITE_FIRST, Opcode.READ_REQUEST}:
            head += RETH.pack(Reth(address, keys[key], length))
        elif opcode in {Opcode.FETCH_ADD, Opcode.COMPARE_SWAP}:
            head += ATOMIC_ETH.pack(AtomicEth(address, keys[key], 1, 0))
        datagram = flow.seal(head, b"" if opcode is Opcode.READ_REQUEST else payload, 0)
        for _ in range(1 + repeat):
            device.receive([datagram], ACTIVE, 49152, 0.0)
        psn = connection.responder._expected
        for outgoing in sent(device, 0.0):
            name = Opcode(outgoing.data[0]).name
            if name.startswith("READ_RESPONSE"):
                start = BTH.size + (0 if name.endswith("MIDDLE") else 4)
                payload_read = outgoing.data[start:-4]
                # What was written may hold any byte: what is read is what the region holds, no more of it.
                assert len(payload_read) <= OFFERED
                assert bytes(payload_read).rstrip(b"\0") in bytes(offered)
    assert whole[:OFFERED_AT] == SECRET * OFFERED_AT
    assert whole[OFFERED_AT + OFFERED :] == SECRET * (800 - OFFERED_AT - OFFERED)
    assert hidden == SECRET * 800


@given(st.integers(0, 2000), st.integers(-5, 2000), st.integers(-5, 2000), st.sampled_from(list(Access)))
def test_a_piece_is_exactly_what_was_asked_for_or_nothing(base: int, address: int, length: int, access: Access) -> None:
    table = MemoryTable(Random(1))
    memory = bytearray(index & 0xFF for index in range(500))
    region = table.register(memory, Access.LOCAL_WRITE | Access.REMOTE_READ, base)
    for piece in (
        table.remote(region.rkey, address, length, access),
        table.local(Segment(address, length, region.lkey), access),
    ):
        inside = base <= address and 0 <= length <= base + 500 - address
        if inside and access in {Access.LOCAL_WRITE, Access.REMOTE_READ}:
            assert piece is not None
            assert piece == memory[address - base : address - base + length]
        else:
            assert piece is None
    assert table.remote(region.lkey, base, 1, access) is None
    assert table.local(Segment(base, 1, region.rkey), access) is None
