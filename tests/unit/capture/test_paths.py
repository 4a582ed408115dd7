"""What tells the path of a TCP connection, and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv6Address
from itertools import islice
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dissectors.wire.extensions import Extension, GenNum, NPaths, SportIdx, build_extensions
from dissectors.wire.rds import MAX_PATHS, TCP_PORT
from rdstool.capture.columns import MESSAGE
from rdstool.capture.events import Closing, Event, StreamClosed, StreamOpened
from rdstool.capture.streams import Endpoint, StreamTable
from rdstool.capture.tcp.path_evidence import MOST_CONFIDENCE, Announcement
from rdstool.capture.tcp.paths import PathMap
from rdstool.protocol.kinds import MessageKind, Transport
from rdstool.protocol.pathhash import path_of_port

SMALLER = IPv6Address("::ffff:10.0.0.1").packed
LARGER = IPv6Address("::ffff:10.0.0.2").packed
BEFORE_7: list[Extension] = [NPaths(8)]
SINCE_7: list[Extension] = [NPaths(8), GenNum(0x1234), SportIdx()]


class Capture:
    """A pair of addresses whose connections and messages are put together by hand."""

    def __init__(self) -> None:
        self.streams = StreamTable()
        self.map = PathMap(self.streams)
        self.rows: list[Any] = []
        self.events: list[Event] = []
        self.frame = 0

    def opens(self, port: int, *, from_start: bool = True, dialler: bytes = SMALLER) -> int:
        """A connection from ``port``; its number."""
        self.frame += 1
        other = LARGER if dialler == SMALLER else SMALLER
        ends = Endpoint(dialler, port), Endpoint(other, TCP_PORT)
        stream = self.streams.add(
            Transport.TCP, *ends, initiator_known=from_start, first_frame=self.frame, from_start=from_start
        )
        assert stream is not None
        if from_start:
            self.events.append(StreamOpened(self.frame, 0, stream.number, 0))
        return stream.number

    def closes(self, stream: int) -> None:
        self.frame += 1
        self.events.append(StreamClosed(self.frame, 0, stream, 0, Closing.FIN, 0))

    def carries(
        self, stream: int, sport: int, *, kind: MessageKind = MessageKind.DATA, direction: int = 0, exthdr: bytes = b""
    ) -> None:
        self.frame += 1
        row = np.zeros(1, MESSAGE)
        row["frame"], row["stream"], row["direction"] = self.frame, stream, direction
        row["transport"], row["kind"] = Transport.TCP, kind
        row["header"]["sport"], row["header"]["exthdr"] = sport, exthdr
        self.rows.append(row)

    def handshake(self, stream: int, smaller: Sequence[Extension], larger: Sequence[Extension]) -> None:
        self.carries(stream, 1, kind=MessageKind.PROBE, exthdr=build_extensions(smaller))
        self.carries(stream, 0, kind=MessageKind.PROBE_REPLY, direction=1, exthdr=build_extensions(larger))

    def read(self) -> list[int]:
        """End a batch; the paths of all streams."""
        rows: NDArray[Any] = np.concatenate(self.rows) if self.rows else np.zeros(0, MESSAGE)
        self.map.observe(rows, self.events)
        self.rows, self.events = [], []
        return [self.map.path_of(number) for number in range(len(self.streams))]


def ports_of(path: int, count: int, start: int = 4000) -> list[int]:
    """RDS ports that the hash puts on ``path``."""
    return list(islice((port for port in range(start, 65536) if path_of_port(port, MAX_PATHS) == path), count))


def test_announcement_names_what_the_probe_says() -> None:
    assert Announcement.of(build_extensions(SINCE_7)) == Announcement(8, 0x1234, True)
    assert Announcement.of(bytes(16)) == Announcement(None, None, False)


def test_a_probe_travels_on_path_0() -> None:
    capture = Capture()
    capture.opens(50001, from_start=False)
    probed = capture.opens(50000, from_start=False)
    capture.handshake(probed, BEFORE_7, BEFORE_7)
    assert capture.read()[probed] == 0
    assert capture.streams[probed].path_confidence == 1.0


def test_announced_source_ports_tell_the_path_for_sure() -> None:
    capture = Capture()
    first = capture.opens(32776)
    capture.handshake(first, SINCE_7, BEFORE_7)
    for port in (32779, 32777, 32791):
        capture.opens(port)
    assert capture.read() == [0, 3, 1, 7]
    assert [stream.path_confidence for stream in capture.streams.streams] == [1.0] * 4
    assert "SPORT_IDX" in capture.streams[1].path_basis


def test_source_ports_mean_nothing_where_only_the_accepting_side_announces_them() -> None:
    capture = Capture()
    first = capture.opens(32776)
    capture.handshake(first, BEFORE_7, SINCE_7)
    late = capture.opens(32779, from_start=False)
    assert capture.read()[late] == -1


def test_order_of_connections_is_a_guess_with_a_modest_confidence() -> None:
    capture = Capture()
    first = capture.opens(40001)
    capture.handshake(first, BEFORE_7, BEFORE_7)
    for port in (51000, 38002, 60001):
        capture.opens(port)
    assert capture.read() == [0, 1, 2, 3]
    assert {stream.path_confidence for stream in capture.streams.streams[1:]} == {0.6}
    assert "order" in capture.streams[2].path_basis


def test_hash_of_several_ports_outweighs_the_order() -> None:
    capture = Capture()
    first = capture.opens(40001)
    capture.handshake(first, BEFORE_7, BEFORE_7)
    second = capture.opens(51000)
    for port in ports_of(5, 3):
        capture.carries(second, port)
    assert capture.read() == [0, 5]
    assert 0.9 < capture.streams[second].path_confidence <= MOST_CONFIDENCE
    assert "hash of 3 of 3" in capture.streams[second].path_basis


def test_one_socket_that_does_not_follow_the_hash_does_not_mislead() -> None:
    capture = Capture()
    stream = capture.opens(51000, from_start=False)
    capture.handshake(capture.opens(50000, from_start=False), BEFORE_7, BEFORE_7)
    for port in [*ports_of(2, 3), *ports_of(7, 1)]:
        capture.carries(stream, port)
    assert capture.read()[stream] == 2


def test_before_the_handshake_all_sockets_use_path_0() -> None:
    capture = Capture()
    stream = capture.opens(50000)
    capture.handshake(capture.opens(51000), BEFORE_7, BEFORE_7)
    for path in range(1, 8):
        capture.carries(stream, ports_of(path, 1)[0])
    assert capture.read()[stream] == 0
    assert "before the handshake" in capture.streams[stream].path_basis


def test_ports_of_all_paths_do_not_speak_for_the_other_byte_order() -> None:
    capture = Capture()
    capture.handshake(capture.opens(50000), BEFORE_7, BEFORE_7)
    early = [capture.opens(51000 + index, from_start=False) for index in range(4)]
    for stream in early:
        for port in range(4000, 4300, 10):
            capture.carries(stream, port)
    late = capture.opens(52000, from_start=False)
    capture.carries(late, ports_of(5, 1)[0])
    assert capture.read()[late] == 5


def test_a_stream_counts_from_its_first_frame_on_though_the_table_is_ahead() -> None:
    capture = Capture()
    first = capture.opens(50000)
    capture.handshake(first, BEFORE_7, BEFORE_7)
    later = [capture.opens(51000 + index) for index in range(30)]
    opened, capture.events = capture.events[1:], capture.events[:1]
    capture.read()
    capture.events = opened
    for port in ports_of(6, 3):
        capture.carries(later[0], port)
    assert capture.read()[later[0]] == 6


def test_ports_may_be_hashed_in_the_other_byte_order() -> None:
    capture = Capture()
    capture.handshake(capture.opens(50000, from_start=False), BEFORE_7, BEFORE_7)
    stream = capture.opens(51000, from_start=False)
    for port in ports_of(6, 8):
        capture.carries(stream, (port & 0xFF) << 8 | port >> 8)
    assert capture.read()[stream] == 6


def test_messages_of_the_accepting_side_may_tell_another_number() -> None:
    capture = Capture()
    capture.handshake(capture.opens(50000), BEFORE_7, BEFORE_7)
    stream = capture.opens(51000)
    for port in ports_of(1, 3):
        capture.carries(stream, port)
    for port in ports_of(4, 3):
        capture.carries(stream, port, direction=1)
    assert capture.read()[stream] == 1
    assert "other side's messages fit path 4" in capture.streams[stream].path_basis


def test_without_any_evidence_the_path_stays_unknown() -> None:
    capture = Capture()
    capture.handshake(capture.opens(50000, from_start=False), BEFORE_7, BEFORE_7)
    stream = capture.opens(51000, from_start=False)
    assert capture.read()[stream] == -1
    assert capture.streams[stream].path_confidence == 0.0
    assert capture.streams[stream].path_basis == "not known"


def test_more_messages_make_an_unknown_path_known() -> None:
    capture = Capture()
    capture.handshake(capture.opens(50000, from_start=False), BEFORE_7, BEFORE_7)
    stream = capture.opens(51000, from_start=False)
    capture.read()
    for port in ports_of(3, 2):
        capture.carries(stream, port)
    assert capture.read()[stream] == 3


def test_a_new_connection_takes_the_place_of_the_one_that_ended() -> None:
    capture = Capture()
    first = capture.opens(40001)
    capture.handshake(first, BEFORE_7, BEFORE_7)
    second, third = capture.opens(51000), capture.opens(38002)
    capture.read()
    capture.closes(second)
    capture.read()
    successor = capture.opens(60001)
    assert capture.read() == [0, 1, 2, 1]
    assert third == 2
    assert successor == 3


def test_two_connections_of_one_time_are_not_the_same_path() -> None:
    capture = Capture()
    capture.handshake(capture.opens(50000), BEFORE_7, BEFORE_7)
    streams = [capture.opens(51000 + index) for index in range(7)]
    order = [1, 2, 3, 4, 6, None, 5]
    for stream, path in zip(streams, order, strict=True):
        for port in ports_of(path, 3) if path is not None else []:
            capture.carries(stream, port)
    assert capture.read() == [0, 1, 2, 3, 4, 6, 7, 5]


def test_only_connection_of_a_pair_is_path_0() -> None:
    capture = Capture()
    stream = capture.opens(40001)
    for port in (4001, 4002, 4003):
        capture.carries(stream, port)
    assert capture.read() == [0]
    assert capture.streams[0].path_basis == "only connection"
    assert capture.streams[0].path_confidence > 0.9


def test_only_connection_in_the_capture_may_be_one_of_several() -> None:
    capture = Capture()
    stream = capture.opens(40001, from_start=False)
    for port in ports_of(5, 6):
        capture.carries(stream, port)
    assert capture.read() == [5]
    assert "only connection" in capture.streams[0].path_basis


def test_in_a_capture_that_starts_late_source_ports_that_fit_the_hash_tell_of_the_others() -> None:
    capture = Capture()
    streams = [capture.opens(32776 + path, from_start=False) for path in range(5)]
    for _ in range(2):
        for path, stream in enumerate(streams[:4]):
            for port in ports_of(path, 2):
                capture.carries(stream, port)
        capture.carries(streams[4], 0, kind=MessageKind.PONG)
    assert capture.read() == [0, 1, 2, 3, 4]
    assert capture.streams[4].path_basis.startswith("TCP source port 32780")
    assert "8 paths assumed" in capture.streams[4].path_basis


def test_a_peer_without_extensions_has_a_single_path() -> None:
    capture = Capture()
    first = capture.opens(40001)
    capture.handshake(first, BEFORE_7, [])
    capture.closes(first)
    capture.opens(40007)
    assert capture.read() == [0, 0]
    assert capture.streams[1].path_confidence == 1.0


def test_the_larger_address_opens_no_path() -> None:
    capture = Capture()
    stray = capture.opens(40001, dialler=LARGER)
    capture.opens(40002)
    assert capture.read()[stray] == -1
    assert "larger address" in capture.streams[stray].path_basis


def test_infiniband_has_no_paths() -> None:
    capture = Capture()
    ends = Endpoint(SMALLER, 17), Endpoint(LARGER, 17)
    capture.streams.add(Transport.IB, *ends, initiator_known=True, first_frame=1, from_start=True)
    capture.carries(0, 4001)
    assert capture.read() == [-1]


@pytest.mark.parametrize("npaths", [0, 1, 2, 7, 8, 9, 65535])
def test_any_announced_number_of_paths_is_survived(npaths: int) -> None:
    capture = Capture()
    first = capture.opens(40001)
    capture.handshake(first, [NPaths(npaths), SportIdx()], [NPaths(npaths), SportIdx()])
    for index in range(12):
        stream = capture.opens(41000 + index)
        capture.carries(stream, 4000 + index)
    assert all(-1 <= path < MAX_PATHS for path in capture.read())
