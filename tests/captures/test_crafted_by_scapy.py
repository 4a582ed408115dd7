"""A conversation crafted with Scapy, in every wrapping: it decodes to what was put in, and breaks no rule."""

from __future__ import annotations

import random
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import CookedLinux, CookedLinuxV2, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw
from scapy.utils import PcapNgWriter, wrpcap

from dissectors.extensions import RDSGenNum, RDSNPaths
from dissectors.rds import RDS, RDSCongestion
from rdstool.capture.message import Message
from rdstool.capture.pipeline import CaptureOptions, open_capture
from rdstool.protocol.kinds import MessageKind
from rdstool.validate.rule import Severity
from rdstool.validate.validator import validate

PAYLOADS = [bytes([n]) * size for n, size in enumerate((0, 1, 47, 48, 4096, 9000, 20_000, 300, 64, 5))]
SEGMENT = 1400
START_S = 1_700_000_000
V4 = ("10.0.0.1", "10.0.0.2")
V6 = ("fd00::1", "fd00::2")

Wrap = Callable[[str, str], Packet]
LINK = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
"""With addresses given, Scapy asks no network for them."""


def messages() -> bytes:
    """Return what one side sends first in a connection with a single path: map, probe and its answer, then data."""
    probe = [RDSNPaths(npaths=1), RDSGenNum(gen_num=0x1234)]
    stream = bytes(RDS(flags=1) / RDSCongestion()) + bytes(RDS(sequence=1, sport=1, exthdr=probe))
    stream += bytes(RDS(sequence=2, dport=1, exthdr=probe))
    for n, payload in enumerate(PAYLOADS):
        stream += bytes(RDS(sequence=n + 3, sport=4001, dport=4002) / Raw(payload))
    return stream


def conversation(wrap: Wrap, hosts: tuple[str, str]) -> list[Packet]:
    """Return the frames: opening, both sides' messages in turn, each segment acknowledged, and the end."""
    ports = (33000, 16385)
    seq = [1000, 2**32 - 20_000]
    frames: list[Packet] = []

    def add(side: int, flags: str, payload: bytes = b"") -> None:
        tcp = TCP(sport=ports[side], dport=ports[1 - side], seq=seq[side], ack=seq[1 - side], flags=flags)
        frame = wrap(hosts[side], hosts[1 - side]) / tcp / Raw(payload)
        frame.time = START_S + len(frames) / 1000
        frames.append(frame)
        seq[side] = (seq[side] + len(payload) + ("S" in flags or "F" in flags)) % 2**32

    add(0, "S")
    add(1, "SA")
    add(0, "A")
    stream = messages()
    for at in range(0, len(stream), SEGMENT):
        for side in (0, 1):
            add(side, "PA", stream[at : at + SEGMENT])
            add(1 - side, "A")
    add(0, "FA")
    add(1, "FA")
    add(0, "A")
    return frames


WRAPPINGS: dict[str, tuple[Wrap, tuple[str, str]]] = {
    "ethernet": (lambda src, dst: LINK / IP(src=src, dst=dst), V4),
    "ip-options": (lambda src, dst: LINK / IP(src=src, dst=dst, options=[b"\x01" * 8]), V4),
    "vlan": (lambda src, dst: LINK / Dot1Q(vlan=5) / IP(src=src, dst=dst), V4),
    "qinq": (lambda src, dst: LINK / Dot1AD(vlan=7) / Dot1Q(vlan=5) / IP(src=src, dst=dst), V4),
    "ipv6": (lambda src, dst: LINK / IPv6(src=src, dst=dst), V6),
    "cooked": (lambda src, dst: CookedLinux() / IP(src=src, dst=dst), V4),
    "cooked-2": (lambda src, dst: CookedLinuxV2() / IPv6(src=src, dst=dst), V6),
    "raw-ip": (lambda src, dst: IP(src=src, dst=dst), V4),
}


def check(path: Path, hosts: tuple[str, str]) -> list[Message]:
    """Decode and validate; the data messages must be those that were put in."""
    with open_capture(path, CaptureOptions(digests=True)) as capture:
        found = list(capture)
        findings = [finding for finding in validate(capture) if finding.severity is not Severity.NOTE]
    assert findings == []
    for source, destination in (hosts, hosts[::-1]):
        data = [m for m in found if m.kind is MessageKind.DATA and (m.src, m.dst) == (source, destination)]
        assert [m.sha256 for m in data] == [sha256(payload).hexdigest() for payload in PAYLOADS]
        assert [m.sequence for m in data] == list(range(3, 3 + len(PAYLOADS)))
    return found


@pytest.mark.parametrize("name", WRAPPINGS)
def test_every_wrapping_gives_the_same_messages(name: str, tmp_path: Path) -> None:
    wrap, hosts = WRAPPINGS[name]
    path = tmp_path / "crafted.pcap"
    wrpcap(str(path), conversation(wrap, hosts))
    check(path, hosts)


def test_pcapng_as_scapy_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "crafted.pcapng"
    wrap, hosts = WRAPPINGS["ethernet"]
    with PcapNgWriter(str(path)) as writer:
        for frame in conversation(wrap, hosts):
            writer.write(frame)
    check(path, hosts)


def test_frames_out_of_order_and_twice(tmp_path: Path) -> None:
    wrap, hosts = WRAPPINGS["ethernet"]
    opening, rest = conversation(wrap, hosts)[:3], conversation(wrap, hosts)[3:]
    rng = random.Random(7)
    keyed = sorted((n + rng.random() * 5, n) for n in range(len(rest)) for _ in range(rng.randint(1, 2)))
    path = tmp_path / "shuffled.pcap"
    wrpcap(str(path), opening + [rest[n] for _, n in keyed])
    check(path, hosts)


@pytest.mark.parametrize("seed", range(5))
def test_frames_that_were_not_captured_are_nobodys_fault(seed: int, tmp_path: Path) -> None:
    wrap, hosts = WRAPPINGS["ethernet"]
    rng = random.Random(seed)
    path = tmp_path / "lossy.pcap"
    wrpcap(str(path), [frame for frame in conversation(wrap, hosts) if rng.random() > 0.05])
    sent = {sha256(payload).hexdigest() for payload in PAYLOADS}
    with open_capture(path, CaptureOptions(digests=True)) as capture:
        shown = [message for message in capture if message.kind is MessageKind.DATA]
        findings = [finding for finding in validate(capture) if finding.severity is not Severity.NOTE]
    assert findings == []
    assert {message.sha256 for message in shown if message.complete} <= sent
    assert any(not message.complete for message in shown) or len(shown) < 2 * len(PAYLOADS)
