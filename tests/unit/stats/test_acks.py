"""When a message counts as acknowledged, and when the capture cannot tell."""

from __future__ import annotations

import pytest

from rdstool.protocol.kinds import MessageKind, Transport
from rdstool.stats import acks
from rdstool.stats.acks import Outcome
from rdstool.stats.model import PathStats

from .scene import MS, Scene


def only_path(scene: Scene) -> PathStats:
    paths = [path for path in scene.stats().paths if path.data_messages]
    assert len(paths) == 1
    return paths[0]


def test_latency_is_the_time_to_the_first_acknowledgement_that_reaches_the_end() -> None:
    scene = Scene()
    stream = scene.stream()
    first = scene.sends(stream)
    second = scene.sends(stream)
    scene.acks(stream, first - 1)
    scene.acks(stream, first)
    scene.wait(7)
    scene.acks(stream, second + 10)
    latency = only_path(scene).latency
    assert latency.measured == 2
    assert latency.minimum == pytest.approx(0.003)
    assert latency.maximum == pytest.approx(0.010)


def test_an_acknowledgement_may_come_batches_later() -> None:
    scene = Scene()
    stream = scene.stream()
    end = scene.sends(stream)
    scene.batch()
    scene.batch()
    scene.wait(50)
    scene.acks(stream, end)
    assert only_path(scene).latency.maximum == pytest.approx(0.051)


def test_streams_and_directions_are_acknowledged_on_their_own() -> None:
    scene = Scene()
    one, other = scene.stream(40000), scene.stream(40001)
    end = scene.sends(one)
    scene.sends(other)
    scene.sends(one, direction=1)
    scene.acks(one, end)
    scene.stats()
    assert [int(count) for count in scene.collector.acks.lane_outcomes[:, Outcome.MEASURED]] == [1, 0, 0, 0]
    assert [int(count) for count in scene.collector.acks.lane_outcomes[:, Outcome.NOT_SEEN]] == [0, 1, 1, 0]


def test_nothing_is_concluded_across_a_hole() -> None:
    scene = Scene()
    stream = scene.stream()
    across = scene.sends(stream)
    scene.gap(stream, direction=1)
    scene.acks(stream, across)
    scene.acks(stream, scene.sends(stream))
    latency = only_path(scene).latency
    assert latency.measured == 1
    assert latency.not_measured == {"across a hole in the capture": 1}


def test_a_hole_of_another_stream_does_not_matter() -> None:
    scene = Scene()
    stream, other = scene.stream(40000), scene.stream(40001)
    end = scene.sends(stream)
    scene.gap(other)
    scene.acks(stream, end)
    assert only_path(scene).latency.measured == 1


def test_a_message_that_was_not_seen_whole_has_no_latency() -> None:
    scene = Scene()
    stream = scene.stream()
    scene.acks(stream, scene.sends(stream, complete=False))
    assert only_path(scene).latency.not_measured == {"message not seen whole": 1}


@pytest.mark.parametrize("batches", [1, 2])
def test_an_acknowledgement_captured_before_its_message_gives_no_latency(batches: int) -> None:
    scene = Scene()
    stream = scene.stream()
    scene.acks(stream, 10_000)
    if batches == 2:
        scene.batch()
    scene.sends(stream)
    path = only_path(scene)
    assert path.latency.not_measured == {"acknowledgement captured before the message": 1}
    assert path.in_flight.max_bytes == 0


def test_negative_intervals_make_the_stream_doubtful_and_no_latency_is_printed() -> None:
    scene = Scene()
    stream = scene.stream()
    scene.acks(stream, scene.sends(stream))
    scene.batch()
    end = scene.sends(stream)
    wall_clock, scene.now = scene.now, 3_000 * MS  # the other direction's clock counts from boot
    scene.acks(stream, end)
    scene.now = wall_clock
    stats = scene.stats()
    path = next(path for path in stats.paths if path.data_messages)
    assert path.latency.measured == 0
    assert path.latency.p50 is None
    assert path.latency.not_measured == {"clocks of the two directions not comparable": 2}
    assert not stats.streams[0].clocks_comparable
    assert any("not comparable" in note for note in stats.capture.notes)


def test_ack_only_frames_are_not_acknowledged_themselves() -> None:
    scene = Scene()
    stream = scene.stream(transport=Transport.IB)
    scene.sends(stream, kind=MessageKind.ACK, sport=0, dport=0, length=0)
    latency = scene.stats().paths[0].latency
    assert latency.measured == 0
    assert not latency.not_measured


def test_bytes_in_flight_rise_with_messages_and_fall_with_acknowledgements() -> None:
    scene = Scene()
    stream = scene.stream()
    first = scene.sends(stream, length=52)  # 100 bytes with its header
    scene.sends(stream, length=52)
    scene.acks(stream, first)
    scene.batch()
    third = scene.sends(stream, length=52)
    scene.acks(stream, third)
    path = only_path(scene)
    assert path.in_flight.max_bytes == 200
    # 100 bytes for 2, 3 and 1 ms, over 4 ms from the first message to the last acknowledgement.
    assert path.in_flight.mean_bytes == pytest.approx(100 * (2 + 3 + 1) / 4, abs=0.1)


def test_bytes_in_flight_of_a_socket_go_over_all_its_streams() -> None:
    scene = Scene()
    one, other = scene.stream(40000), scene.stream(40001)
    first = scene.sends(one, length=52)
    second = scene.sends(other, length=52)
    scene.acks(other, second)
    scene.sends(one, length=52)
    scene.acks(one, first + 100)
    stats = scene.stats()
    socket = next(socket for socket in stats.sockets if socket.port == 4001)
    assert socket.in_flight.max_bytes == 200
    assert {path.in_flight.max_bytes for path in stats.paths if path.data_messages} <= {100, 200}


def test_waiting_messages_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acks, "WAITING_MESSAGES", 3)
    scene = Scene()
    stream = scene.stream()
    for _ in range(3):
        for _ in range(4):
            end = scene.sends(stream)
        scene.batch()
    scene.acks(stream, end)
    latency = only_path(scene).latency
    assert latency.measured == 3
    assert latency.not_measured == {"acknowledgement not seen": 9}


def test_the_listener_gets_every_message_once() -> None:
    scene = Scene()
    stream = scene.stream()
    first = scene.sends(stream)
    scene.sends(stream)
    scene.acks(stream, first)
    scene.batch()
    scene.stats()
    assert [number for sent in scene.listed for number in sent.number.tolist()] == [1, 2]
    assert [number for sent in scene.listed for number in sent.acked_frame.tolist()] == [4, 0]
