"""TCP checksums, as Scapy computes them: whole, changed on the wire, or left to the network adapter."""

from __future__ import annotations

from random import Random

import pytest
from scapy.layers.inet import IP, TCP, in4_chksum
from scapy.layers.inet6 import IPv6, in6_chksum
from scapy.layers.l2 import Ether

from rdstool.capture.counts import FrameCounts
from rdstool.capture.packets.network import parse
from tests.unit.capture.parsing import batch_of, check_counts
from tests.unit.cli.running import PCAPS, rdstool_here

SIZES = (*range(20), 47, 48, 1447, 1448)
TCP_AT = {4: 34, 6: 54}
CHECKSUM_AT = 16
TCP_PROTOCOL = 6


def frame(version: int, payload: bytes) -> bytes:
    ends = IP(src="10.0.0.1", dst="10.255.3.2") if version == 4 else IPv6(src="fe80::1:2", dst="2001:db8::ffff")
    link = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    return bytes(link / ends / TCP(sport=40000, dport=16385, seq=7, flags="PA") / payload)


def kept(frames: list[bytes], wire: list[int] | None = None) -> list[int]:
    """Which frames are not passed over."""
    counts = FrameCounts()
    parsed = parse(batch_of(frames, wire=wire), counts, tcp_checksums=True)
    check_counts(counts)
    assert counts.tcp_damaged == len(frames) - len(parsed.tcp)
    return [int(number) - 101 for number in parsed.tcp.frame]


def with_checksum(whole: bytes, version: int, value: int) -> bytes:
    at = TCP_AT[version] + CHECKSUM_AT
    return whole[:at] + value.to_bytes(2, "big") + whole[at + 2 :]


@pytest.mark.parametrize("version", [4, 6])
def test_a_segment_that_arrived_whole_is_kept(version: int) -> None:
    chance = Random(version)
    frames = [frame(version, chance.randbytes(size)) for size in SIZES for _ in range(4)]
    assert kept(frames) == list(range(len(frames)))


@pytest.mark.parametrize("version", [4, 6])
def test_one_changed_bit_is_seen(version: int) -> None:
    chance = Random(version)
    damaged = []
    for size in SIZES:
        whole = bytearray(frame(version, chance.randbytes(size)))
        at = chance.randrange(TCP_AT[version] + 4, len(whole))  # ports tell whether it is looked at, at all
        if at == TCP_AT[version] + 12:
            at += 1  # so does the length of the header
        whole[at] ^= 1 << chance.randrange(8)
        damaged.append(bytes(whole))
    assert kept(damaged) == []


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("with_length", [True, False])
def test_what_the_adapter_was_to_finish_is_kept(version: int, with_length: bool) -> None:
    frames = []
    for size in SIZES:
        whole = frame(version, bytes(size))
        packet = Ether(whole)
        length = 20 + size if with_length else 0
        # The sum of the pseudo header alone: as Scapy has it with nothing behind, and without the complement.
        if version == 4:
            ends = IP(src=packet[IP].src, dst=packet[IP].dst, len=20 + length, ihl=5)
            nothing = in4_chksum(TCP_PROTOCOL, ends, b"")
        else:
            nothing = in6_chksum(TCP_PROTOCOL, packet[IPv6], b"") - length  # type: ignore[no-untyped-call]
        frames.append(with_checksum(whole, version, -nothing % 0xFFFF))
    assert kept(frames) == list(range(len(frames)))


def test_of_a_segment_that_was_cut_nobody_knows() -> None:
    whole = frame(4, b"x" * 100)
    assert kept([whole[:80]], wire=[len(whole)]) == [0]


@pytest.mark.parametrize("version", [4, 6])
def test_of_a_segment_that_no_frame_can_carry_nobody_knows(version: int) -> None:
    # As an adapter may leave it that merged what it received: with the checksum of the first part.
    first, merged = frame(version, b"x" * 1448), frame(version, b"x" * 10 * 1448)
    at = TCP_AT[version] + CHECKSUM_AT
    stale = int.from_bytes(first[at : at + 2])
    assert kept([with_checksum(merged, version, stale)]) == [0]
    jumbo = frame(version, b"x" * 8948)
    assert kept([with_checksum(jumbo, version, stale), jumbo]) == [1]


def test_no_segment_of_a_real_capture_is_damaged() -> None:
    captures = sorted(PCAPS.glob("tcp-*/a.pcap.gz"))
    assert captures
    for path in captures:
        assert "wrong" not in rdstool_here("stats", "--tcp-checksums", path).stderr
