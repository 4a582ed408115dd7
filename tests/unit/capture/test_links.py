"""Each link layer leads to the same TCP segment."""

from __future__ import annotations

import struct
from collections import Counter

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Raw

from rdstool.capture.counts import FrameCounts
from rdstool.capture.packets.links import MAX_TAGS, UNKNOWN, network_layer
from tests.unit.capture.capture_files import erf_record
from tests.unit.capture.parsing import batch_of, ends, parse_frames, payloads

PAYLOAD = b"payload of RDS"
SEGMENT = TCP(sport=40000, dport=16385, seq=0xFFFFFFF0, ack=0x80000001, flags="PA") / Raw(PAYLOAD)
V4 = bytes(IP(src="10.0.0.1", dst="10.0.0.2") / SEGMENT)
V6 = bytes(IPv6(src="fd00::1", dst="fd00::2") / SEGMENT)
MAC = bytes(range(12))
ETHERNET = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")


def sll(protocol: int, data: bytes) -> bytes:
    return struct.pack(">HHH8sH", 0, 1, 6, bytes(8), protocol) + data


def sll2(protocol: int, data: bytes) -> bytes:
    return struct.pack(">HHIHBB8s", protocol, 0, 2, 1, 0, 6, bytes(8)) + data


def ethernet(protocol: int, data: bytes) -> bytes:
    return MAC + struct.pack(">H", protocol) + data


def ipoib(protocol: int, data: bytes) -> bytes:
    return bytes(range(40)) + struct.pack(">HH", protocol, 0) + data


QINQ = ETHERNET / Dot1AD(vlan=3) / Dot1Q(vlan=4)
VN_TAG_AND_VLAN = b"\x80\x01\0\2" + b"\x81\0\0\7" + b"\x86\xdd"
E_TAG_AND_VLAN = b"\0\0\0\5\0\0" + b"\x81\0\0\7" + b"\x86\xdd"
LINKS: dict[str, tuple[int, bytes, bytes]] = {
    "Ethernet": (1, ethernet(0x800, V4), ethernet(0x86DD, V6)),
    "802.1Q": (1, ethernet(0x8100, b"\0\x07\x08\0" + V4), ethernet(0x8100, b"\0\x07\x86\xdd" + V6)),
    "QinQ": (1, bytes(QINQ / IP(V4)), bytes(QINQ / IPv6(V6))),
    "0x9100": (1, ethernet(0x9100, b"\0\x01\x08\0" + V4), ethernet(0x9100, b"\0\x01\x81\0\0\x02\x86\xdd" + V6)),
    "VN-Tag": (1, ethernet(0x8926, b"\x80\x01\0\2\x08\0" + V4), ethernet(0x8926, VN_TAG_AND_VLAN + V6)),
    "802.1BR": (1, ethernet(0x893F, b"\0\0\0\x05\0\0\x08\0" + V4), ethernet(0x893F, E_TAG_AND_VLAN + V6)),
    "four tags": (1, ethernet(0x8100, b"\0\x01\x81\0" * 3 + b"\0\x01\x08\0" + V4), ethernet(0x86DD, V6)),
    "cooked": (113, sll(0x800, V4), sll(0x86DD, V6)),
    "cooked with a tag": (113, sll(0x8100, b"\0\x07\x08\0" + V4), sll(0x86DD, V6)),
    "cooked v2": (276, sll2(0x800, V4), sll2(0x86DD, V6)),
    "raw 12": (12, V4, V6),
    "raw 14": (14, V4, V6),
    "raw 101": (101, V4, V6),
    "raw 228": (228, V4, V6),
    "raw 229": (229, V4, V6),
    "null, Linux": (0, struct.pack("<I", 2) + V4, struct.pack("<I", 10) + V6),
    "null, NetBSD": (0, struct.pack("<I", 2) + V4, struct.pack("<I", 24) + V6),
    "null, FreeBSD": (0, struct.pack("<I", 2) + V4, struct.pack("<I", 28) + V6),
    "null, macOS": (0, struct.pack("<I", 2) + V4, struct.pack("<I", 30) + V6),
    "null, big-endian": (0, struct.pack(">I", 2) + V4, struct.pack(">I", 30) + V6),
    "loop": (108, struct.pack(">I", 2) + V4, struct.pack(">I", 24) + V6),
    "ERF Ethernet": (197, erf_record(2, ethernet(0x800, V4)), erf_record(2, ethernet(0x86DD, V6))),
    "ERF, coloured": (197, erf_record(11, ethernet(0x800, V4)), erf_record(16, ethernet(0x8100, b"\0\7\x86\xdd" + V6))),
    "ERF with extensions": (
        197,
        erf_record(2, ethernet(0x800, V4), extensions=1),
        erf_record(20, ethernet(0x86DD, V6), extensions=3),
    ),
    "IPoIB": (242, ipoib(0x800, V4), ipoib(0x86DD, V6)),
    "ERF IP": (197, erf_record(22, V4), erf_record(23, V6)),
}


