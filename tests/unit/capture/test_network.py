"""IP, TCP, UDP and the InfiniBand headers: what is kept, what is passed over, and how lengths are told."""

from __future__ import annotations

import struct
from collections import Counter

import numpy as np
import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.ipsec import AH
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from rdstool.capture.counts import FrameCounts
from rdstool.capture.packets.ip import MAX_EXTENSION_HEADERS, MAX_OFFLOAD_BYTES
from rdstool.capture.packets.network import parse
from rdstool.transport.ib.roce.bursts import in_bursts
from rdstool.transport.ib.roce.flow import MAX_BURST, Flow, ethernet_frame
from tests.unit.capture.capture_files import erf_record
from tests.unit.capture.parsing import batch_of, ends, parse_frames, payloads

PAYLOAD = bytes(range(100))
SEGMENT = TCP(sport=16385, dport=50000, seq=1, flags="A") / Raw(PAYLOAD)
ETHERNET = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
V4 = ETHERNET / IP(src="10.0.0.1", dst="10.0.0.2")
V6 = ETHERNET / IPv6(src="fd00::1", dst="fd00::2")
LOOP = ETHERNET / IPv6(src="::1", dst="::9")
"""Addresses that LIDs could be taken for."""
IPV4 = 14
"""Offset of the IP header."""


def changed(packet: Packet | bytes, offset: int, value: bytes) -> bytes:
    data = bytearray(bytes(packet))
    data[offset : offset + len(value)] = value
    return bytes(data)


# --- TCP over IP -------------------------------------------------------------------------------------------------


def test_options_of_ip_and_tcp_are_passed() -> None:
    options = [("MSS", 1460), ("NOP", None), ("Timestamp", (1, 2)), ("SAckOK", b"")]
    ip = ETHERNET / IP(src="10.0.0.1", dst="10.0.0.2", options=b"\x44\x08\x05\x00\x00\x00\x00\x00\x01\x01\x01\x00")
    frame = bytes(ip / TCP(sport=16385, options=options) / Raw(PAYLOAD))
    assert frame[IPV4] == 0x48
    parsed, _ = parse_frames([frame, bytes(V4 / SEGMENT)])
    assert payloads(parsed.tcp) == [PAYLOAD] * 2
    assert ends(parsed.tcp) == ("10.0.0.1", "10.0.0.2")


def test_all_flags_are_kept() -> None:
    parsed, _ = parse_frames([bytes(V4 / TCP(sport=16385, flags=flags)) for flags in ("S", "SA", "FA", "R", "PAUEC")])
    assert parsed.tcp.flags.tolist() == [0x02, 0x12, 0x11, 0x04, 0xF8]
    assert parsed.tcp.length.tolist() == [0] * 5


def test_only_the_ports_that_were_asked_for() -> None:
    frames = [bytes(V4 / TCP(sport=sport, dport=dport)) for sport, dport in ((1, 2), (16385, 2), (3, 16385), (2, 3))]
    for ports, numbers in (
        (frozenset({16385}), [102, 103]),
        (frozenset({1, 3}), [101, 103, 104]),
        (frozenset({9}), []),
        (frozenset[int](), []),
        (None, [101, 102, 103, 104]),
    ):
        parsed, counts = parse_frames(frames, ports=ports)
        assert parsed.tcp.frame.tolist() == numbers
        assert counts.tcp_other == 4 - len(numbers)


def test_padding_of_ethernet_is_no_payload() -> None:
    frame = bytes(V4 / TCP(sport=16385) / Raw(b"ab")) + bytes(20)
    parsed, _ = parse_frames([frame, bytes(V6 / TCP(sport=16385)) + b"\xff" * 9])
    assert payloads(parsed.tcp) == [b"ab", b""]
    assert parsed.tcp.length.tolist() == [2, 0]


def test_a_frame_larger_than_any_mtu() -> None:
    large = bytes(60_000)
    parsed, _ = parse_frames([bytes(V4 / TCP(sport=16385) / Raw(large))])
    assert parsed.tcp.length.tolist() == [60_000]


