"""Frames of real kernels through Scapy: rebuilt byte for byte, with checksums and ICRC computed anew."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import count, islice, takewhile

import pytest
from scapy.layers.inet import TCP
from scapy.packet import Raw
from scapy.sendrecv import sniff
from scapy.sessions import TCPSession
from scapy.utils import PcapReader

from dissectors.all import BTH, RDS, RDSCongestion, RDSNPaths

OpenCapture = Callable[[str], io.BytesIO]
FRAMES = 400
"""Of each capture: enough to see its handshake and some data."""
NAMES = ["ib-basic-61", "ib-basic-73", "ib-rdma-61", "ib-rdma-73"]
TCP_NAMES = ["tcp-basic-61", "tcp-basic-73", "tcp-congestion-61", "tcp-congestion-73", "tcp-lossy-61"]


@pytest.mark.parametrize("name", NAMES)
def test_infiniband_frames_are_rebuilt(capture: OpenCapture, name: str) -> None:
    seen = 0
    for frame in islice(PcapReader(capture(name)), FRAMES):
        if BTH not in frame:
            continue
        assert bytes(frame) == frame.original
        built = frame.copy()
        built.clear_cache()
        built[BTH].icrc = None
        if RDS in built:
            seen += 1
            built[RDS].checksum = None
        assert bytes(built) == frame.original
    assert seen > 10


@pytest.mark.parametrize("name", TCP_NAMES)
def test_tcp_frames_are_rebuilt(capture: OpenCapture, name: str) -> None:
    headers = [0, 0]
    handshakes = 0
    for frame in islice(PcapReader(capture(name)), FRAMES):
        if TCP not in frame:
            continue
        built = frame.copy()
        built.clear_cache()
        assert bytes(built) == frame.original
        headers[0] += RDS in frame
        headers[1] += type(frame[TCP].payload) is Raw
        if RDS in frame and 1 in (frame[RDS].sport, frame[RDS].dport):
            handshakes += 1
            assert [item.npaths for item in frame[RDS].exthdr if isinstance(item, RDSNPaths)] == [8]
    assert min(headers) > 10
    assert handshakes


def test_bitmaps_of_a_slow_reader_name_its_port(capture: OpenCapture) -> None:
    stream: dict[int, bytes] = {}
    ports: set[int] = set()
    for frame in PcapReader(capture("tcp-congestion-73")):
        if TCP not in frame:
            continue
        begun = RDS in frame and frame[RDS].flags == 1
        key = hash((frame[TCP].sport, frame[TCP].dport))
        if begun:
            stream[key] = bytes(frame[RDS])
        elif key in stream:
            stream[key] += bytes(frame[TCP].payload)
        if len(stream.get(key, b"")) >= 48 + 8192:
            ports |= set(RDS(stream.pop(key)[: 48 + 8192])[RDSCongestion].ports)
    assert ports


@pytest.mark.parametrize(
    ("name", "messages"), [("tcp-basic-61", 151), ("tcp-basic-73", 152), ("tcp-congestion-73", 217)]
)
def test_tcp_session_finds_every_message_of_a_capture(capture: OpenCapture, name: str, messages: int) -> None:
    """The counts are what the application sent and its kernels added, as the makers of the captures counted."""
    found = 0
    for packet in sniff(offline=capture(name), session=TCPSession, store=True):
        found += len(list(takewhile(bool, (packet.getlayer(RDS, number) for number in count(1)))))
    assert found == messages
