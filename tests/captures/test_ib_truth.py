"""Captures of real kernels over InfiniBand give exactly what the applications sent."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dissectors.wire.rds import Flags
from rdstool.capture.columns import ChecksumStatus, HeaderMatch
from rdstool.capture.events import CmMessage, Gap, RdmaOperation, StreamOpened
from rdstool.capture.part import PayloadOptions
from rdstool.protocol.kinds import MessageKind
from tests.captures.ib_reading import Reading, packets_of, without_cm

CAPTURES = [f"{name}-{kernel}/{end}" for name in ("ib-basic", "ib-rdma") for kernel in ("61", "73") for end in "ab"]
Pair = tuple[str, int, str, int]


@pytest.fixture(params=CAPTURES)
def capture(request: pytest.FixtureRequest, pcaps: Path) -> Path:
    """The path of one capture file."""
    return pcaps / f"{request.param}.pcap.gz"


def truth_of(capture: Path) -> Any:
    return json.loads((capture.parent / "truth.json").read_text())


def sent(truth: Any) -> dict[Pair, list[tuple[int, str]]]:
    """(source, port, destination, port) -> length and digest of each message, in the order of sending."""
    pairs: dict[Pair, list[tuple[int, str]]] = defaultdict(list)
    for socket in truth["sockets"]:
        for message in socket["sent"]:
            key = socket["ip"], socket["port"], message["dst"], message["dport"]
            pairs[key].append((message["len"], message["sha256"]))
    return dict(pairs)


def decoded(reading: Reading) -> dict[Pair, list[tuple[int, str]]]:
    pairs: dict[Pair, list[tuple[int, str]]] = defaultdict(list)
    for index, row in enumerate(reading.rows):
        if row["kind"] == MessageKind.DATA:
            source, target = reading.ends(row)
            key = source, int(row["header"]["sport"]), target, int(row["header"]["dport"])
            pairs[key].append((int(row["header"]["length"]), reading.digests[index]))
    return dict(pairs)


def test_every_message_sent_is_decoded_in_order_and_nothing_else(capture: Path) -> None:
    assert decoded(Reading(packets_of(capture))) == sent(truth_of(capture))


def test_messages_are_the_same_where_the_exchange_of_rdma_cm_was_not_captured(capture: Path) -> None:
    reading = Reading([without_cm(packets) for packets in packets_of(capture)])
    assert decoded(reading) == sent(truth_of(capture))
    assert len(reading.streams) == 1
    (stream,) = reading.streams.streams
    assert not stream.from_start
    assert stream.a.port
    assert stream.b.port


def test_nothing_is_missing_and_all_checksums_are_good(capture: Path) -> None:
    reading = Reading(packets_of(capture))
    assert reading.rows["complete"].all()
    assert (reading.rows["seen"] == reading.rows["header"]["length"]).all()
    assert (reading.rows["checksum_status"] == ChecksumStatus.GOOD).all()
    assert not reading.of_type(Gap)
    assert all(half.fraction == 1.0 and half.seen and not half.unassigned for half in reading.streams[0].coverage)


def test_fragments_are_those_of_a_kernel(capture: Path) -> None:
    reading = Reading(packets_of(capture))
    fragments, rows = reading.fragments, reading.rows
    assert (fragments["message"] >= 0).all()
    assert (np.bincount(fragments["message"], minlength=len(rows)) == rows["fragments"]).all()
    assert (np.bincount(fragments["message"], fragments["data"]) == rows["seen"]).all()
    last = np.append(fragments["message"][1:] != fragments["message"][:-1], True)
    assert (fragments["solicited"] == last).all()
    assert (fragments["header_match"] == HeaderMatch.SAME).all()
    assert not fragments["credit"].any()


def test_the_stream_bears_the_addresses_and_queue_pairs_of_rdma_cm(capture: Path) -> None:
    reading = Reading(packets_of(capture))
    (stream,) = reading.streams.streams
    ends = truth_of(capture)["ends"]
    assert sorted((stream.a.host, stream.b.host)) == sorted(ends["A"] + ends["B"])
    assert stream.initiator_known
    assert stream.from_start
    (opened,) = reading.of_type(StreamOpened)
    reply = next(event for event in reading.of_type(CmMessage) if event.frame == opened.frame)
    assert (stream.b.port, opened.direction) == (reply.body.local_qpn, 0)
    assert reply.private.saddr == stream.b.address[-4:]


def test_acknowledgements_advance_and_stay_below_what_was_sent(capture: Path) -> None:
    reading = Reading(packets_of(capture))
    for direction in (0, 1):
        acks = reading.acks[reading.acks["direction"] == direction]
        rows = reading.rows[reading.rows["direction"] == direction]
        assert len(acks)
        assert (np.diff(acks["position"]) > 0).all()
        assert acks["position"][-1] <= rows["end"].max()


@pytest.mark.parametrize("name", ["ib-rdma-61", "ib-rdma-73"])
@pytest.mark.parametrize("end", ["a", "b"])
def test_rdma_operations_are_tied_to_the_messages_that_announce_them(pcaps: Path, name: str, end: str) -> None:
    capture = pcaps / name / f"{end}.pcap.gz"
    reading = Reading(packets_of(capture))
    found = []
    for index, operations in sorted(reading.rdma.items(), key=lambda item: int(reading.rows["end"][item[0]])):
        (kind,) = {operation.kind.value for operation in operations}
        (rkey,) = {operation.rkey for operation in operations}
        length, seen = (sum(getattr(one, name) for one in operations) for name in ("length", "seen"))
        assert length == seen
        assert all(operation.status == "ok" for operation in operations)
        message = int(reading.rows["header"]["length"][index])
        found.append((kind, length, rkey, operations[0].va, message))
    expected = [
        (f"rdma-{item['op']}", item["bytes"], int(item["rkey"], 16), item["rkey_offset"], item["message_len"])
        for item in truth_of(capture)["rdma"]
    ]
    assert found == expected
    assert sum(map(len, reading.rdma.values())) == len(reading.of_type(RdmaOperation))


def test_congestion_bitmaps_are_kept_without_being_asked_for(pcaps: Path) -> None:
    reading = Reading(packets_of(pcaps / "ib-basic-73" / "a.pcap.gz"), PayloadOptions())
    bitmaps = np.flatnonzero(reading.rows["kind"] == MessageKind.CONGESTION)
    assert len(bitmaps) == 2
    assert {index: len(payload) for index, payload in reading.payloads.items()} == dict.fromkeys(bitmaps.tolist(), 8192)
    assert not reading.digests


@pytest.mark.parametrize("end", ["a", "b"])
@pytest.mark.parametrize("with_cm", [True, False])
def test_each_connection_after_a_cut_is_a_stream_and_carries_what_was_not_acknowledged(
    pcaps: Path, end: str, with_cm: bool
) -> None:
    capture = pcaps / "ib-reconnect-73" / f"{end}.pcap.gz"
    packets = packets_of(capture)
    reading = Reading(packets if with_cm else [without_cm(batch) for batch in packets])
    assert len(reading.streams) == 3
    assert all(stream.a.port and stream.b.port for stream in reading.streams.streams)
    # Sent messages appear again where the acknowledgement was lost with the wire; nothing is missing or new.
    in_order = np.argsort(reading.rows["frame"], kind="stable")
    firsts: dict[Pair, dict[tuple[int, str], None]] = defaultdict(dict)
    for index in in_order.tolist():
        row = reading.rows[index]
        if row["kind"] == MessageKind.DATA:
            source, target = reading.ends(row)
            key = source, int(row["header"]["sport"]), target, int(row["header"]["dport"])
            firsts[key][int(row["header"]["length"]), reading.digests[index]] = None
    expected = {key: list(dict.fromkeys(messages)) for key, messages in sent(truth_of(capture)).items()}
    assert {key: list(found) for key, found in firsts.items()} == expected
    again = reading.rows[(reading.rows["header"]["flags"] & Flags.RETRANSMITTED) != 0]
    assert len(again)
    assert 0 not in again["stream"]