@pytest.mark.parametrize("network", [V4, V6], ids=["IPv4", "IPv6"])
def test_a_length_of_zero_means_the_length_on_the_wire(network: Packet) -> None:
    offset = IPV4 + (2 if network is V4 else 4)
    frame = changed(network / SEGMENT, offset, b"\0\0")
    parsed, _ = parse_frames([frame, frame], wire=[len(frame), len(frame) + 70_000])
    assert parsed.tcp.length.tolist() == [len(PAYLOAD), len(PAYLOAD) + 70_000]
    assert payloads(parsed.tcp) == [PAYLOAD] * 2
    _, counts = parse_frames([frame], wire=[len(frame) + MAX_OFFLOAD_BYTES])
    assert counts.malformed == 1


def test_a_snapped_payload_keeps_its_length() -> None:
    whole = bytes(V4 / SEGMENT)
    headers = len(whole) - len(PAYLOAD)
    cuts = [headers + 10, headers, headers - 6]
    parsed, counts = parse_frames([whole[:cut] for cut in cuts], wire=[len(whole)] * 3)
    assert counts.tcp == 3
    assert payloads(parsed.tcp) == [PAYLOAD[:10], b"", b""]
    assert parsed.tcp.length.tolist() == [len(PAYLOAD)] * 3


def test_a_snapped_frame_whose_wire_length_was_lost_goes_by_ip() -> None:
    whole = bytes(V4 / SEGMENT)
    parsed, _ = parse_frames([whole[:-90]])
    assert parsed.tcp.length.tolist() == [len(PAYLOAD)]
    assert parsed.tcp.captured.tolist() == [10]


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (IPV4, b"\x44"),  # header of 16 bytes
        (IPV4, b"\x65"),  # version 6
        (IPV4 + 2, b"\0\x13"),  # 19 bytes in all
        (IPV4 + 2, b"\0\x27"),  # 19 bytes of TCP
        (IPV4 + 20 + 12, b"\x40"),  # TCP header of 16 bytes
        (IPV4 + 2, b"\0\x3c"),  # 40 bytes of TCP ...
    ],
)
def test_headers_that_contradict_themselves(offset: int, value: bytes) -> None:
    frame = bytes(V4 / SEGMENT)
    if value == b"\0\x3c":
        frame = changed(frame, IPV4 + 20 + 12, b"\xf0")  # ... with a header of 60
    parsed, counts = parse_frames([bytes(V4 / SEGMENT), changed(frame, offset, value)])
    assert counts.malformed == 1
    assert parsed.tcp.frame.tolist() == [101]


def test_fragments_are_told_apart() -> None:
    first = V4.copy()
    first[IP].flags = "MF"
    later = V4.copy()
    later[IP].frag = 5
    unfragmented = V4.copy()
    unfragmented[IP].flags = "DF"
    frames = [bytes(network / SEGMENT) for network in (first, later, unfragmented)]
    more = V6 / IPv6ExtHdrFragment(m=1, offset=0)
    behind = V6 / IPv6ExtHdrFragment(m=0, offset=8)
    only = V6 / IPv6ExtHdrFragment(m=0, offset=0)
    frames += [bytes(network / SEGMENT) for network in (more, behind, only)]
    parsed, counts = parse_frames(frames)
    assert counts.fragments_lost == 4
    assert parsed.fragments.frame.tolist() == [101, 102, 104, 105]
    assert parsed.fragments.more.tolist() == [True, False, True, False]
    assert parsed.fragments.place.tolist() == [0, 40, 0, 64]
    assert parsed.tcp.frame.tolist() == [103, 106]
    assert payloads(parsed.tcp) == [PAYLOAD] * 2


EXTENSIONS = {
    "hop by hop": IPv6ExtHdrHopByHop(),
    "routing": IPv6ExtHdrRouting(addresses=["fd00::9"], segleft=0),
    "destination": IPv6ExtHdrDestOpt(options=[]),
    "authentication": AH(nh=6, payloadlen=4, icv=bytes(12)),
    "all": IPv6ExtHdrHopByHop() / IPv6ExtHdrRouting() / IPv6ExtHdrFragment() / IPv6ExtHdrDestOpt(),
}