@pytest.mark.parametrize("name", LINKS)
def test_the_segment_is_the_same_on_each_link(name: str) -> None:
    link, v4, v6 = LINKS[name]
    parsed, counts = parse_frames([v4, v6, v4], link)
    tcp = parsed.tcp
    assert counts.tcp == counts.frames == 3
    assert tcp.frame.tolist() == [101, 102, 103]
    assert [ends(tcp, row) for row in range(3)] == [
        ("10.0.0.1", "10.0.0.2"),
        ("fd00::1", "fd00::2"),
        ("10.0.0.1", "10.0.0.2"),
    ]
    assert payloads(tcp) == [PAYLOAD] * 3
    assert tcp.length.tolist() == [len(PAYLOAD)] * 3
    assert set(zip(tcp.sport.tolist(), tcp.dport.tolist(), strict=True)) == {(40000, 16385)}
    assert set(tcp.seq.tolist()) == {0xFFFFFFF0}
    assert set(tcp.ack.tolist()) == {0x80000001}
    assert set(tcp.flags.tolist()) == {0x18}


def test_links_may_be_mixed() -> None:
    links, frames = [], []
    for link, v4, v6 in LINKS.values():
        links += [link, link]
        frames += [v6, v4]
    parsed, counts = parse_frames(frames, links)
    assert counts.tcp == len(frames)
    assert payloads(parsed.tcp) == [PAYLOAD] * len(frames)
    assert ends(parsed.tcp, 0) == ("fd00::1", "fd00::2")


@pytest.mark.parametrize("name", LINKS)
def test_a_frame_that_is_cut_in_its_headers_is_counted(name: str) -> None:
    link, v4, v6 = LINKS[name]
    for whole in (v4, v6):
        up_to_flags = len(whole) - len(PAYLOAD) - 20 + 14
        cut = [whole[:length] for length in range(up_to_flags)]
        parsed, counts = parse_frames(cut, link, [len(whole)] * len(cut))
        assert not len(parsed.tcp)
        assert counts.cut == len(cut)


def test_an_unknown_link_type_is_counted_by_number() -> None:
    parsed, counts = parse_frames([V4, V4, V4, ethernet(0x800, V4)], [147, 195, 147, 1])
    assert counts.other_links == Counter({147: 2, 195: 1})
    assert len(parsed.tcp) == 1


def test_what_is_not_ip_is_counted_by_ethertype() -> None:
    frames = [
        ethernet(0x0806, bytes(28)),
        ethernet(0x88CC, bytes(28)),
        ethernet(0x8100, b"\0\1\x08\x06" + bytes(28)),
        ethernet(0x0026, bytes(38)),
        struct.pack("<I", 99) + V4,
        b"\x50" + V4,
    ]
    _, counts = parse_frames(frames, [1, 1, 1, 1, 0, 101])
    assert counts.arp == 2
    assert counts.other_ethertypes == Counter({0x88CC: 1, 0: 3})


def test_more_tags_than_the_limit_stay_unread() -> None:
    tags = b"\0\x01\x81\0" * MAX_TAGS
    _, counts = parse_frames([ethernet(0x8100, tags + b"\0\x01\x08\0" + V4)])
    assert counts.other_ethertypes == Counter({0x8100: 1})


def test_erf_records_of_other_kinds_are_another_link() -> None:
    parsed, counts = parse_frames([erf_record(1, bytes(40)), erf_record(2, ethernet(0x800, V4))], 197)
    assert counts.other_links == Counter({197: 1})
    assert len(parsed.tcp) == 1


def test_endless_erf_extension_headers_are_not_followed() -> None:
    record = erf_record(2, ethernet(0x800, V4), extensions=1)
    endless = record[:16] + (b"\x80" + bytes(7)) * 60
    parsed, _ = parse_frames([endless], 197)
    assert not len(parsed.tcp)


def test_the_network_header_is_where_it_is() -> None:
    batch = batch_of([ethernet(0x800, V4), ethernet(0x8100, b"\0\x07\x86\xdd" + V6), V4], [1, 1, 147])
    cursor, ethertype = network_layer(batch, FrameCounts())
    assert cursor.row.tolist() == [0, 1]
    assert (cursor.at - batch.offset[:2]).tolist() == [14, 18]
    assert ethertype.tolist() == [0x800, 0x86DD]
    assert UNKNOWN not in ethertype
