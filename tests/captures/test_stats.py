"""Statistics of captures of real kernels against what the applications know they did."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import rdstool
from rdstool.stats import CaptureStats, collect

PCAPS = Path(__file__).parents[2] / "pcaps"
TCP = ["tcp-basic-61", "tcp-basic-73", "tcp-congestion-61", "tcp-congestion-73", "tcp-lossy-61"]
IB = ["ib-basic-61", "ib-basic-73", "ib-rdma-61", "ib-rdma-73"]
ENDS = ["a", "b"]


@cache
def stats_of(name: str, end: str) -> CaptureStats:
    with rdstool.open_capture(PCAPS / name / f"{end}.pcap.gz") as capture:
        return collect(capture)


@cache
def truth_of(name: str) -> dict[str, Any]:
    truth: dict[str, Any] = json.loads((PCAPS / name / "truth.json").read_text())
    return truth


def is_ping(sent: dict[str, Any]) -> bool:
    return bool(sent["dport"] == 0)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", TCP + IB)
def test_every_socket_has_the_messages_and_bytes_that_its_application_counted(name: str, end: str) -> None:
    sent: dict[tuple[str, int], list[int]] = {}
    for socket in truth_of(name)["sockets"]:
        lengths = [message["len"] for message in socket["sent"]]
        if lengths:
            sent.setdefault((socket["ip"], socket["port"]), []).extend(lengths)
    found = {(one.address, one.port): one for one in stats_of(name, end).sockets if one.sent_messages}
    assert {key: (one.sent_messages, one.sent_bytes) for key, one in found.items()} == {
        key: (len(lengths), sum(lengths)) for key, lengths in sent.items()
    }


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", TCP + IB)
def test_directions_add_up_to_the_applications_totals(name: str, end: str) -> None:
    (connection,) = stats_of(name, end).connections
    found = {
        f"{connection.a}>{connection.b}": (connection.a_to_b_messages, connection.a_to_b_bytes),
        f"{connection.b}>{connection.a}": (connection.b_to_a_messages, connection.b_to_a_bytes),
    }
    expected = {way: (count["messages"], count["bytes"]) for way, count in truth_of(name)["per_direction"].items()}
    assert found == expected
    assert (connection.reconnects, connection.restarts) == (0, 0)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", TCP + IB)
def test_the_size_histogram_holds_every_message(name: str, end: str) -> None:
    lengths = [
        message["len"] for socket in truth_of(name)["sockets"] for message in socket["sent"] if not is_ping(message)
    ]
    expected = Counter((1 << length.bit_length() >> 1, (1 << length.bit_length()) - 1) for length in lengths)
    assert {(part.low, part.high): part.messages for part in stats_of(name, end).capture.sizes} == expected


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", TCP)
def test_every_message_over_tcp_was_acknowledged_within_the_run(name: str, end: str) -> None:
    stats = stats_of(name, end)
    assert sum(path.latency.measured for path in stats.paths) == stats.capture.messages
    assert stats.capture.duration is not None
    for path in stats.paths:
        if path.latency.maximum is not None and path.latency.minimum is not None:
            assert 0 <= path.latency.minimum <= path.latency.maximum < stats.capture.duration


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", TCP)
def test_all_paths_are_told_apart(name: str, end: str) -> None:
    stats = stats_of(name, end)
    assert [connection.npaths for connection in stats.connections] == [8]
    assert sorted(stream.path for stream in stats.streams if stream.path is not None) == list(range(8))
    confidences = [stream.confidence for stream in stats.streams]
    assert min(confidences) == 1.0 if name.endswith("73") else min(confidences) >= 0.5


@pytest.mark.parametrize(("release", "kernel"), [("61", "Linux 4.10 to 6.x"), ("73", "Linux 7.0 or later")])
def test_probes_tell_the_kernel_that_was_running(release: str, kernel: str) -> None:
    sides = stats_of(f"tcp-basic-{release}", "a").sides
    assert len(sides) == 2
    assert all(side.kernel.startswith(kernel) for side in sides)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", ["tcp-congestion-61", "tcp-congestion-73"])
def test_congested_ports_are_those_whose_senders_were_refused(name: str, end: str) -> None:
    sockets = truth_of(name)["sockets"]
    refused = [socket for socket in sockets if socket["stat"]["enobufs"]]
    aimed_at = {(message["dst"], message["dport"]) for socket in refused for message in socket["sent"]}
    intervals = stats_of(name, end).congestion
    assert {(one.address, one.port) for one in intervals} <= aimed_at
    for socket in refused:
        targets = {(message["dst"], message["dport"]) for message in socket["sent"]}
        begun = [one.begin for one in intervals if (one.address, one.port) in targets]
        # The bit is set before a sender is refused; both ends share a kernel, so the sender knows before the wire.
        assert begun
        assert min(begun) == pytest.approx(socket["t_first_enobufs"], abs=0.5)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", ["tcp-congestion-61", "tcp-congestion-73"])
def test_few_messages_go_to_a_congested_port_and_others_follow_its_release(name: str, end: str) -> None:
    ended = [one for one in stats_of(name, end).congestion if one.end is not None]
    assert ended
    assert all(one.certain and one.duration is not None and one.duration > 0 for one in ended)
    assert sum(one.sent_during for one in ended) < sum(one.held_back_at_most for one in ended)


def test_tcp_retransmissions_are_seen_where_the_network_lost_packets() -> None:
    again = {end: sum(path.seen.retransmitted for path in stats_of("tcp-lossy-61", end).paths) for end in ENDS}
    assert min(again.values()) > 0
    assert all(path.flagged_retransmitted == 0 for path in stats_of("tcp-lossy-61", "a").paths)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", ["ib-rdma-61", "ib-rdma-73"])
def test_rdma_volume_is_that_of_the_applications(name: str, end: str) -> None:
    expected: Counter[str] = Counter()
    for operation in truth_of(name)["rdma"]:
        expected["rdma-write" if operation["op"] == "write" else "rdma-read"] += operation["bytes"]
    found = {volume.kind: volume.bytes for volume in stats_of(name, end).rdma}
    assert found == expected


@pytest.mark.parametrize("name", IB)
def test_both_points_of_capture_see_the_same_traffic(name: str) -> None:
    one, other = (stats_of(name, end) for end in ENDS)
    assert one.capture.kinds == other.capture.kinds
    assert [path.data_bytes for path in one.paths] == [path.data_bytes for path in other.paths]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", TCP + IB)
def test_all_of_these_captures_is_seen(name: str, end: str) -> None:
    assert [connection.coverage for connection in stats_of(name, end).connections] == [1.0]


@pytest.mark.parametrize("end", ENDS)
def test_a_restart_of_both_ends_is_told_from_a_reconnection(end: str) -> None:
    stats = stats_of("tcp-restart-73", end)
    assert {one.kind for one in stats.reconnects} == {"restart"}
    assert [len(one.restarted) for one in stats.reconnects] == [2] * 8
    assert [connection.restarts for connection in stats.connections] == [2]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(
    "name",
    ["tcp-cut-61", "tcp-cut-612", "tcp-cut-73", "tcp-cutsome-61", "tcp-cutlossy-61", "tcp-cutlossy-73",
     "tcp-reorder-61", "ib-reconnect-61", "ib-reconnect-612", "ib-reconnect-73"],
)  # fmt: skip
def test_connections_that_were_cut_are_no_restarts(name: str, end: str) -> None:
    (connection,) = stats_of(name, end).connections
    assert connection.reconnects > 0
    assert connection.restarts == 0


def test_both_points_of_capture_infer_the_same_paths() -> None:
    found = [
        {stream.a_port: stream.path for stream in stats_of("tcp-cut-61", end).streams if stream.confidence > 0.9}
        for end in ENDS
    ]
    shared = found[0].keys() & found[1].keys()
    assert len(shared) > 20
    assert {port: found[0][port] for port in shared} == {port: found[1][port] for port in shared}