@pytest.mark.parametrize("name", EXTENSIONS)
def test_extension_headers_of_ipv6_are_passed(name: str) -> None:
    frame = bytes(V6 / EXTENSIONS[name] / SEGMENT)
    parsed, _ = parse_frames([frame, bytes(V4 / SEGMENT), frame])
    assert payloads(parsed.tcp) == [PAYLOAD] * 3
    assert ends(parsed.tcp) == ("fd00::1", "fd00::2")
    for cut in range(54, len(frame) - len(PAYLOAD) - 6):
        _, counts = parse_frames([frame[:cut]], wire=[len(frame)])
        assert counts.cut == 1


def test_extension_headers_have_a_limit() -> None:
    frame: Packet = V6.copy()
    for _ in range(MAX_EXTENSION_HEADERS + 1):
        frame /= IPv6ExtHdrDestOpt()
    _, counts = parse_frames([bytes(frame / SEGMENT)])
    assert counts.other_protocols == Counter({60: 1})


def test_an_extension_header_longer_than_its_packet() -> None:
    frame = bytes(V6 / IPv6ExtHdrDestOpt() / SEGMENT)
    _, counts = parse_frames([changed(frame, 14 + 40 + 1, b"\xff")])
    assert counts.malformed + counts.cut == 1


def test_other_protocols_are_counted_by_number() -> None:
    frames = [bytes(V4 / ICMP()), bytes(V4 / UDP(dport=53)), bytes(V6 / UDP(sport=4791, dport=1)), bytes(V4 / ICMP())]
    frames.append(bytes(ETHERNET / IP(proto=132) / Raw(b"SCTP")))
    parsed, counts = parse_frames(frames)
    assert counts.other_protocols == Counter({1: 2, 132: 1})
    assert counts.udp_other == 2
    assert not len(parsed.tcp)
    assert not len(parsed.ib)


def test_columns_have_the_types_of_the_data_model() -> None:
    with_rows, _ = parse_frames([bytes(V4 / SEGMENT), bytes(V4 / UDP(dport=4791) / Raw(bytes(20)))])
    without, _ = parse_frames([bytes(V4 / ICMP())])
    both, _ = parse_frames([bytes(V4 / SEGMENT), bytes(V6 / SEGMENT)])
    for parsed in (with_rows, without, both):
        for columns, names in ((parsed.tcp, "payload captured length"), (parsed.ib, "network bth captured length")):
            assert columns.src_hi.dtype == columns.dst_lo.dtype == np.uint64
            assert {getattr(columns, name).dtype for name in ("frame time " + names).split()} == {np.dtype(np.int64)}
        assert parsed.tcp.sport.dtype == parsed.tcp.dport.dtype == np.uint16
        assert parsed.tcp.seq.dtype == parsed.tcp.ack.dtype == np.uint32
        assert parsed.tcp.flags.dtype == np.uint8


def test_no_frames_are_no_packets() -> None:
    parsed, counts = parse_frames([])
    assert not len(parsed.tcp)
    assert not len(parsed.ib)
    assert counts.frames == 0


# --- InfiniBand --------------------------------------------------------------------------------------------------

BTH = struct.pack(">BBHII", 4, 0, 0xFFFF, 0x11, 0x8000_0005)
BODY = bytes(range(48)) * 2
ICRC = b"\xaa\xbb\xcc\xdd"
PACKET = BTH + BODY + ICRC
GIDS = bytes.fromhex("fe80" + 12 * "00" + "0001" + "fe80" + 12 * "00" + "0002")


def grh(data: bytes, next_header: int = 0x1B, length: int | None = None) -> bytes:
    size = len(data) if length is None else length
    return struct.pack(">IHBB", 6 << 28, size, next_header, 64) + GIDS + data


