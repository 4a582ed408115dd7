"""What happens to packets on their way into a capture never changes what is true of the messages."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rdstool.capture.columns import IbPackets
from rdstool.capture.events import Gap
from rdstool.protocol.kinds import MessageKind
from tests.captures.ib_reading import Reading, chosen, in_pieces, packets_of, without_cm

PCAPS = Path(__file__).parents[2] / "pcaps"
NAMES = ["ib-basic-61", "ib-basic-73", "ib-rdma-61", "ib-rdma-73", "ib-reconnect-73"]
REORDER = 8
few = settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
seeds = st.integers(0, 2**32 - 1)
captures = st.sampled_from(NAMES)


@cache
def original(name: str) -> IbPackets:
    (packets,) = packets_of(PCAPS / name / "a.pcap.gz")
    return packets


@cache
def undisturbed(name: str) -> Reading:
    return Reading([original(name)])


def renumbered(packets: IbPackets) -> IbPackets:
    """A capture numbers its frames as they come."""
    return replace(packets, frame=np.arange(1, len(packets) + 1))


def content(reading: Reading) -> list[tuple[Any, ...]]:
    """What the messages say, whatever the frames that they came in."""
    names = ("end", "position", "fragments", "seen", "complete", "kind", "checksum_status")
    return sorted(
        (
            reading.ends(row),
            *(int(row[name]) for name in names),
            row["header"].tobytes(),
            reading.digests.get(index, ""),
            tuple((one.kind.value, one.va, one.length, one.seen, one.status) for one in reading.rdma.get(index, ())),
        )
        for index, row in enumerate(reading.rows)
    )


def shuffled(count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """An order in which nothing is overtaken by more than ``REORDER`` others."""
    return np.argsort(np.arange(count) + generator.uniform(0, REORDER, count), kind="stable")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1, 7, 100])
@pytest.mark.parametrize("with_cm", [True, False])
def test_the_size_of_batches_does_not_matter(name: str, size: int, with_cm: bool) -> None:
    packets = original(name) if with_cm else without_cm(original(name))
    whole, cut = Reading([packets]), Reading(in_pieces(packets, size))
    assert cut.messages() == whole.messages()
    for column in ("stream", "direction", "position", "frame"):
        assert sorted(cut.acks[column]) == sorted(whole.acks[column])
    columns = [name for name in whole.fragments.dtype.names or () if name != "message"]
    assert np.array_equal(
        np.sort(cut.fragments[columns], order=columns), np.sort(whole.fragments[columns], order=columns)
    )
    assert sorted(map(repr, cut.events)) == sorted(map(repr, whole.events))
    assert [half for stream in cut.streams.streams for half in stream.coverage] == [
        half for stream in whole.streams.streams for half in stream.coverage
    ]


@few
@given(captures, seeds, st.booleans(), st.sampled_from([1, 20, 10_000]))
def test_a_little_reordering_changes_nothing(name: str, seed: int, with_cm: bool, batch: int) -> None:
    packets = original(name) if with_cm else without_cm(original(name))
    order = shuffled(len(packets), np.random.default_rng(seed))
    reading = Reading(in_pieces(renumbered(chosen(packets, order)), batch))
    assert content(reading) == content(undisturbed(name))
    assert not reading.of_type(Gap)


@few
@given(captures, seeds)
def test_packets_that_were_captured_twice_count_once(name: str, seed: int) -> None:
    packets = original(name)
    twice = np.sort(np.concatenate([shuffled(len(packets), np.random.default_rng(seed)), np.arange(len(packets))]))
    late = twice[shuffled(len(twice), np.random.default_rng(seed + 1))]
    assert content(Reading([renumbered(chosen(packets, late))])) == content(undisturbed(name))


@few
@given(captures, seeds, st.floats(0.0005, 0.2), st.integers(1, 500))
def test_lost_packets_cost_only_the_messages_that_they_are_part_of(
    name: str, seed: int, share: float, batch: int
) -> None:
    packets = original(name)
    kept = np.random.default_rng(seed).uniform(size=len(packets)) >= share
    lost = packets.frame[~kept]
    damaged = Reading(in_pieces(chosen(packets, np.flatnonzero(kept)), batch))
    truth = undisturbed(name)
    known = set(truth.digests.values())
    complete = {damaged.digests[index] for index in np.flatnonzero(damaged.rows["complete"]).tolist()}
    assert complete <= known
    for index, row in enumerate(truth.rows):
        untouched = not ((lost >= row["first_frame"]) & (lost <= row["frame"])).any()
        if untouched and row["kind"] == MessageKind.DATA:
            assert truth.digests[index] in complete
    assert damaged.stage.kept_bytes == 0


@few
@given(captures, seeds, st.integers(1, 200))
def test_corrupted_packets_never_break_the_reading(name: str, seed: int, changes: int) -> None:
    packets = original(name)
    generator = np.random.default_rng(seed)
    data = packets.data.copy()
    at = generator.choice(packets.bth, changes) + generator.integers(0, 80, changes)
    data[np.minimum(at, len(data) - 1)] = generator.integers(0, 256, changes, np.uint8)
    reading = Reading(in_pieces(replace(packets, data=data), int(generator.integers(1, 5000))))
    assert (reading.rows["seen"] <= reading.rows["header"]["length"]).all()
    assert reading.stage.kept_bytes == 0


@few
@given(seeds, st.integers(1, 400), st.integers(1, 3))
def test_random_packets_never_break_the_reading(seed: int, count: int, hosts: int) -> None:
    generator = np.random.default_rng(seed)
    data = generator.integers(0, 256, 4096, np.uint8)
    bth = generator.integers(0, 3000, count)
    data[bth] = generator.integers(0, 0x18, count)
    data[bth + 5] = data[bth + 6] = 0
    data[bth + 7] = generator.integers(1, 4, count)
    data[bth + 9] = data[bth + 10] = 0
    length = generator.integers(0, 1000, count)
    addresses = [generator.integers(0, hosts, count).astype(np.uint64) for _ in range(4)]
    packets = IbPackets(
        data=data,
        frame=np.arange(1, count + 1),
        time=generator.integers(0, 1 << 60, count),
        src_hi=addresses[0],
        src_lo=addresses[1],
        dst_hi=addresses[2],
        dst_lo=addresses[3],
        network=np.full(count, -1),
        bth=bth,
        captured=np.minimum(length, generator.integers(0, 1000, count)),
        length=length,
    )
    Reading([packets])
    Reading(in_pieces(packets, 1))
