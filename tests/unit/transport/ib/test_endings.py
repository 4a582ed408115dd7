"""How connections end: told by either side, both, or none."""

from __future__ import annotations

import pytest

from rdstool.transport.ib.provider import (
    Broken,
    Completed,
    Disconnected,
    Refused,
    Status,
)
from rdstool.transport.ib.roce.connection import CmState
from tests.unit.transport.ib.driving import (
    Pair,
    asked,
    lose_messages,
    names,
    of_kind,
    one,
)


@pytest.mark.parametrize("who", [0, 1])
def test_either_side_ends_it(pair: Pair, who: int) -> None:
    ends = pair.connect()
    devices = (pair.active, pair.passive)
    for end in ends:
        end.post_receive(3, 10)
    ends[who].disconnect(b"bye")
    pair.settle()
    assert names(pair) == ["DREQ", "DREP"]
    for number, device in enumerate(devices):
        flushed, ended = device.take_events()
        assert isinstance(flushed, Completed)
        assert (flushed.wr_id, flushed.status) == (3, Status.FLUSHED)
        assert isinstance(ended, Disconnected)
        assert ended.by_peer == (number != who)
    assert [end.cm_state for end in ends] == [CmState.TIMEWAIT] * 2
    assert [len(device.manager._directory) for device in devices] == [0, 0]
    assert [device.next_timer() for device in devices] == [None, None]


@pytest.mark.parametrize("lost", ["DREQ", "DREP"])
def test_a_lost_end_is_made_good(pair: Pair, lost: str) -> None:
    active, passive = pair.connect()
    pair.filter = lose_messages(lost)
    active.disconnect()
    pair.settle()
    pair.filter = Pair().filter
    pair.wait(2.0)
    assert (active.cm_state, passive.cm_state) == (CmState.TIMEWAIT, CmState.TIMEWAIT)
    assert len(of_kind(pair.passive.take_events(), Disconnected)) == 1


def test_both_end_it_at_once(pair: Pair) -> None:
    active, passive = pair.connect()
    active.disconnect()
    passive.disconnect()
    pair.settle()
    assert (active.cm_state, passive.cm_state) == (CmState.TIMEWAIT, CmState.TIMEWAIT)


def test_a_dead_peer_does_not_hold_up_the_end(pair: Pair) -> None:
    active, _ = pair.connect()
    pair.filter = lambda *_: []
    active.disconnect()
    active.disconnect()
    assert one(pair.active, Disconnected).by_peer is False
    pair.wait(30.0)
    assert active.cm_state is CmState.TIMEWAIT
    assert pair.active.take_events() == []


@pytest.mark.parametrize("answered", [False, True])
def test_an_attempt_can_be_given_up(pair: Pair, answered: bool) -> None:
    active, passive = asked(pair)
    if answered:
        pair.filter = lose_messages("RTU")
        passive.accept()
        passive.disconnect()
    else:
        active.disconnect()
    pair.settle()
    assert (active.cm_state, passive.cm_state) == (CmState.TIMEWAIT, CmState.TIMEWAIT)
    assert of_kind(pair.passive.take_events(), Disconnected if answered else Refused)


def test_a_broken_queue_pair_is_ended_like_any(pair: Pair) -> None:
    active, passive = pair.connect()
    active.post_write(1, b"x", 0, 5)
    pair.settle()
    assert of_kind(pair.active.take_events(), Broken)
    assert of_kind(pair.passive.take_events(), Broken)
    active.disconnect()
    pair.settle()
    assert one(pair.active, Disconnected).by_peer is False
    assert one(pair.passive, Disconnected).by_peer is True
    assert passive.cm_state is CmState.TIMEWAIT
