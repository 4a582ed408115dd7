"""Tunnels: the packet inside is read as it would be outside, and what is no tunnel is counted for what it seems."""

from __future__ import annotations

from collections import Counter
from random import Random

import numpy as np
import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from rdstool.capture.counts import FrameCounts
from rdstool.capture.packets.tunnels import MAX_TUNNELS
from tests.kit import tunnels
from tests.kit.tunnels import Wrap
from tests.unit.capture.parsing import batch_of, check_counts, ends, parse_frames, payloads, put_together

PAYLOAD = bytes(range(200))
ETHERNET = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
SEGMENT = TCP(sport=16385, dport=50000, seq=1, flags="A") / Raw(PAYLOAD)
V4 = bytes(ETHERNET / IP(src="10.0.0.1", dst="10.0.0.2") / SEGMENT)
V6 = bytes(ETHERNET / IPv6(src="fd00::1", dst="fd00::2") / SEGMENT)
ROCE = bytes(ETHERNET / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=49152, dport=4791) / Raw(bytes(48)))


def name_of(wrap: Wrap) -> str:
    return wrap.__name__


@pytest.mark.parametrize("wrap", tunnels.ALL, ids=name_of)
@pytest.mark.parametrize(("frame", "hosts"), [(V4, ("10.0.0.1", "10.0.0.2")), (V6, ("fd00::1", "fd00::2"))])
def test_the_segment_in_a_tunnel_is_found_between_the_inner_addresses(
    wrap: Wrap, frame: bytes, hosts: tuple[str, str]
) -> None:
    parsed, counts = parse_frames([wrap(frame), frame])
    assert payloads(parsed.tcp) == [PAYLOAD, PAYLOAD]
    assert ends(parsed.tcp) == hosts
    assert np.diff(parsed.tcp.frame).tolist() == [1]
    assert (counts.tcp, counts.tunnelled) == (2, 1)
    check_counts(counts)


@pytest.mark.parametrize("wrap", tunnels.ALL, ids=name_of)
def test_roce_in_a_tunnel_has_its_own_ip_header_for_the_icrc(wrap: Wrap) -> None:
    parsed, counts = parse_frames([wrap(ROCE)])
    assert ends(parsed.ib) == ("10.0.0.1", "10.0.0.2")
    assert int(parsed.ib.bth[0] - parsed.ib.network[0]) == 28
    assert counts.ib == 1


@pytest.mark.parametrize("wrap", tunnels.ALL, ids=name_of)
def test_a_frame_cut_anywhere_is_counted_once(wrap: Wrap) -> None:
    whole = wrap(V4)
    frames = [whole[:size] for size in range(1, len(whole))]
    parsed, counts = parse_frames(frames, wire=[len(whole)] * len(frames))
    check_counts(counts)
    assert counts.cut + counts.tcp + sum(counts.other_ethertypes.values()) == len(frames)
    assert len(parsed.tcp) == len(PAYLOAD) + 6  # 14 of the TCP header's 20 bytes do


@pytest.mark.parametrize("frame", [V4, V6])
def test_what_stands_behind_an_authentication_header_has_the_addresses_before_it(frame: bytes) -> None:
    parsed, counts = parse_frames([tunnels.authenticated(frame)])
    assert payloads(parsed.tcp) == [PAYLOAD]
    assert ends(parsed.tcp) == (("10.0.0.1", "10.0.0.2") if frame is V4 else ("fd00::1", "fd00::2"))
    assert (counts.tcp, counts.tunnelled) == (1, 0)
    check_counts(counts)


def test_tunnels_in_tunnels_are_followed_to_a_limit() -> None:
    frames = [V4]
    for _ in range(MAX_TUNNELS + 3):
        frames.append(tunnels.gre(frames[-1]))
    parsed, counts = parse_frames(frames)
    assert payloads(parsed.tcp) == [PAYLOAD] * (MAX_TUNNELS + 1)
    assert (counts.tunnelled, counts.too_deep) == (MAX_TUNNELS + 3, 3)
    check_counts(counts)


def changed(frame: bytes, at: int, value: bytes) -> bytes:
    return frame[:at] + value + frame[at + len(value) :]


BEHIND_IP = tunnels.ETHERNET_BYTES + 20
BEHIND_UDP = BEHIND_IP + 8


