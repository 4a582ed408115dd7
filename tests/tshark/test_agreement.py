"""tshark with the plugin and the native decoder see the same messages, field by field."""

from __future__ import annotations

import gzip
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from rdstool.capture.pipeline import open_capture
from rdstool.tshark.compare import finding_differences, natively
from rdstool.tshark.program import Tshark
from rdstool.validate.alone import ALONE
from tests.fuzz.damage import ETHERNET_BYTES, FILE_HEADER_BYTES, RECORD_HEADER_BYTES, Frames, split
from tests.kit.tsharks import VERSIONS, newer_tshark
from tests.kit.tunnels import KNOWN_TO_WIRESHARK, Wrap, in_turn, mpls_in_udp, vxlan_gpe
from tests.tshark.running import OPTIONS, PCAPS, ROOT, compare
from tests.unit.validate.mutations import CASES as BROKEN
from tests.unit.validate.mutations import CLEAN, Script

COOKED = 113
"""Link type of Linux cooked captures."""
RAW = 101
IPOIB = 242
"""That of IP over InfiniBand."""
PIECE_BYTES = 512
"""Payload of a fragment."""


@pytest.mark.parametrize("name", CLEAN)
def test_no_difference_on_crafted_captures(name: str, tmp_path: Path, tshark: Tshark) -> None:
    assert compare(CLEAN[name]().write(tmp_path / "clean.pcap"), tshark) == []


@pytest.mark.parametrize(
    ("rule", "make"),
    [(rule, make) for _, rule, make in BROKEN if rule in ALONE],
    ids=[f"{rule}-{transport}" for transport, rule, _ in BROKEN if rule in ALONE],
)
def test_no_difference_on_captures_that_break_a_rule(rule: str, make: Callable[[], Script], tmp_path: Path) -> None:
    path = make().write(tmp_path / "broken.pcap")
    assert compare(path, newer_tshark()) == []
    with open_capture(path, OPTIONS) as capture:
        assert rule in {name for _, name in natively(capture)[1]}


def test_a_rule_that_one_of_them_does_not_tell_is_reported() -> None:
    ours, theirs = Counter({(7, "RDS-HDR-003"): 2, (9, "RDS-SEQ-001"): 1}), Counter({(9, "RDS-SEQ-001"): 1})
    found = finding_differences(ours, theirs)
    assert [str(difference) for difference in found] == ["frame 7: RDS-HDR-003: findings is 2 to rdstool, 0 to tshark"]


@pytest.mark.parametrize("tshark", VERSIONS, indirect=True)
@pytest.mark.parametrize("path", PCAPS, ids=lambda path: path.parent.name)
def test_no_difference_on_real_captures(path: Path, tshark: Tshark) -> None:
    assert compare(path, tshark) == []


def with_vlan(header: bytes, frames: Frames) -> tuple[bytes, Frames]:
    def tagged(frame: bytes) -> bytes:
        at = RECORD_HEADER_BYTES + 12
        return frame[:at] + b"\x81\x00\x00\x2a" + frame[at:]

    return header, [_sized(tagged(frame)) for frame in frames]


def cooked(header: bytes, frames: Frames) -> tuple[bytes, Frames]:
    def relinked(frame: bytes) -> bytes:
        packet = frame[RECORD_HEADER_BYTES:]
        link = b"\0\0\0\1\0\6" + packet[6:12] + b"\0\0" + packet[12:14]
        return frame[:RECORD_HEADER_BYTES] + link + packet[ETHERNET_BYTES:]

    return _linked(header, COOKED), [_sized(relinked(frame)) for frame in frames]


def over_infiniband(header: bytes, frames: Frames) -> tuple[bytes, Frames]:
    at = RECORD_HEADER_BYTES
    front = bytes(20) + b"\x00\x01\x02\x03\xfe\x80" + bytes(14)
    return _linked(header, IPOIB), [
        _sized(f[:at] + front + f[at + 12 : at + 14] + bytes(2) + f[at + ETHERNET_BYTES :]) for f in frames
    ]


def raw_ip(header: bytes, frames: Frames) -> tuple[bytes, Frames]:
    at = RECORD_HEADER_BYTES + 12
    kept = [frame for frame in frames if frame[at : at + 2] in {b"\x08\x00", b"\x86\xdd"}]
    return _linked(header, RAW), [_sized(f[:RECORD_HEADER_BYTES] + f[at + 2 :]) for f in kept]


def out_of_order(header: bytes, frames: Frames) -> tuple[bytes, Frames]:
    """Neighbours of one sender change places, as a network reorders."""
    random, moved = Random(1), list(frames)
    for at in range(0, len(moved) - 1, 2):
        same = moved[at][RECORD_HEADER_BYTES + 6 : RECORD_HEADER_BYTES + 12]
        if random.random() < 0.3 and moved[at + 1][RECORD_HEADER_BYTES + 6 : RECORD_HEADER_BYTES + 12] == same:
            moved[at], moved[at + 1] = moved[at + 1], moved[at]
    return header, moved


def in_fragments(header: bytes, frames: Frames) -> tuple[bytes, Frames]:
    """Long packets come in fragments, the last one first; now and then one is lost."""
    found = [piece for number, frame in enumerate(frames) for piece in reversed(list(pieces_of(frame, number + 1)))]
    return header, [frame for number, frame in enumerate(found, 1) if number % 101]


