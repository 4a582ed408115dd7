"""Counts, pings, handshakes, restarts, balance and RDMA."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from rich.console import Console

from dissectors.wire.extensions import Extension, GenNum, NPaths, SportIdx
from dissectors.wire.rds import Flags
from rdstool.capture.events import Closing, RdmaKind, RdmaOperation, StreamClosed
from rdstool.protocol.kinds import MessageKind, Transport
from rdstool.stats import groups
from rdstool.stats.listing import record_lines
from rdstool.stats.model import SECTIONS, Records, StreamStats
from rdstool.stats.tables import ROWS, sections

from .scene import A, B, Scene


def handshake(scene: Scene, stream: int, said_by_a: list[Extension], said_by_b: list[Extension]) -> None:
    scene.sends(stream, kind=MessageKind.PROBE, sport=1, dport=0, length=0, extensions=said_by_a)
    scene.sends(stream, direction=1, kind=MessageKind.PROBE_REPLY, sport=0, dport=1, length=0, extensions=said_by_b)


def test_messages_and_bytes_are_counted_by_path_and_socket() -> None:
    scene = Scene()
    stream = scene.stream()
    scene.sends(stream, sport=4001, dport=5001, length=1000)
    scene.wait(999)
    scene.sends(stream, sport=4001, dport=5002, length=500)
    scene.sends(stream, direction=1, sport=5001, dport=4001, length=70)
    scene.sends(stream, kind=MessageKind.PING, sport=4001, dport=0, length=0)
    stats = scene.stats()
    there, back = stats.paths
    assert (there.src, there.dst, there.data_messages, there.data_bytes, there.messages) == (A, B, 2, 1500, 3)
    assert (back.data_messages, back.data_bytes) == (1, 70)
    sockets = {(one.address, one.port): one for one in stats.sockets}
    assert sockets[A, 4001].sent_messages == 3
    assert sockets[A, 4001].sent_bytes == 1500
    assert sockets[A, 4001].received_bytes == 70
    assert sockets[B, 5002].received_messages == 1
    assert stats.connections[0].a_to_b_bytes == 1500
    assert stats.capture.kinds == {"data": 3, "ping": 1}


def test_rates_are_over_the_time_between_first_and_last_message() -> None:
    scene = Scene()
    stream = scene.stream()
    scene.sends(stream, length=1000)
    scene.wait(499)
    scene.sends(stream, length=1000)
    (path,) = (path for path in scene.stats().paths if path.messages)
    assert path.byte_rate == pytest.approx(4000)
    assert path.message_rate == pytest.approx(4)


def test_a_single_message_has_no_rate() -> None:
    scene = Scene()
    scene.sends(scene.stream())
    assert scene.stats().paths[0].byte_rate is None


def test_ports_sum_up_the_sockets_of_all_addresses() -> None:
    scene = Scene()
    stream = scene.stream()
    scene.acks(stream, scene.sends(stream, sport=4001, dport=4001, length=10))
    scene.sends(stream, direction=1, sport=4001, dport=4001, length=20)
    (port,) = scene.stats().ports
    assert (port.port, port.sockets, port.sent_messages, port.sent_bytes) == (4001, 2, 2, 30)
    assert port.latency.measured == 1
    assert port.latency.not_measured == {"acknowledgement not seen": 1}


def test_sockets_beyond_the_limit_are_still_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "SOCKETS", 3)
    scene = Scene()
    stream = scene.stream()
    for port in range(4000, 4010):
        scene.sends(stream, sport=port)
    stats = scene.stats()
    assert len(stats.sockets) == 3
    assert stats.capture.sockets_beyond_limit == 7
    assert stats.paths[0].data_messages == 10


def test_flagged_messages_are_counted_as_retransmitted() -> None:
    scene = Scene()
    stream = scene.stream()
    scene.sends(stream)
    scene.sends(stream, flags=Flags.RETRANSMITTED)
    assert scene.stats().paths[0].flagged_retransmitted == 1


def test_every_path_says_how_much_was_seen() -> None:
    scene = Scene()
    stream = scene.stream()
    scene.sends(stream)
    scene.streams[stream].coverage[0].seen = 300
    scene.gap(stream)
    stats = scene.stats()
    assert stats.paths[0].seen.coverage == pytest.approx(0.75)
    assert stats.paths[0].seen.gaps == 1
    assert stats.sockets[0].coverage == pytest.approx(0.75)
    assert stats.connections[0].coverage == pytest.approx(0.75)


def test_a_ping_is_answered_by_the_pong_to_its_port_on_the_same_stream() -> None:
    scene = Scene()
    stream, other = scene.stream(40000), scene.stream(40001)
    scene.sends(stream, kind=MessageKind.PING, sport=4001, dport=0, length=0)
    scene.sends(stream, kind=MessageKind.PING, sport=4002, dport=0, length=0)
    scene.sends(other, direction=1, kind=MessageKind.PONG, sport=0, dport=4001, length=0)
    scene.batch()
    scene.wait(9)
    scene.sends(stream, direction=1, kind=MessageKind.PONG, sport=0, dport=4001, length=0)
    pings = [one for one in scene.stats().pings if one.sent]
    assert [(one.src, one.sent, one.answered) for one in pings] == [(A, 2, 1)]
    assert pings[0].round_trip.maximum == pytest.approx(0.012)
    assert pings[0].round_trip.not_measured == {"no pong seen": 1}


def test_a_second_pong_answers_nothing() -> None:
    scene = Scene()
    stream = scene.stream()
    scene.sends(stream, kind=MessageKind.PING, sport=4001, dport=0, length=0)
    for _ in range(2):
        scene.sends(stream, direction=1, kind=MessageKind.PONG, sport=0, dport=4001, length=0)
    assert [one.answered for one in scene.stats().pings] == [1]


@pytest.mark.parametrize(
    ("said", "kernel"),
    [
        ([NPaths(8)], "Linux 4.10 to 6.x"),
        ([NPaths(8), GenNum(5), SportIdx()], "Linux 7.0 or later"),
        ([NPaths(8), SportIdx()], "UEK"),
        ([], "single-path peer"),
    ],
)
def test_the_probe_tells_of_the_kernel(said: list[Extension], kernel: str) -> None:
    scene = Scene()
    handshake(scene, scene.stream(), said, said)
    assert [side.address for side in scene.stats().sides] == [A, B]
    assert all(side.kernel.startswith(kernel) for side in scene.stats().sides)


def test_balance_compares_the_fullest_path_with_the_mean() -> None:
    scene = Scene()
    first = scene.stream(32776)
    handshake(scene, first, [NPaths(4), SportIdx()], [NPaths(8), SportIdx()])
    second = scene.stream(32777)
    scene.sends(first, length=300)
    scene.sends(second, length=100)
    (connection,) = scene.stats().connections
    assert connection.npaths == 4
    (balance,) = connection.balance
    assert [(part.path, part.share) for part in balance.paths] == [(0, 0.75), (1, 0.25)]
    assert balance.imbalance == pytest.approx(3.0)


def test_numbering_that_begins_again_on_a_path_that_is_inferred_is_no_proof() -> None:
    scene = Scene()
    reconnected(scene, [1, 2, 3], [1, 2])
    stats = scene.stats()
    assert [one.kind for one in stats.reconnects] == ["unknown"]
    assert stats.connections[0].restarts == 0


def reconnected(scene: Scene, before: list[int], after: list[int], *, handshakes: bool = False) -> None:
    """Path 0 with sequence numbers of A on its first and second connection, certain where it has handshakes."""
    stream = scene.stream(40000)
    if handshakes:
        handshake(scene, stream, [NPaths(8)], [NPaths(8)])
    for sequence in before:
        scene.sends(stream, sequence=sequence)
    scene.happens(StreamClosed(scene.frame + 1, scene.now, stream, 0, Closing.RST, 0))
    stream = scene.stream(40001)
    for sequence in after:
        scene.sends(stream, sequence=sequence)
    if handshakes:
        handshake(scene, stream, [NPaths(8)], [NPaths(8)])


def test_numbering_that_goes_on_is_a_mere_reconnection() -> None:
    scene = Scene()
    reconnected(scene, [1, 2, 3], [4, 5])
    stats = scene.stats()
    assert [(one.kind, one.basis) for one in stats.reconnects] == [("reconnect", "numbering goes on")]
    assert (stats.connections[0].reconnects, stats.connections[0].restarts) == (1, 0)


def test_numbering_that_begins_again_on_a_certain_path_is_a_restart() -> None:
    scene = Scene()
    reconnected(scene, [1, 2, 3], [1, 2], handshakes=True)
    stats = scene.stats()
    assert [(one.kind, one.restarted) for one in stats.reconnects] == [("restart", [A])]
    assert stats.connections[0].restarts == 1


def test_another_generation_number_is_a_restart() -> None:
    scene = Scene()
    for port, generation in ((40000, 17), (40001, 18)):
        stream = scene.stream(port)
        said: list[Extension] = [NPaths(8), GenNum(generation), SportIdx()]
        handshake(scene, stream, said, [NPaths(8), GenNum(99), SportIdx()])
        scene.happens(StreamClosed(scene.frame + 1, scene.now, stream, 0, Closing.FIN, 0))
    (one,) = scene.stats().reconnects
    assert (one.kind, one.restarted) == ("restart", [A])
    assert "GEN_NUM" in one.basis


def test_connections_of_one_time_are_no_reconnection() -> None:
    scene = Scene()
    one, other = scene.stream(17, Transport.IB), scene.stream(18, Transport.IB)
    scene.sends(one)
    scene.sends(other)
    scene.sends(one)
    assert not scene.stats().reconnects


def test_rdma_is_summed_up_by_kind_and_requester() -> None:
    scene = Scene()
    stream = scene.stream(17, Transport.IB)
    for status, seen in (("ok", 4096), ("unknown", 1024), ("REMOTE_ACCESS", 0)):
        scene.happens(RdmaOperation(scene.frame, scene.now, stream, 1, RdmaKind.READ, 0, 0, 4096, seen, 1, 1, status))
    (volume,) = scene.stats().rdma
    assert (volume.requester, volume.kind, volume.operations, volume.bytes) == (B, "rdma-read", 3, 12288)
    assert (volume.seen, volume.unanswered, volume.failed) == (5120, 1, 1)


def test_clocks_that_count_from_boot_do_not_stretch_the_capture() -> None:
    scene = Scene()
    stream = scene.stream()
    scene.sends(stream)
    scene.wait(8)
    scene.sends(stream)
    scene.now = 5
    scene.sends(stream, direction=1)
    stats = scene.stats()
    assert stats.capture.duration == pytest.approx(0.009)
    assert any("count from boot" in note for note in stats.capture.notes)


@pytest.mark.parametrize("sections", [SECTIONS, ("paths", "streams")])
def test_each_line_of_json_names_its_section_and_holds_all_of_a_record(sections: tuple[str, ...]) -> None:
    scene = Scene()
    scene.sends(scene.stream())
    stats = scene.stats()
    records = [{"section": name, **asdict(record)} for name in sections for record in stats.section(name)]
    lines = [json.loads(line) for line in record_lines(stats, sections)]
    assert lines == records
    assert {next(iter(line)) for line in lines} == {"section"}


def test_records_are_made_for_the_rows_that_a_table_shows_alone() -> None:
    scene = Scene()
    for number in range(3 * ROWS):
        scene.sends(scene.stream(number + 1))
    stats = scene.stats()
    made: list[int] = []
    whole = stats.streams

    def make(place: int) -> StreamStats:
        made.append(place)
        return whole[place]

    stats.streams = Records(len(whole), make)
    console = Console(width=400)
    with console.capture() as shown:
        console.print(sections(stats, ["streams"], all_rows=False))
    assert made == list(range(ROWS))
    assert f"{len(whole) - ROWS} more: --section streams" in shown.get()


def test_a_capture_without_messages_is_summed_up_too() -> None:
    stats = Scene().stats()
    assert stats.capture.messages == 0
    assert stats.capture.duration is None
    assert not stats.paths