@pytest.mark.parametrize(
    ("frame", "protocols", "udp", "ethertypes"),
    [
        (changed(tunnels.gre(V4), BEHIND_IP, b"\x40\x00"), {47: 1}, 0, {}),  # source routes
        (changed(tunnels.gre(V4), BEHIND_IP, b"\x30\x01\x88\x0b"), {47: 1}, 0, {}),  # PPTP
        (changed(tunnels.gre(V4), BEHIND_IP + 2, b"\x00\x00"), {}, 0, {0: 1}),  # a keep-alive
        (changed(tunnels.gre(V4), BEHIND_IP + 2, b"\x08\x06"), {}, 0, {}),  # ARP
        (changed(tunnels.etherip(V4), BEHIND_IP, b"\x00"), {97: 1}, 0, {}),
        (changed(tunnels.vxlan(V4), BEHIND_UDP, b"\x00"), {}, 1, {}),  # no VNI: something else on this port
        (changed(tunnels.vxlan_gpe(V4), BEHIND_UDP + 3, b"\x06"), {}, 1, {}),  # not assigned
        (changed(tunnels.geneve(V4), BEHIND_UDP, b"\x42"), {}, 1, {}),  # version 1
        (changed(tunnels.geneve(V4), BEHIND_UDP + 2, b"\x12\x34"), {}, 0, {0x1234: 1}),
        (changed(tunnels.erspan_2(V4), BEHIND_IP + 8, b"\x20"), {}, 0, {0x88BE: 1}),  # version 2 in a place of 1
        (changed(tunnels.erspan_3(V4), BEHIND_IP + 8, b"\x10"), {}, 0, {0x22EB: 1}),
        (changed(tunnels.erspan_3(V4), BEHIND_IP + 18, b"\x08"), {}, 0, {0x22EB: 1}),  # an IP packet
        (changed(tunnels.mpls(V4), 14 + 8, b"\x15"), {}, 0, {0x8847: 1}),  # an associated channel
        (changed(tunnels.pppoe(V4), 14 + 6, b"\xc0\x21"), {}, 0, {0x8864: 1}),  # what sets up the link
        (changed(tunnels.pppoe(V4), 14, b"\x12"), {}, 0, {0x8864: 1}),
        (changed(tunnels.nsh(V4), 14 + 3, b"\x06"), {}, 0, {0x894F: 1}),  # not assigned
        (changed(tunnels.nsh(V4), 14, b"\x4f"), {}, 0, {0x894F: 1}),  # version 1
        (changed(tunnels.nsh(V4), 14, b"\x0f\xc1"), {}, 0, {0x894F: 1}),  # shorter than itself
        (changed(tunnels.gtp(V4), BEHIND_UDP, b"\x50"), {}, 1, {}),  # version 2
        (changed(tunnels.gtp(V4), BEHIND_UDP + 1, b"\x01"), {}, 1, {}),  # an echo request
        (changed(tunnels.gtp(V4), BEHIND_UDP + 8, b"\x05"), {}, 0, {0: 1}),  # no IP
        (changed(tunnels.gtp_with_extensions(V4), BEHIND_UDP + 12, b"\x00"), {}, 0, {0: 1}),  # an extension without end
        (tunnels.ipv4(50, V4), {50: 1}, 0, {}),
    ],
)
def test_what_is_not_unpacked_is_counted_for_what_it_seems(
    frame: bytes, protocols: dict[int, int], udp: int, ethertypes: dict[int, int]
) -> None:
    parsed, counts = parse_frames([frame])
    assert len(parsed.tcp) == 0
    assert (counts.other_protocols, counts.udp_other) == (Counter(protocols), udp)
    assert counts.other_ethertypes == Counter(ethertypes)
    check_counts(counts)


def test_a_tunnel_whose_packets_come_in_fragments_is_put_together_first() -> None:
    whole = tunnels.vxlan(V4)
    head, body = whole[14:34], whole[34:]
    pieces = [body[:96], body[96:]]
    frames = []
    for number, piece in enumerate(pieces):
        total, place = (20 + len(piece)).to_bytes(2), ((1 - number) << 13 | number * 96 // 8).to_bytes(2)
        frames.append(whole[:14] + head[:2] + total + b"\x00\x09" + place + head[8:] + piece)
    parsed, counts = put_together([batch_of(frames)])
    assert payloads(parsed[-1].tcp) == [PAYLOAD]
    assert ends(parsed[-1].tcp) == ("10.0.0.1", "10.0.0.2")
    assert (counts.tcp, counts.fragments, counts.fragments_lost, counts.tunnelled) == (1, 1, 0, 1)


def test_fragments_in_a_tunnel_are_put_together() -> None:
    head, body = V4[14:34], V4[34:]
    frames = []
    for place, more, piece in ((0, 1, body[:96]), (12, 0, body[96:])):
        words = (20 + len(piece)).to_bytes(2) + b"\x00\x09" + (more << 13 | place).to_bytes(2)
        frames.append(tunnels.geneve(V4[:14] + head[:2] + words + head[8:] + piece))
    parsed, counts = put_together([batch_of(frames)])
    assert payloads(parsed[-1].tcp) == [PAYLOAD]
    assert (counts.tcp, counts.fragments, counts.tunnelled) == (1, 1, 2)


@pytest.mark.parametrize("wrap", tunnels.ALL, ids=name_of)
def test_damaged_headers_lead_to_no_byte_outside_of_the_frame(wrap: Wrap) -> None:
    random, whole = Random(7), wrap(V4)
    frames = []
    for _ in range(300):
        frame = bytearray(whole)
        for _ in range(random.randint(1, 4)):
            frame[random.randrange(12, len(frame) - len(PAYLOAD))] = random.randrange(256)
        frames.append(bytes(frame[: random.randint(14, len(frame))]))
    parse_frames(frames, wire=[len(whole)] * len(frames))  # checks each column and each count


def test_counts_of_parts_of_a_capture_add_up() -> None:
    _, counts = parse_frames([tunnels.vxlan(V4)])
    total = FrameCounts()
    total.add(counts)
    total.add(counts)
    assert (total.tunnelled, total.tcp) == (2, 2)
