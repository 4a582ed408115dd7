"""Congestion as intervals by port."""

from __future__ import annotations

import pytest

from rdstool.stats import congestion

from .scene import A, B, Scene


def test_a_port_is_congested_from_the_map_that_sets_its_bit_to_the_one_that_clears_it() -> None:
    scene = Scene()
    stream = scene.stream()
    scene.sends_map(stream, [])
    scene.sends_map(stream, [4000])
    scene.wait(498)
    scene.sends_map(stream, [4000, 4001])
    scene.batch()
    scene.sends_map(stream, [4001])
    first, second = scene.stats().congestion
    assert (first.address, first.peer, first.port) == (B, A, 4000)
    assert (first.begin_frame, first.end_frame) == (3, 5)
    assert first.duration == pytest.approx(0.5)
    assert (second.port, second.end, second.end_frame, second.duration) == (4001, None, None, None)


def test_the_same_map_on_several_paths_is_one_interval() -> None:
    scene = Scene()
    streams = [scene.stream(40000 + index) for index in range(3)]
    for stream in streams:
        scene.sends_map(stream, [4000])
    for stream in streams:
        scene.sends_map(stream, [])
    assert len(scene.stats().congestion) == 1


def test_maps_of_the_two_sides_do_not_mix() -> None:
    scene = Scene()
    stream = scene.stream()
    scene.sends_map(stream, [4000], direction=1)
    scene.sends_map(stream, [], direction=0)
    (interval,) = scene.stats().congestion
    assert interval.end is None


def test_messages_during_and_after_the_interval_are_counted() -> None:
    scene = Scene()
    stream = scene.stream()
    scene.sends(stream, dport=4000)  # before
    scene.sends_map(stream, [4000])
    scene.sends(stream, dport=4000)  # under way
    scene.sends(stream, dport=4001)
    scene.sends(stream, dport=4000, direction=1)  # the other host's port 4000
    scene.batch()
    scene.sends(stream, dport=4000)
    scene.sends_map(stream, [])
    scene.sends(stream, dport=4000)  # may have waited
    scene.batch()
    scene.sends(stream, dport=4000)
    scene.wait(200)
    scene.sends(stream, dport=4000)  # too late to have waited
    (interval,) = scene.stats().congestion
    assert interval.sent_during == 2
    assert interval.held_back_at_most == 2


def test_messages_after_the_bit_was_set_again_belong_to_the_next_interval() -> None:
    scene = Scene()
    stream = scene.stream()
    scene.sends_map(stream, [4000])
    scene.sends_map(stream, [])
    scene.sends(stream, dport=4000)
    scene.sends_map(stream, [4000])
    scene.sends(stream, dport=4000)
    scene.sends_map(stream, [])
    first, second = scene.stats().congestion
    assert (first.held_back_at_most, second.sent_during) == (1, 1)


def test_an_interval_with_a_hole_in_it_is_not_certain() -> None:
    scene = Scene()
    stream = scene.stream()
    scene.sends_map(stream, [4000])
    scene.gap(stream, direction=0)
    scene.sends_map(stream, [4000, 4001])
    scene.batch()
    scene.gap(stream, direction=1)
    scene.sends_map(stream, [4001])
    scene.sends_map(stream, [4001, 4002])
    assert [(one.port, one.certain) for one in scene.stats().congestion] == [(4000, False), (4001, False), (4002, True)]


def test_a_map_that_was_not_seen_whole_is_not_used() -> None:
    scene = Scene()
    stream = scene.stream()
    scene.sends_map(stream, [4000], complete=False)
    stats = scene.stats()
    assert not stats.congestion
    assert (stats.capture.bitmaps, stats.capture.bitmaps_unusable) == (1, 1)


def test_hostile_maps_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(congestion, "INTERVALS", 5)
    scene = Scene()
    stream = scene.stream()
    scene.sends_map(stream, list(range(2, 60_000)))  # changes more than is believed
    for turn in range(10):
        scene.sends_map(stream, [4000] if turn % 2 == 0 else [])
    scene.sends_map(stream, [7, 8, 9])
    stats = scene.stats()
    assert len(stats.congestion) == 5
    assert stats.capture.bitmaps_unusable == 1
    assert any("3 congested intervals beyond the limit" in note for note in stats.capture.notes)
