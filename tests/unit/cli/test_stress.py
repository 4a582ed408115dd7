"""``rdstool stress`` in two shells."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.loopback import own_addresses
from tests.unit.cli.background import background
from tests.unit.cli.running import COMMAND, ROOT, environment, rdstool, rdstool_here

LINE = re.compile(r" +2 +\d+ +\d+ +[\d.]+ +0\.00 +0\.00 +[\d.]+ +[\d.]+ +[\d.]+")
"""One of rds-stress with two tasks."""
HEAD = ["tsks", "tx/s", "rx/s", "tx+rx K/s", "mbi K/s", "mbo K/s", "tx us/c", "rtt us", "cpu %"]


def test_two_sides_run_and_speak_as_rds_stress_does(tmp_path: Path) -> None:
    small, large = own_addresses(2)
    pcap = tmp_path / "run.pcapng"
    with background("stress", "-r", large, "--pcap", pcap) as passive:
        passive.wait_for(f"waiting for the active side on {large}:4000")
        active = rdstool("stress", "-r", small, "-s", large, "-T", "1", "-t", "2", "-d", "2", "-q", "2K", "-v")
        heard = passive.end()
    assert (active.returncode, active.stderr) == (0, f"connecting to {large}:4000 from {small}\n")
    assert (heard.returncode, heard.stderr) == (0, f"{small} connected to {large}\n")
    head, *lines = active.stdout.splitlines()
    assert re.split(r" +(?!K/s|%|us)", head) == HEAD
    assert LINE.fullmatch(lines[0])
    assert re.fullmatch(LINE.pattern + r"  \(average\)", lines[-1])
    assert rdstool_here("validate", pcap).returncode == 0


def test_json_has_a_line_a_second_and_one_for_the_whole() -> None:
    small, large = own_addresses(2)
    with background("stress", "-r", small, "-p", "5000") as passive:
        passive.wait_for("waiting")
        active = rdstool("stress", "-r", large, "-s", small, "-p", "5000", "-T", "1", "-o", "--json")
        passive.end()
    second, whole = map(json.loads, active.stdout.splitlines())
    assert (second["event"], whole["event"]) == ("interval", "summary")
    assert whole["acks_received"] >= second["acks_received"] > 0
    assert whole["requests_received"] == whole["acks_sent"] == 0
    assert 0 < whole["round_trip_p50_us"] <= whole["round_trip_p99_us"] <= whole["round_trip_longest_us"]


def test_round_trips_are_counted_and_long_ones_told() -> None:
    small, large = own_addresses(2)
    shown = "--show-histogram", "--show-params", "--show-outliers", "0"
    with background("stress", "-r", large) as passive:
        passive.wait_for("waiting")
        active = rdstool("stress", "-r", small, "-s", large, "-T", "1", "-d", "2", "-o", *shown)
        heard = passive.end()
    assert (active.returncode, heard.returncode) == (0, 0), active.stderr + heard.stderr
    run = "1 tasks, depth 2, 1024 bytes out, 63 back, one way"
    assert run in active.stderr
    assert run in heard.stderr, "the passive side is told to tell"
    assert re.search(rf"round trip of \d+ us: 4001 to {large}:4001", active.stderr)
    head, *lines = active.stdout.split("(average)\n\n")[1].splitlines()
    assert head.split() == ["round", "trip", "us", "count"]
    counts = [int(line.split()[3]) for line in lines]
    assert sum(counts) == active.stderr.count("round trip of")
    assert len(lines[counts.index(max(counts))].split()[4]) == 40


def test_the_passive_side_says_which_of_its_options_the_active_side_decides() -> None:
    (own,) = own_addresses(1)
    with background("stress", "-r", own, "-T", "5", "-q", "2K", "--connect-retries", "1", "--json") as passive:
        told = passive.wait_for("warning")
        passive.wait_for("waiting")
        passive.interrupt()
        passive.end()
    assert told.endswith("other side says what is run; no effect have --req-bytes, --time, --connect-retries\n")


def may_run_at_real_time() -> bool:
    tried = "import os; os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))"
    return subprocess.run([sys.executable, "-c", tried], stderr=subprocess.DEVNULL, check=False).returncode == 0


def test_real_time_priority_is_had_or_refused() -> None:
    (own,) = own_addresses(1)
    if not may_run_at_real_time():
        done = rdstool("stress", "-r", own, "-R")
        assert done.returncode == 2
        assert "-R: no permission for a real-time priority" in done.stderr
        return
    with background("stress", "-r", own, "-R") as passive:
        passive.wait_for("waiting")
        assert os.sched_getscheduler(passive.process.pid) == os.SCHED_RR
        passive.interrupt()


def test_rdma_is_shown_in_the_columns_of_rds_stress() -> None:
    small, large = own_addresses(2)
    with background("stress", "-r", large, "--transport", "ib") as passive:
        passive.wait_for("waiting")
        run = "-T", "1", "-D", "8K", "-v", "--transport", "ib", "--rdma-key-o-meter"
        active = rdstool("stress", "-r", small, "-s", large, *run)
        heard = passive.end()
    assert (active.returncode, heard.returncode) == (0, 0), active.stderr + heard.stderr
    assert "of memory came again" in active.stderr
    moved = [float(word) for word in active.stdout.splitlines()[-1].split()[4:6]]
    assert all(moved)


def test_without_a_named_transport_two_sides_take_tcp() -> None:
    small, large = own_addresses(2)
    with background("stress", "-r", large, "--transport", "auto") as passive:
        passive.wait_for("waiting")
        active = rdstool("stress", "-r", small, "-s", large, "-T", "1", "--transport", "auto")
        heard = passive.end()
    assert (active.returncode, heard.returncode) == (0, 0), active.stderr + heard.stderr
    assert f"auto: {large} over tcp" in active.stderr


def test_a_terminal_gets_a_table() -> None:
    small, large = own_addresses(2)
    master, slave = pty.openpty()
    with background("stress", "-r", large) as passive:
        passive.wait_for("waiting")
        active = subprocess.Popen(
            [*COMMAND, "stress", "-r", small, "-s", large, "-T", "1"],
            stdout=slave,
            stderr=subprocess.DEVNULL,
            env=environment(COLUMNS="160", TERM="xterm"),
            cwd=ROOT,
        )
        os.close(slave)
        shown = b""
        try:
            while piece := os.read(master, 1 << 16):
                shown += piece
        except OSError:
            pass  # the end of a terminal
        os.close(master)
        assert active.wait() == 0
        passive.end()
    text = shown.decode()
    assert f"{small} with {large}: 1 tasks, depth 1, 1024 bytes out, 63 back" in text
    assert "round trips: half within" in text


def test_control_c_ends_a_run_with_its_summary_on_both_sides() -> None:
    small, large = own_addresses(2)
    with background("stress", "-r", large) as passive:
        passive.wait_for("waiting")
        with background("stress", "-r", small, "-s", large, "--verbose") as active:
            active.wait_for("paths, generation")
            active.interrupt()
            ended = active.end()
        heard = passive.end()
    assert ended.returncode == 130
    assert heard.returncode == 0
    assert heard.stdout.endswith("(average)\n")


def test_nobody_there_is_one_line() -> None:
    small, large = own_addresses(2)
    done = rdstool_here("stress", "-r", small, "-s", large)
    assert done.returncode == 2
    assert re.fullmatch(
        rf"connecting .*\nrdstool: error: no control connection to {large}:4000 \(Connection refused\): start .*\n",
        done.stderr,
    )


def test_a_peer_that_leaves_early_is_a_problem() -> None:
    small, large = own_addresses(2)
    with background("stress", "-r", large, "--verbose") as passive:
        passive.wait_for("waiting")
        with background("stress", "-r", small, "-s", large) as active:
            passive.wait_for("paths, generation")
            passive.interrupt()
            assert passive.end().returncode == 130
            ended = active.end()
    assert ended.returncode == 1
    assert "the peer ended the run before its time" in ended.stderr


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["-D", "4096"], "-D: RDMA needs InfiniBand or RoCE"),
        (["-q", "10"], "the request size is 10, it can be 63 to 1048576"),
        (["-q", "many"], "--req-bytes: 'many' is not a number of bytes"),
        (["-s", "::1"], "rds-stress 2.0.7 knows IPv4 only"),
        (["-t", "999"], "the number of tasks is 999"),
        (["--set", "x=1"], "--set x=1: write NAME=VALUE"),
    ],
)
def test_wrong_use_is_told(options: list[str], complaint: str) -> None:
    done = rdstool_here("stress", "-s", "127.0.0.2", *options)
    assert done.returncode == 2
    assert complaint in done.stderr
