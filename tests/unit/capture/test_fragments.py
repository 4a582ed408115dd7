"""IP datagrams in fragments: put together as a receiver would, whatever way they come, and within bounds."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence

import numpy as np
import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, fragment6
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from rdstool.capture.columns import FrameBatch
from rdstool.capture.counts import FrameCounts
from rdstool.capture.packets import fragments
from rdstool.capture.packets.fragments import LIFETIME_NS, MAX_DATAGRAMS, MAX_HELD_BYTES, Datagrams
from rdstool.capture.packets.network import RDS_TCP_PORTS, Parsed
from tests.unit.capture.parsing import batch_of, ends, payloads, put_together

PAYLOAD = random.Random(1).randbytes(3000)
SEGMENT = TCP(sport=16385, dport=50000, seq=7, ack=9, flags="A") / Raw(PAYLOAD)
ETHERNET = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
V4 = IP(src="10.0.0.1", dst="10.0.0.2", id=77)
V6 = IPv6(src="fd00::1", dst="fd00::2")
FRAGMENTED = V6 / IPv6ExtHdrFragment(id=78)
PIECE_BYTES = 800
ROCE = UDP(sport=50000, dport=4791, chksum=0) / Raw(bytes(12) + PAYLOAD + bytes(4))


def v4(packet: Packet = V4 / SEGMENT, size: int = PIECE_BYTES) -> list[bytes]:
    """A packet in fragments."""
    return [bytes(ETHERNET / piece) for piece in fragment(packet, size)]  # type: ignore[no-untyped-call]


def v6(packet: Packet = FRAGMENTED / SEGMENT, size: int = PIECE_BYTES + 48) -> list[bytes]:
    """A packet in fragments; ``size`` is that of packets."""
    return [bytes(ETHERNET / piece) for piece in fragment6(packet, size)]  # type: ignore[no-untyped-call]


def piece(place: int, data: bytes, *, more: bool = True, ident: int = 77, protocol: int = 6) -> bytes:
    """One fragment over IPv4."""
    ip = IP(src="10.0.0.1", dst="10.0.0.2", id=ident, flags="MF" * more, frag=place // 8, proto=protocol)
    return bytes(ETHERNET / ip / Raw(data))


def later(batch: FrameBatch, ns: int) -> FrameBatch:
    """The same frames, some time later."""
    batch.time += ns
    return batch


def together(frames: Sequence[bytes], wire: Sequence[int] | None = None) -> tuple[Parsed, FrameCounts]:
    """What one batch of frames gives."""
    (parsed,), counts = put_together([batch_of(frames, wire=wire)])
    return parsed, counts


VERSIONS = pytest.mark.parametrize("pieces", [v4(), v6()], ids=["IPv4", "IPv6"])


@VERSIONS
def test_the_segment_has_the_frame_and_the_time_that_complete_it(pieces: list[bytes]) -> None:
    assert len(pieces) == 4
    other = bytes(ETHERNET / IP() / SEGMENT)
    parsed, counts = together([other, *pieces, other])
    assert parsed.tcp.frame.tolist() == [101, 105, 106]
    assert parsed.tcp.time.tolist() == [0, 4000, 5000]
    assert payloads(parsed.tcp) == [PAYLOAD] * 3
    assert (parsed.tcp.seq == 7).all()
    assert (parsed.tcp.ack == 9).all()
    assert ends(parsed.tcp, 1) in {("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")}
    assert (counts.fragments, counts.fragments_lost, counts.tcp) == (3, 0, 3)


@pytest.mark.parametrize("pieces", [v4(V4 / ROCE), v6(V6 / IPv6ExtHdrFragment(id=5) / ROCE)], ids=["IPv4", "IPv6"])
def test_roce_is_put_together_with_a_header_that_its_icrc_covers(pieces: list[bytes]) -> None:
    parsed, counts = together(pieces)
    assert payloads(parsed.ib) == [PAYLOAD]
    assert (counts.ib, counts.fragments) == (1, len(pieces) - 1)
    network = int(parsed.ib.network[0])
    header = parsed.ib.data[network:].tobytes()
    expected = V4 / ROCE if header[0] >> 4 == 4 else V6 / ROCE
    assert header[4:8] == bytes(expected)[4:8]  # IPv4: identification, no fragment; IPv6: length, next header
    assert len(header) == len(bytes(expected))


@VERSIONS
def test_fragments_come_in_any_order_and_more_than_once(pieces: list[bytes]) -> None:
    for seed in range(50):
        chance = random.Random(seed)
        frames = pieces + chance.choices(pieces, k=chance.randrange(4))
        chance.shuffle(frames)
        parsed, counts = together(frames)
        assert payloads(parsed.tcp) == [PAYLOAD]
        assert (counts.fragments, counts.fragments_lost) == (len(frames) - 1, 0)


@VERSIONS
def test_fragments_come_in_chunks_of_their_own(pieces: list[bytes]) -> None:
    found, counts = put_together([batch_of([frame]) for frame in pieces])
    assert [len(parsed.tcp) for parsed in found] == [0, 0, 0, 1]
    assert payloads(found[-1].tcp) == [PAYLOAD]
    assert (counts.fragments, counts.fragments_lost, counts.tcp) == (3, 0, 1)


@VERSIONS
def test_a_lost_fragment_costs_its_datagram_alone(pieces: list[bytes]) -> None:
    whole = bytes(ETHERNET / V4 / SEGMENT)
    for lost in range(len(pieces)):
        parsed, counts = together([whole, *pieces[:lost], *pieces[lost + 1 :], whole])
        assert payloads(parsed.tcp) == [PAYLOAD] * 2
        assert (counts.fragments, counts.fragments_lost) == (0, 3)


def test_datagrams_are_told_by_addresses_identification_and_protocol() -> None:
    others = [
        IP(src="10.0.0.1", dst="10.0.0.2", id=78),
        IP(src="10.0.0.3", dst="10.0.0.2", id=77),
        IP(src="10.0.0.1", dst="10.0.0.3", id=77),
        IP(src="10.0.0.2", dst="10.0.0.1", id=77),
    ]
    several = [v4(ip / SEGMENT) for ip in [V4, *others]] + [v4(V4 / ROCE), v4(V4 / ICMP() / Raw(PAYLOAD))]
    parsed, counts = together([frame for together in zip(*several, strict=True) for frame in together])
    assert payloads(parsed.tcp) == [PAYLOAD] * 5
    assert payloads(parsed.ib) == [PAYLOAD]
    assert counts.other_protocols == {1: 1}
    assert counts.fragments_lost == 0


def test_what_overlaps_in_part_costs_the_datagram() -> None:
    data = bytes(SEGMENT)
    for wrong in (piece(8, data[8:24]), piece(24, data[24:48]), piece(0, data[:24])):
        parsed, counts = together(
            [piece(0, data[:16]), piece(32, data[32:], more=False), wrong, piece(16, data[16:32])]
        )
        assert not len(parsed.tcp)
        assert (counts.fragments, counts.fragments_lost) == (0, 4)


def test_what_lies_within_fragments_that_join_is_a_copy() -> None:
    data = bytes(SEGMENT)
    frames = [piece(0, data[:16]), piece(16, data[16:32]), piece(8, data[8:24]), piece(32, data[32:], more=False)]
    parsed, counts = together(frames)
    assert len(parsed.tcp) == 1
    assert (counts.fragments, counts.fragments_lost) == (3, 0)


def test_ends_that_contradict_each_other_cost_the_datagram() -> None:
    data = bytes(SEGMENT)
    for frames in (
        [piece(800, data[800:900], more=False), piece(1600, data[1600:], more=False), piece(0, data[:800])],
        [piece(1600, data[1600:1800]), piece(800, data[800:1600], more=False), piece(0, data[:800])],
        [piece(800, data[800:1600], more=False), piece(1600, data[1600:1800]), piece(0, data[:800])],
    ):
        parsed, counts = together(frames)
        assert not len(parsed.tcp)
        assert (counts.fragments, counts.fragments_lost) == (0, 3)


def test_what_no_receiver_takes_is_passed_over() -> None:
    pieces = v4()
    impossible = [
        piece(0, b""),
        piece(8, b"abc"),
        piece(65528, bytes(64), more=False),
        piece(65512, bytes(8), more=False),
        bytes(ETHERNET / V6 / IPv6ExtHdrFragment(m=1, offset=0, id=1)),
        bytes(ETHERNET / V6 / IPv6ExtHdrFragment(m=0, offset=8191, id=1) / Raw(bytes(800))),
    ]
    parsed, counts = together([pieces[0], *impossible, *pieces[1:]])
    assert payloads(parsed.tcp) == [PAYLOAD]
    assert (counts.fragments, counts.fragments_lost) == (3, len(impossible))


def test_the_largest_datagrams_are_put_together() -> None:
    data = random.Random(2).randbytes(65535 - 20 - 20)
    parsed, _ = together(v4(V4 / TCP(sport=16385) / Raw(data), 1480))
    assert payloads(parsed.tcp) == [data]
    shorter = data[: 65535 - 40 - 8 - 20]  # Scapy makes no larger ones.
    parsed, _ = together(v6(V6 / IPv6ExtHdrFragment(id=1) / TCP(sport=16385) / Raw(shorter), 1500))
    assert payloads(parsed.tcp) == [shorter]


def test_a_fragment_that_was_cut_counts_with_its_length_on_the_wire() -> None:
    pieces = v4()
    for cut in range(4):
        frames = [frame[:-10] if number == cut else frame for number, frame in enumerate(pieces)]
        for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
            parsed, counts = together([frames[n] for n in order], wire=[len(pieces[n]) for n in order])
            seen = min(cut * PIECE_BYTES + len(frames[cut]) - 34 - 20, len(PAYLOAD))
            assert payloads(parsed.tcp) == [PAYLOAD[:seen]]
            assert parsed.tcp.length.tolist() == [len(PAYLOAD)]
            assert counts.fragments == 3


def test_headers_that_were_cut_are_cut_in_the_whole() -> None:
    pieces = v4()
    parsed, counts = together([pieces[0][:40], *pieces[1:]], wire=[len(frame) for frame in pieces])
    assert not len(parsed.tcp)
    assert (counts.cut, counts.fragments, counts.fragments_lost) == (1, 3, 0)


def test_frames_that_were_captured_twice_complete_one_datagram() -> None:
    pieces = v4()
    parsed, counts = together([frame for frame in pieces for _ in range(2)])
    assert payloads(parsed.tcp) == [PAYLOAD]
    assert (counts.fragments, counts.fragments_lost) == (7, 0)
    # The copy of the last one is no part of the next datagram of this identification.
    (_, again), counts = put_together(
        [batch_of([*pieces, pieces[-1]]), batch_of(v4(V4 / TCP(sport=16385) / PAYLOAD[::-1]))]
    )
    assert payloads(again.tcp) == [PAYLOAD[::-1]]


def test_fragments_far_apart_in_time_are_of_different_datagrams() -> None:
    pieces = v4()
    for way in (1, -1):
        for factor, whole in ((0.9, 1), (1.1, 0)):
            ns = int(way * factor * LIFETIME_NS)
            found, counts = put_together([batch_of(pieces[:2]), later(batch_of(pieces[2:]), ns)])
            assert sum(len(parsed.tcp) for parsed in found) == whole
            assert counts.fragments_lost == 4 - 4 * whole


def test_headers_of_options_and_extensions_are_left_out() -> None:
    options = IP(src="10.0.0.1", dst="10.0.0.2", options=b"\x44\x08\x05\0\0\0\0\0")
    extended = V6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrFragment(id=4) / IPv6ExtHdrDestOpt() / SEGMENT
    assert bytes(options)[0] == 0x47
    parsed, counts = together(v4(options / SEGMENT) + v6(extended))
    assert payloads(parsed.tcp) == [PAYLOAD] * 2
    assert counts.fragments_lost == 0


def test_fragments_in_fragments_are_lost() -> None:
    inner = IPv6ExtHdrFragment(m=1, offset=0, id=9, nh=6)
    parsed, counts = together(v6(V6 / IPv6ExtHdrFragment(id=8) / inner / Raw(PAYLOAD)))
    assert not len(parsed.tcp)
    assert counts.fragments_lost == 1


# --- Hostile traffic ---------------------------------------------------------------------------------------------


def flood(count: int, size: int, seed: int) -> list[bytes]:
    """Fragments of as many datagrams, none of which is whole."""
    chance = random.Random(seed)
    head = piece(0, bytes(size))
    frames = []
    for _ in range(count):
        frame = bytearray(head)
        frame[18:20] = chance.randbytes(2)  # identification
        frame[26:30] = chance.randbytes(4)  # source
        frame[20:22] = struct.pack(">H", 0x2000 | chance.randrange(8000 - size // 8))
        frames.append(bytes(frame))
    return frames


@pytest.mark.parametrize(("count", "size"), [(6000, 8), (600, 60_000)])
def test_a_flood_takes_bounded_memory_and_costs_the_oldest(count: int, size: int) -> None:
    datagrams = Datagrams(RDS_TCP_PORTS, tcp_checksums=False)
    pieces = v4()
    for seed in range(2):
        put_together([batch_of(flood(count, size, seed))], datagrams)
        assert 0 < datagrams.held_bytes <= MAX_HELD_BYTES
        assert datagrams.under_way <= MAX_DATAGRAMS
    found, _ = put_together([batch_of(pieces)], datagrams)
    assert payloads(found[0].tcp) == [PAYLOAD]
    found, _ = put_together([batch_of(pieces[:2]), batch_of(flood(count, size, 2)), batch_of(pieces[2:])], datagrams)
    assert not sum(len(parsed.tcp) for parsed in found)


def test_copies_are_recognised_of_so_many_datagrams_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fragments, "MAX_REMEMBERED", 3)
    datagrams = Datagrams(RDS_TCP_PORTS, tcp_checksums=False)
    batches = [v4(IP(src="10.0.0.1", dst="10.0.0.2", id=number) / SEGMENT) for number in range(5)]
    put_together([batch_of(frames) for frames in batches], datagrams)
    found, counts = put_together([batch_of(batches[number]) for number in (4, 3, 2, 1)], datagrams)
    assert [len(parsed.tcp) for parsed in found] == [0, 0, 0, 1]
    assert counts.fragments == 4 * 3 + 3


def test_a_datagram_in_the_smallest_pieces_is_put_together_in_any_order() -> None:
    data = bytes(TCP(sport=16385) / Raw(bytes(range(256)) * 250))
    frames = [piece(place, data[place : place + 8], more=place + 8 < len(data)) for place in range(0, len(data), 8)]
    np.random.default_rng(3).shuffle(frames)
    datagrams = Datagrams(RDS_TCP_PORTS, tcp_checksums=False)
    found, _ = put_together([batch_of(frames)], datagrams)
    assert payloads(found[0].tcp) == [data[20:]]
    assert datagrams.held_bytes == 0
