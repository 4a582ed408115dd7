"""InfiniBand in Scapy: headers chained by opcode, pad bytes, ICRC on every link."""

from __future__ import annotations

import pytest
from scapy.contrib import roce
from scapy.contrib.roce import CNPPadding
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Padding, Raw

from dissectors.all import (
    AETH,
    BTH,
    DETH,
    GRH,
    IETH,
    LRH,
    MAD,
    RDS,
    RETH,
    AtomicAckETH,
    AtomicETH,
    ImmDT,
)
from dissectors.infiniband import extended_headers
from dissectors.wire.icrc import icrc_good
from dissectors.wire.infiniband import Opcode
from dissectors.wire.table import table_of

ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
LINKS = {
    "RoCE v2, IPv4": ETHER / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(),
    "RoCE v2, IPv6": ETHER / IPv6(src="fd00::1", dst="fd00::2") / UDP(),
    "RoCE v1": ETHER / GRH(sgid="fe80::1", dgid="fe80::2"),
    "native": LRH(dlid=3, slid=4),
    "native with GRH": LRH(dlid=3, slid=4) / GRH(sgid="fe80::1", dgid="fe80::2"),
}
RC_AND_UD = [opcode for opcode in Opcode if opcode != Opcode.CNP]


@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS.keys())
@pytest.mark.parametrize("size", range(5))
def test_rds_is_found_behind_every_link_and_the_icrc_verifies(link: Packet, size: int) -> None:
    packet = link / BTH(dqpn=17, psn=9) / RDS(sequence=1, sport=4001, dport=4002) / (b"abcd"[:size])
    data = bytes(packet)
    found = link.__class__(data)
    assert found[RDS].sequence == 1
    assert bytes(found[RDS].payload) == b"abcd"[:size]
    assert found[BTH].padcount == -size % 4
    assert bytes(found) == data
    native = isinstance(link, LRH)
    assert icrc_good(data[8 if native else 14 :], lrh=data[:8] if native else None)


@pytest.mark.parametrize("opcode", RC_AND_UD, ids=lambda opcode: opcode.name)
def test_the_opcode_decides_which_headers_follow(opcode: Opcode) -> None:
    expected = extended_headers(opcode)
    stack: Packet = BTH(opcode=opcode, dqpn=17)
    for layer in expected:
        stack = stack / layer()
    found = BTH(bytes(stack / b"data"))
    chain = []
    layer = found.payload
    while not isinstance(layer, Raw):
        chain.append(type(layer))
        layer = layer.payload
    assert tuple(chain) == expected
    assert layer.load == b"data"


@pytest.mark.parametrize(
    ("opcode", "headers"),
    [
        (Opcode.SEND_ONLY, ()),
        (Opcode.SEND_LAST_IMMEDIATE, (ImmDT,)),
        (Opcode.WRITE_ONLY_IMMEDIATE, (RETH, ImmDT)),
        (Opcode.READ_REQUEST, (RETH,)),
        (Opcode.READ_RESPONSE_MIDDLE, ()),
        (Opcode.READ_RESPONSE_LAST, (AETH,)),
        (Opcode.ATOMIC_ACKNOWLEDGE, (AETH, AtomicAckETH)),
        (Opcode.FETCH_ADD, (AtomicETH,)),
        (Opcode.SEND_ONLY_INVALIDATE, (IETH,)),
        (Opcode.UD_SEND_ONLY, (DETH,)),
    ],
)
def test_headers_of_an_opcode(opcode: Opcode, headers: tuple[type[Packet], ...]) -> None:
    assert extended_headers(opcode) == headers


def test_pad_bytes_are_kept_whatever_they_are() -> None:
    data = bytes(IP() / UDP() / BTH(opcode=Opcode.SEND_MIDDLE, padcount=2, pad=b"\xaa\xbb") / b"ab")
    found = IP(data)
    assert found[BTH].payload.load == b"ab"
    assert found[BTH].pad == b"\xaa\xbb"
    assert bytes(found) == data


def test_a_wrong_pad_count_takes_no_more_than_there_is() -> None:
    found = BTH(bytes(BTH(padcount=0) / b"")[:1] + b"\x30" + bytes(14))
    assert (found.padcount, found.pad) == (3, b"")


def test_a_changed_packet_gets_a_new_icrc_when_asked() -> None:
    packet = IP(bytes(IP() / UDP() / BTH(dqpn=5) / RDS(sequence=1, sport=4, dport=5)))
    packet[BTH].psn = 77
    assert not icrc_good(bytes(packet))
    del packet[BTH].icrc
    assert icrc_good(bytes(packet))


def test_the_lengths_of_native_headers_are_computed() -> None:
    data = bytes(LRH() / GRH() / BTH() / b"12345678")
    assert LRH(data).pktlen * 4 == len(data) == 8 + 40 + 12 + 8 + 4
    assert LRH(data)[GRH].paylen == 24
    assert (LRH(data).lnh, LRH(data)[GRH].nexthdr) == (3, 0x1B)


def test_the_crc_of_the_link_is_not_payload() -> None:
    data = bytes(LRH() / BTH() / b"1234") + b"\xca\xfe"
    found = LRH(data)
    assert found[Raw].load == b"1234"
    assert found[Padding].load == b"\xca\xfe"
    assert bytes(found) == data


def test_a_send_without_a_good_checksum_is_not_rds() -> None:
    good = IP() / UDP() / BTH() / RDS(sequence=1, sport=4, dport=5)
    assert RDS in IP(bytes(good))
    good[RDS].checksum = 0x1234
    assert RDS not in IP(bytes(good))
    assert RDS not in IP(bytes(IP() / UDP() / BTH(opcode=Opcode.SEND_MIDDLE) / RDS(sequence=1, sport=4, dport=5)))


def test_queue_pair_1_carries_management_datagrams_only_as_datagrams() -> None:
    assert MAD in BTH(bytes(BTH() / DETH() / MAD()))
    assert MAD not in BTH(bytes(BTH(dqpn=2) / DETH() / MAD()))


def test_a_congestion_notification_keeps_scapys_layer() -> None:
    found = IP(bytes(IP() / UDP() / BTH(opcode=Opcode.CNP, becn=1) / CNPPadding()))
    assert found[BTH].payload == CNPPadding()


@pytest.mark.parametrize("layer", [BTH, GRH, AETH])
def test_the_tables_agree_with_scapys_own_layers(layer: type[Packet]) -> None:
    theirs: type[Packet] = getattr(roce, layer.__name__)
    assert issubclass(layer, theirs)
    ours = [(field.name, field.width) for field in table_of(layer.wire).fields]  # type: ignore[attr-defined]
    size = table_of(layer.wire).size  # type: ignore[attr-defined]
    assert [name for name, _ in ours] == [field.name for field in theirs.fields_desc if field.name != "icrc"]
    for number, (name, width) in enumerate(ours):
        value = (1 << width) - 1
        one = theirs(**{other: 0 for other, _ in ours} | {name: value}, **({"icrc": 0} if layer is BTH else {}))
        whole = int.from_bytes(bytes(one)[:size], "big")
        assert whole == value << table_of(layer.wire).fields[number].shift  # type: ignore[attr-defined]


def test_the_summary_names_the_operation() -> None:
    frame = IP() / UDP() / BTH(opcode=Opcode.READ_REQUEST, dqpn=0x11, psn=5) / RETH(rkey=0x300, dlen=16384)
    assert "InfiniBand READ_REQUEST to queue pair 0x11 PSN 5" in frame.summary()
    assert "16384 bytes" in frame.summary()
    assert "opcode 0xff" in BTH(opcode=0xFF).summary()
