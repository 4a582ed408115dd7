"""The ICRC: over which bytes it runs, on real frames, on the specification's sample, and against Scapy's own."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator

import pytest
from scapy.contrib import roce
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw
from scapy.utils import RawPcapReader

from dissectors.wire.errors import CodecError
from dissectors.wire.icrc import icrc, icrc_good

OpenCapture = Callable[[str], io.BytesIO]
ETHERNET_BYTES = 14
SAMPLE = bytes.fromhex(
    "7012375C 000E17D2 0A202487 0087B1B3 000DEC2A 01710A1C 015D4002 38F27A05 0000000E "
    "BB884D85 FD5CFBA4 728BC069 0ED40000"
)
"""The RDMA WRITE on a local network that the InfiniBand Architecture, vol. 1, §7.8 takes as its example."""
SAMPLE_ICRC = bytes.fromhex("9625B75A")


def roce_packets(file: io.BytesIO) -> Iterator[bytes]:
    """The IPv4 packets of a capture that go to UDP port 4791."""
    for frame, _ in RawPcapReader(file):
        if frame[12:14] == b"\x08\x00" and frame[23] == 17 and frame[36:38] == b"\x12\xb7":
            total = int.from_bytes(frame[16:18], "big")
            yield frame[ETHERNET_BYTES : ETHERNET_BYTES + total]


def first_packet(capture: OpenCapture) -> bytes:
    return next(roce_packets(capture("ib-basic-73")))


@pytest.mark.parametrize("name", ["ib-basic-61", "ib-basic-73", "ib-rdma-61", "ib-rdma-73"])
def test_every_frame_of_a_real_kernel_verifies(capture: OpenCapture, name: str) -> None:
    packets = list(roce_packets(capture(name)))
    assert len(packets) > 500
    assert [number for number, packet in enumerate(packets) if not icrc_good(packet)] == []


def test_native_infiniband_matches_the_sample_of_the_specification() -> None:
    assert icrc(SAMPLE[8:], lrh=SAMPLE[:8]) == SAMPLE_ICRC


def test_a_switch_may_change_the_virtual_lane() -> None:
    moved = bytes((SAMPLE[0] & 0x0F | 0x30,)) + SAMPLE[1:8]
    assert icrc(SAMPLE[8:], lrh=moved) == SAMPLE_ICRC


@pytest.mark.parametrize("at", [1, 8, 10, 11, 26, 27, 32], ids=lambda at: f"byte {at}")
def test_routers_may_change_these_bytes_of_an_ipv4_packet(capture: OpenCapture, at: int) -> None:
    packet = bytearray(first_packet(capture))
    packet[at] ^= 0xFF
    assert icrc_good(packet)


def test_no_other_byte_may_change(capture: OpenCapture) -> None:
    packet = first_packet(capture)
    free = {1, 8, 10, 11, 26, 27, 32}
    for at in set(range(len(packet))) - free - {0}:
        changed = bytearray(packet)
        changed[at] ^= 0x01
        assert not icrc_good(changed), at


def test_the_bth_may_be_given_instead_of_found(capture: OpenCapture) -> None:
    packet = first_packet(capture)
    assert icrc_good(packet, bth=28)
    assert not icrc_good(packet, bth=29)


@pytest.mark.parametrize("network", [IP(tos=9, ttl=3, id=77), IPv6(tc=9, fl=5, hlim=3)], ids=["IPv4", "IPv6"])
def test_scapy_computes_the_same_over_udp(network: IP | IPv6) -> None:
    packet = bytes(network / UDP(sport=49152, dport=4791, chksum=0) / roce.BTH(opcode=4, dqpn=17, psn=5) / Raw(b"four"))
    assert icrc_good(packet)


def test_a_grh_is_masked_like_ipv6_and_has_no_udp_behind_it() -> None:
    grh = bytes.fromhex("6 0000000 0018 1B 40".replace(" ", "")) + bytes(range(32))
    bth = bytes.fromhex("040000000000001100000005")
    routed = bytearray(grh)
    routed[1:4] = b"\x12\x34\x56"
    routed[7] = 1
    assert icrc(bytes(routed) + bth) == icrc(grh + bth)
    assert icrc(grh[:-1] + b"\0" + bth) != icrc(grh + bth)


@pytest.mark.parametrize("packet", [b"", b"\x45", b"\x45" * 30, b"\x60" * 50, b"\x75" * 100, bytes(11)])
def test_bytes_without_a_bth_have_no_icrc(packet: bytes) -> None:
    with pytest.raises(CodecError):
        icrc(packet)


def test_a_link_header_has_eight_bytes() -> None:
    with pytest.raises(CodecError, match="8 bytes"):
        icrc(SAMPLE[8:], lrh=SAMPLE[:7])