def lrh(kind: int, data: bytes) -> bytes:
    return struct.pack(">BBHHH", 0, kind, 7, (8 + len(data)) // 4, 9) + data


ROCE_V1 = bytes(12) + b"\x89\x15" + grh(PACKET)
INFINIBAND: dict[str, tuple[int, bytes, tuple[str, str], int, int]] = {
    "RoCE v2, IPv4": (1, bytes(V4 / UDP(dport=4791) / Raw(PACKET)), ("10.0.0.1", "10.0.0.2"), 14, 42),
    "RoCE v2, IPv6": (1, bytes(V6 / UDP(dport=4791) / Raw(PACKET)), ("fd00::1", "fd00::2"), 14, 62),
    "RoCE v2, loopback": (1, bytes(LOOP / UDP(dport=4791) / Raw(PACKET)), ("::1", "::9"), 14, 62),
    "RoCE v1": (1, ROCE_V1, ("fe80::1", "fe80::2"), 14, 54),
    "RoCE v1, tagged": (1, bytes(12) + b"\x81\0\0\x05" + ROCE_V1[12:], ("fe80::1", "fe80::2"), 18, 58),
    "local": (247, lrh(2, PACKET), ("lid:9", "lid:7"), -1, 8),
    "global": (247, lrh(3, grh(PACKET)), ("fe80::1", "fe80::2"), 8, 48),
    "ERF, local": (197, erf_record(21, lrh(2, PACKET)), ("lid:9", "lid:7"), -1, 24),
    "ERF, global": (197, erf_record(21, lrh(3, grh(PACKET)), extensions=2), ("fe80::1", "fe80::2"), 40, 80),
}


@pytest.mark.parametrize("name", INFINIBAND)
@pytest.mark.parametrize("trailer", [0, 2, 9], ids=["exact", "VCRC", "padding"])
def test_packets_of_infiniband_are_found_behind_every_link_header(name: str, trailer: int) -> None:
    link, frame, addresses, network, bth = INFINIBAND[name]
    parsed, counts = parse_frames([frame + b"\xff" * trailer], link)
    ib = parsed.ib
    assert counts.ib == len(ib) == 1
    assert payloads(ib) == [BODY]
    assert ib.length.tolist() == [len(BODY)]
    assert ends(ib) == addresses
    first = 5  # Bytes in front of the frame, in `batch_of`.
    assert ib.bth.tolist() == [first + bth]
    assert ib.network.tolist() == [-1 if network < 0 else first + network]
    assert ib.data[ib.bth[0] : ib.bth[0] + 12].tobytes() == BTH


@pytest.mark.parametrize("name", INFINIBAND)
def test_snapped_packets_of_infiniband(name: str) -> None:
    link, frame, *_, bth = INFINIBAND[name]
    for cut in range(len(frame) + 1):
        parsed, counts = parse_frames([frame[:cut]], link, wire=[len(frame)])
        if cut < bth + 12:
            assert counts.cut == 1, cut
        else:
            assert payloads(parsed.ib) == [BODY[: cut - bth - 12]]
            assert parsed.ib.length.tolist() == [len(BODY)]


def test_all_kinds_of_infiniband_in_one_batch_are_in_order() -> None:
    kinds = [*INFINIBAND.values(), *reversed(INFINIBAND.values())]
    parsed, _ = parse_frames([frame for _, frame, *_ in kinds], [link for link, *_ in kinds])
    assert payloads(parsed.ib) == [BODY] * len(kinds)
    assert [ends(parsed.ib, row) for row in range(len(kinds))] == [addresses for _, _, addresses, *_ in kinds]


def bursts_of(source: str, destination: str, packets: list[tuple[int, int]]) -> tuple[list[bytes], list[bytes]]:
    """Packets (opcode and bytes of payload), each alone in a frame; and frames of those that are sent together."""
    flow = Flow(source, 49152, destination)
    made = (
        struct.pack(">BBHII", opcode, 0, 0xFFFF, 0x11, number) + number.to_bytes(2) * (size // 2)
        for number, (opcode, size) in enumerate(packets)
    )
    bursts = in_bursts(flow, made, MAX_BURST)
    alone = [ethernet_frame(flow, data, place) for burst in bursts for place, data in enumerate(burst)]
    together = []
    for burst in bursts:
        frame = ethernet_frame(flow, b"".join(burst), 0)
        udp = 34 if ":" not in source else 54
        together.append(changed(frame, udp + 6, b"\x12\x34"))
    return alone, together


@pytest.mark.parametrize("addresses", [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")], ids=["IPv4", "IPv6"])
def test_bursts_that_nobody_has_cut_are_packets(addresses: tuple[str, str]) -> None:
    wanted = [(4, 112)] * 64 + [(4, 112)] * 5 + [(4, 64)] + [(0, 4096), (2, 48)] * 2 + [(4, 200)] + [(12, 16)] * 3
    alone, together = bursts_of(*addresses, wanted)
    parsed = []
    for frames in (alone, together):
        counts = FrameCounts()
        parsed.append(parse(batch_of(frames), counts).ib)
        assert counts.ib == len(frames)
    contents = [
        [bytes(ib.data[at : at + 12 + length]) for at, length in zip(ib.bth, ib.length, strict=True)] for ib in parsed
    ]
    assert contents[0] == contents[1]
    assert len(contents[0]) == len(wanted)
    assert parsed[1].captured.tolist() == parsed[1].length.tolist() == parsed[0].length.tolist()
    numbers = [101] * 64 + [102] * 6 + [103] * 2 + [104] * 2 + [105] * 2 + [106] * 2
    assert parsed[1].frame.tolist() == numbers


def test_one_packet_whose_payload_looks_like_a_header_is_one_packet() -> None:
    bth = struct.pack(">BBHII", 4, 0, 0xFFFF, 0x11, 5)
    flow = Flow("10.0.0.1", 49152, "10.0.0.2")
    frame = changed(ethernet_frame(flow, flow.seal(bth, bytes(100) + bth + bytes(100), 0), 0), 40, b"\x12\x34")
    parsed, _ = parse_frames([frame])
    assert parsed.ib.length.tolist() == [212]


@pytest.mark.parametrize(("looks", "packets"), [(10, 2), (20, 1)])
def test_so_many_places_that_look_like_a_header_are_tried_and_no_more(looks: int, packets: int) -> None:
    bth = struct.pack(">BBHII", 4, 0, 0xFFFF, 0x11, 5)
    flow = Flow("10.0.0.1", 49152, "10.0.0.2")
    burst = b"".join(flow.seal(bth, bth * looks, 0, place) for place in range(2))
    frame = changed(ethernet_frame(flow, burst, 0), 40, b"\x12\x34")
    assert len(parse(batch_of([frame]), FrameCounts()).ib) == packets


def test_a_burst_has_a_udp_checksum() -> None:
    _, (frame,) = bursts_of("10.0.0.1", "10.0.0.2", [(4, 112)] * 2)
    parsed, _ = parse_frames([changed(frame, 40, b"\0\0")])
    assert len(parsed.ib) == 1


def test_an_acknowledgement_without_payload() -> None:
    parsed, _ = parse_frames([bytes(V4 / UDP(dport=4791) / Raw(BTH + ICRC))])
    assert parsed.ib.length.tolist() == [0]


def test_what_is_too_short_for_a_packet_is_malformed() -> None:
    frames = [bytes(V4 / UDP(dport=4791) / Raw(BTH + ICRC[:3])), bytes(12) + b"\x89\x15" + grh(BTH)]
    _, counts = parse_frames([*frames, lrh(2, BTH)], [1, 1, 247])
    assert counts.malformed == 3


def test_a_length_of_zero_in_grh_and_lrh_means_the_length_on_the_wire() -> None:
    v1 = bytes(12) + b"\x89\x15" + grh(PACKET, length=0)
    native = changed(lrh(2, PACKET), 4, b"\0\0")
    parsed, _ = parse_frames([v1, native], [1, 247])
    assert payloads(parsed.ib) == [BODY] * 2


def test_a_wrong_udp_length_gives_way_to_that_of_ip() -> None:
    frame = bytes(V4 / UDP(dport=4791) / Raw(PACKET))
    parsed, _ = parse_frames([changed(frame, 38, length) for length in (b"\0\0", b"\0\7", b"\xff\xff")])
    assert payloads(parsed.ib) == [BODY] * 3
    assert parsed.ib.length.tolist() == [len(BODY)] * 3


def test_other_packets_on_an_infiniband_link() -> None:
    frames = [lrh(0, PACKET), lrh(1, grh(PACKET)), lrh(3, grh(PACKET, next_header=6)), lrh(2, PACKET)]
    parsed, counts = parse_frames(frames, 247)
    assert counts.other_links == Counter({247: 2})
    assert counts.malformed == 1
    assert parsed.ib.frame.tolist() == [104]


def test_tcp_and_infiniband_side_by_side() -> None:
    frames = [bytes(V4 / SEGMENT), INFINIBAND["RoCE v2, IPv4"][1], bytes(V6 / SEGMENT), ROCE_V1]
    parsed, _ = parse_frames(frames)
    assert parsed.tcp.frame.tolist() == [101, 103]
    assert parsed.ib.frame.tolist() == [102, 104]
