"""What is written fast is what the field tables say, and what real kernels sent."""

from __future__ import annotations

import struct
import zlib
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dissectors.wire.icrc import icrc, icrc_good
from dissectors.wire.infiniband import (
    AETH,
    ATOMIC_ACK_ETH,
    ATOMIC_ETH,
    BTH,
    PSN_MASK,
    RETH,
    Aeth,
    AtomicAckEth,
    AtomicEth,
    Bth,
    Opcode,
    Reth,
)
from rdstool.transport.ib.roce.bursts import in_bursts
from rdstool.transport.ib.roce.crc_shift import unknown_word
from rdstool.transport.ib.roce.flow import MAX_BURST, Flow, ethernet_frame, headers
from rdstool.transport.ib.roce.numbers import (
    RNR_TIMER_MS,
    coded_time_s,
    gid_of,
    nearest,
    packets_of,
)
from rdstool.transport.ib.roce.packets import (
    ACK_REQUEST,
    AETH_WORD,
    ATOMIC_ACK,
    ATOMIC_VALUES,
    BTH_WORDS,
    KINDS,
    PAD_SHIFT,
    RETH_VALUES,
    SOLICITED,
)
from tests.kit.pcap import roce_frames

ADDRESSES = (("192.0.2.1", "192.0.2.77"), ("2001:db8::1", "2001:db8::ffff"))


@pytest.mark.parametrize("name", ["ib-basic-61", "ib-rdma-73", "ib-reconnect-612"])
def test_the_icrc_of_real_frames_is_good_and_tells_their_identification(pcaps: Path, name: str) -> None:
    flows: dict[tuple[str, int, str], Flow] = {}
    checked = 0
    for frame in roce_frames(pcaps / name / "a.pcap.gz"):
        source, destination = (str(IPv4Address(frame[at : at + 4])) for at in (26, 30))
        port, length = struct.unpack_from(">H2xH", frame, 34)
        flow = flows.setdefault((source, port, destination), Flow(source, port, destination))
        assert flow.identification(frame[42 : 34 + length]) == int.from_bytes(frame[18:20])
        checked += 1
    assert checked > 100


@pytest.mark.parametrize(("source", "destination"), ADDRESSES)
@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 1024, 4096])
def test_a_sealed_datagram_has_the_icrc_of_the_whole_packet(source: str, destination: str, size: int) -> None:
    flow = Flow(source, 49152, destination)
    head, payload = bytes(range(12)), bytes(index & 0xFF for index in range(size))
    datagram = flow.seal(head, payload, -size & 3)
    assert datagram[:12] == head
    assert datagram[12 : 12 + size] == payload
    assert icrc_good(headers(flow, len(datagram)) + datagram)
    assert flow.identification(datagram) == 0


@given(st.binary(min_size=12, max_size=80), st.integers(0, 0xFFFF), st.booleans())
def test_any_identification_is_found(content: bytes, identification: int, dont_fragment: bool) -> None:
    flow = Flow("192.0.2.1", 1024, "192.0.2.2")
    datagram = flow.seal(content[:12], content[12:], 0)
    packet = bytearray(headers(flow, len(datagram), identification=identification) + datagram[:-4])
    packet[6] = 0x40 if dont_fragment else 0
    assert flow.identification(datagram[:-4] + icrc(packet)) == identification