def pieces_of(frame: bytes, number: int) -> Iterator[bytes]:
    head, packet = frame[: RECORD_HEADER_BYTES + ETHERNET_BYTES], frame[RECORD_HEADER_BYTES + ETHERNET_BYTES :]
    kind = head[-2:]
    behind = {b"\x08\x00": 20, b"\x86\xdd": 40}.get(kind)
    if behind is None or len(packet) < behind + 2 * PIECE_BYTES:
        yield frame
        return
    for place in range(0, len(packet) - behind, PIECE_BYTES):
        piece = packet[behind + place : behind + place + PIECE_BYTES]
        more = behind + place + PIECE_BYTES < len(packet)
        if kind == b"\x08\x00":
            words = struct.pack(">HHH", behind + len(piece), number, place // 8 | more << 13)
            start = packet[:2] + words + packet[8:behind]
        else:
            fragment = struct.pack(">BBHI", packet[6], 0, place | more, number)
            start = packet[:4] + struct.pack(">H", len(fragment + piece)) + bytes([44]) + packet[7:behind] + fragment
        yield _sized(head + start + piece)


def with_port_tags(header: bytes, frames: Frames) -> tuple[bytes, Frames]:
    """As between a switch and what gives it more ports: VN-Tags and those of 802.1BR, some before one of a VLAN."""
    tags = [bytes.fromhex("892680010002"), bytes.fromhex("893f000000050000")]
    tags += [tag + bytes.fromhex("81000007") for tag in tags]
    at = RECORD_HEADER_BYTES + ETHERNET_BYTES - 2
    return header, [_sized(frame[:at] + tags[number % 4] + frame[at:]) for number, frame in enumerate(frames)]


def in_tunnels(header: bytes, frames: Frames) -> tuple[bytes, Frames]:
    """Each frame in another tunnel: an end of a tunnel would see so what others of its network do."""
    return _tunnelled(header, frames, KNOWN_TO_WIRESHARK)


def in_mpls_over_udp(header: bytes, frames: Frames) -> tuple[bytes, Frames]:
    """IP in a tunnel that hands it on without asking for its EtherType."""
    return _tunnelled(header, frames, (mpls_in_udp,))


def in_vxlan_gpe(header: bytes, frames: Frames) -> tuple[bytes, Frames]:
    """The same."""
    return _tunnelled(header, frames, (vxlan_gpe,))


def _tunnelled(header: bytes, frames: Frames, wraps: tuple[Wrap, ...]) -> tuple[bytes, Frames]:
    at = RECORD_HEADER_BYTES
    return header, [_sized(frame[:at] + in_turn(number, frame[at:], wraps)) for number, frame in enumerate(frames)]


def thinned(header: bytes, frames: Frames) -> tuple[bytes, Frames]:
    """Every 97th frame was not captured."""
    return header, [frame for number, frame in enumerate(frames, 1) if number % 97]


def from_the_middle(header: bytes, frames: Frames) -> tuple[bytes, Frames]:
    return header, frames[len(frames) // 3 :]


def captured_twice(header: bytes, frames: Frames) -> tuple[bytes, Frames]:
    """Each frame, as at both ends of a link."""
    return header, [copy for frame in frames for copy in (frame, frame)]


def cut_off(header: bytes, frames: Frames) -> tuple[bytes, Frames]:
    """From the middle of a stream, and no further than a few messages: all of them wait for more at the end."""
    return header, frames[20:62]


def _linked(header: bytes, link: int) -> bytes:
    return header[: FILE_HEADER_BYTES - 4] + struct.pack("<I", link)


def _sized(frame: bytes) -> bytes:
    size = len(frame) - RECORD_HEADER_BYTES
    return frame[:8] + struct.pack("<II", size, size) + frame[RECORD_HEADER_BYTES:]


TCP, TCP6, INFINIBAND = "tcp-basic-73", "tcp-ipv6-73", "ib-rdma-73"
Change = Callable[[bytes, Frames], tuple[bytes, Frames]]
CASES: list[tuple[str, Change]] = [
    *((TCP, change) for change in (with_vlan, cooked, raw_ip, out_of_order, thinned, from_the_middle)),
    (TCP, cut_off),
    *((INFINIBAND, change) for change in (with_vlan, cooked, raw_ip, out_of_order, captured_twice)),
    *(("ib-basic-73", change) for change in (out_of_order, thinned, from_the_middle, in_fragments)),
    *((name, in_fragments) for name in (TCP, TCP6)),
    *((name, in_tunnels) for name in (TCP, TCP6, INFINIBAND)),
    *((name, with_port_tags) for name in (TCP, INFINIBAND)),
    (TCP, over_infiniband),
    (TCP, in_mpls_over_udp),
    (INFINIBAND, in_vxlan_gpe),
]


@pytest.mark.parametrize(("source", "change"), CASES, ids=[f"{name}-{change.__name__}" for name, change in CASES])
def test_no_difference_on_changed_captures(source: str, change: Change, tmp_path: Path) -> None:
    header, frames = split(gzip.decompress((ROOT / "pcaps" / source / "a.pcap.gz").read_bytes()))
    header, frames = change(header, frames)
    path = tmp_path / "changed.pcap"
    path.write_bytes(header + b"".join(frames))
    assert compare(path, newer_tshark()) == []