@given(st.binary(min_size=12, max_size=200), st.data())
def test_a_damaged_datagram_is_seen(content: bytes, data: st.DataObject) -> None:
    for source, destination in ADDRESSES:
        flow = Flow(source, 1024, destination)
        datagram = bytearray(flow.seal(content[:12], content[12:], 0))
        assert [flow.identification(bytes(datagram)) for _ in range(2)] == [0, 0]
        bit = data.draw(st.integers(0, len(datagram) * 8 - 1))
        if bit // 8 != 4:  # the congestion marks
            datagram[bit // 8] ^= 1 << bit % 8
            assert flow.identification(bytes(datagram)) is None


def numbered(flow: Flow, identification: int) -> bytes:
    """A datagram whose IP header has another identification than 0."""
    datagram = flow.seal(bytes(12), b"data", 0)
    return datagram[:-4] + icrc(headers(flow, len(datagram), identification=identification) + datagram[:-4])


def test_a_flow_keeps_to_the_identification_0_until_it_is_seen_to_have_changed() -> None:
    flow = Flow("192.0.2.1", 1024, "192.0.2.2")
    found = [flow.identification(numbered(flow, number)) for number in (105, 0, 106, 0, 0, 107)]
    assert found == [105, 0, 106, 0, 0, None]
    for _ in range(100):
        flow.identification(numbered(flow, 0))
    found = [flow.identification(numbered(flow, 109)) for _ in range(20)]
    assert found == [None] * 15 + [109] * 5


@pytest.mark.parametrize(("source", "destination"), ADDRESSES)
def test_the_icrc_of_a_datagram_in_a_burst_is_for_its_place(source: str, destination: str) -> None:
    flow, receiver = (Flow(source, 49152, destination) for _ in range(2))
    sizes = [100] * 70 + [40, 40, 100, 300] + [4096] * 16 + [0]
    packets = (number.to_bytes(4) + bytes(8 + size) for number, size in enumerate(sizes))
    bursts = in_bursts(flow, packets, MAX_BURST)
    assert [[len(data) - 16 for data in burst] for burst in bursts] == [
        *([100] * 64, [100] * 6 + [40], [40], [100], [300]),
        *([4096] * 15, [4096, 0]),
    ]
    datagrams = [data for burst in bursts for data in burst]
    assert [int.from_bytes(data[:4]) for data in datagrams] == list(range(len(sizes)))
    for burst in bursts:
        for place, data in enumerate(burst):
            number = place if "." in source else 0
            assert icrc_good(headers(flow, len(data), identification=number) + data)
            assert receiver.identification(data) == number


def test_a_flow_of_bursts_keeps_to_places_in_a_burst() -> None:
    flow = Flow("192.0.2.1", 1024, "192.0.2.2")
    for _ in range(2):
        assert [flow.identification(numbered(flow, number)) for number in range(64)] == list(range(64))
    assert flow.identification(numbered(flow, 64)) is None


def test_a_sender_that_counts_may_pass_what_could_be_places_in_a_burst() -> None:
    flow = Flow("192.0.2.1", 1024, "192.0.2.2")
    numbers = [*range(65_500, 65_536), *range(200)]
    assert [flow.identification(numbered(flow, number)) for number in numbers] == numbers


def test_a_router_may_mark_congestion() -> None:
    flow = Flow("192.0.2.1", 1024, "192.0.2.2")
    datagram = bytearray(flow.seal(bytes(12), b"data", 0))
    datagram[4] = 0xC0
    assert flow.identification(bytes(datagram)) == 0


def test_the_word_is_found_at_any_distance() -> None:
    for distance in (4, 5, 100, 4139):
        word = bytes.fromhex("12345678")
        difference = zlib.crc32(word + bytes(distance - 4)) ^ zlib.crc32(bytes(distance))
        assert unknown_word(difference, distance) == int.from_bytes(word, "little")


@pytest.mark.parametrize(("source", "destination"), ADDRESSES)
def test_a_frame_for_a_capture_is_whole(source: str, destination: str) -> None:
    flow = Flow(source, 49152, destination)
    frame = ethernet_frame(flow, flow.seal(bytes(12), b"data", 0), 7)
    assert frame[12:14] == (b"\x86\xdd" if ":" in source else b"\x08\x00")
    if ":" not in source:
        words = struct.unpack(">10H", frame[14:34])
        total = sum(words)
        assert (total & 0xFFFF) + (total >> 16) == 0xFFFF
        assert frame[18:20] == b"\0\x07"


def test_bth_words_are_the_table() -> None:
    bth = Bth(opcode=0x0A, solicited=1, padcount=3, pkey=0x1234, dqpn=0xABCDEF, ackreq=1, psn=0x123456)
    flags = SOLICITED | 3 << PAD_SHIFT
    assert BTH_WORDS.pack(0x0A, flags, 0x1234, 0xABCDEF, ACK_REQUEST | 0x123456) == BTH.pack(bth)


def test_extended_headers_are_the_tables() -> None:
    assert AETH_WORD.pack(0x1F << 24 | 0x123456) == AETH.pack(Aeth(syndrome=0x1F, msn=0x123456))
    assert ATOMIC_ACK.pack(0x61 << 24 | 5, 1 << 63) == AETH.pack(Aeth(0x61, 5)) + ATOMIC_ACK_ETH.pack(
        AtomicAckEth(1 << 63)
    )
    assert RETH_VALUES.pack(1 << 63, 2, 3) == RETH.pack(Reth(1 << 63, 2, 3))
    assert ATOMIC_VALUES.pack(1, 2, 3, 4) == ATOMIC_ETH.pack(AtomicEth(1, 2, 3, 4))


@pytest.mark.parametrize(
    ("opcode", "starts", "ends", "header", "supported"),
    [
        (Opcode.SEND_FIRST, True, False, 12, True),
        (Opcode.SEND_ONLY, True, True, 12, True),
        (Opcode.SEND_LAST_IMMEDIATE, False, True, 16, False),
        (Opcode.SEND_ONLY_INVALIDATE, True, True, 16, False),
        (Opcode.WRITE_FIRST, True, False, 28, True),
        (Opcode.WRITE_MIDDLE, False, False, 12, True),
        (Opcode.WRITE_ONLY_IMMEDIATE, True, True, 32, False),
        (Opcode.READ_REQUEST, True, True, 28, True),
        (Opcode.READ_RESPONSE_FIRST, True, False, 16, True),
        (Opcode.READ_RESPONSE_MIDDLE, False, False, 12, True),
        (Opcode.ACKNOWLEDGE, True, True, 16, True),
        (Opcode.ATOMIC_ACKNOWLEDGE, True, True, 24, True),
        (Opcode.FETCH_ADD, True, True, 40, True),
    ],
)
def test_what_an_opcode_tells(opcode: Opcode, starts: bool, ends: bool, header: int, supported: bool) -> None:
    kind = KINDS[opcode]
    assert kind is not None
    assert (kind.starts, kind.ends, kind.header, kind.supported) == (starts, ends, header, supported)


def test_other_opcodes_are_not_the_reliable_connections() -> None:
    assert sum(kind is not None for kind in KINDS) == 23
    assert KINDS[Opcode.UD_SEND_ONLY] is None
    assert KINDS[0x18] is None


@given(st.integers(0, 1 << 40), st.integers(-(1 << 23), (1 << 23) - 1))
def test_a_psn_is_counted_on_from_what_is_near(reference: int, distance: int) -> None:
    assert nearest((reference + distance) & PSN_MASK, reference) == reference + distance


def test_times_are_decoded_as_infiniband_codes_them() -> None:
    assert coded_time_s(17) == pytest.approx(0.5369, abs=1e-4)
    assert len(RNR_TIMER_MS) == 32
    assert RNR_TIMER_MS[10] == 0.32


def test_packets_of_a_message() -> None:
    assert [packets_of(length, 1024) for length in (0, 1, 1024, 1025, 4096)] == [1, 1, 1, 2, 4]


@pytest.mark.parametrize(
    ("address", "gid"),
    [("192.0.2.1", "00000000000000000000ffffc0000201"), ("2001:db8::1", "20010db8000000000000000000000001")],
)
def test_gids_are_addresses_those_of_ipv4_mapped(address: str, gid: str) -> None:
    assert gid_of(address).hex() == gid
