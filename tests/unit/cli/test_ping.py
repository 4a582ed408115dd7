"""``rdstool ping`` against nodes that answer, refuse, or are silent."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Iterator

import pytest

from dissectors.wire.rds import TCP_PORT
from rdstool.cli.places import source_for
from rdstool.endpoint.pinger import Tally
from tests.kit.loopback import own_addresses
from tests.unit.cli.background import background
from tests.unit.cli.running import COMMAND, TIMEOUT_S, rdstool


@pytest.fixture(scope="module")
def peer() -> Iterator[str]:
    """A node that answers, with addresses above and below it left free."""
    address = own_addresses(3)[1]
    with background("listen", f"{address}:4000") as listening:
        listening.wait_for("listening on")
        yield address


def beside(address: str, step: int) -> str:
    """A free address below or above that of the peer."""
    head, _, last = address.rpartition(".")
    return f"{head}.{int(last) + step}"


@pytest.mark.parametrize("step", [-1, 1], ids=["from the smaller address", "from the larger address"])
def test_answers_are_shown_as_rds_ping_shows_them_and_summed_up(peer: str, step: int) -> None:
    done = rdstool("ping", peer, "-I", beside(peer, step), "-c", "10", "-i", "1ms")
    *answers, head, counts, times = done.stdout.splitlines()
    assert done.returncode == 0
    numbers = [re.fullmatch(r" +(\d+): \d+ usec", line) for line in answers]
    assert sorted(int(number[1]) for number in numbers if number) == list(range(1, 11))
    assert head == f"--- {peer} ---"
    assert counts.startswith("10 sent, 10 received, 0 % lost, ")
    assert re.fullmatch(r"min/avg/max/mdev = \d+/\d+/\d+/\d+ usec", times)


def test_json_has_a_line_for_each_answer_and_the_summary_last(peer: str) -> None:
    done = rdstool("ping", peer, "--from", beside(peer, 1), "-c", "3", "-i", "1ms", "--json")
    *answers, summary = map(json.loads, done.stdout.splitlines())
    assert {(each["kind"], each["source"], each["duplicate"]) for each in answers} == {("reply", peer, False)}
    assert (summary["kind"], summary["sent"], summary["received"], summary["lost_percent"]) == ("summary", 3, 3, 0.0)
    assert 0 < summary["min_usec"] <= summary["avg_usec"] <= summary["max_usec"]


def test_the_source_is_an_address_that_reaches_the_peer_and_that_no_node_has(peer: str) -> None:
    assert source_for(peer).startswith("127.0.0.")
    assert source_for("127.0.0.1") != "127.0.0.1"
    done = rdstool("ping", peer, "-I", beside(peer, 1), "-c", "1")
    assert done.stderr == f"pinging {peer} from {beside(peer, 1)}\n"


def test_flooding_waits_for_answers_and_loses_none(peer: str) -> None:
    done = rdstool("ping", peer, "-I", beside(peer, 1), "-c", "300", "-i", "0", "--json")
    assert json.loads(done.stdout.splitlines()[-1])["received"] == 300


def test_a_type_of_service_is_taken(peer: str) -> None:
    assert rdstool("ping", peer, "-I", beside(peer, 1), "-c", "1", "-Q", "4").returncode == 0


def test_what_is_not_the_address_of_one_host_is_refused_before_anything_is_sent() -> None:
    done = rdstool("ping", "255.255.255.255")
    complaint = "rdstool: error: 255.255.255.255 is not the address of one host (EINVAL)\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", complaint)


def test_a_peer_that_refuses_is_named_and_tried_again() -> None:
    small, large = own_addresses(2)
    done = rdstool("ping", large, "-I", small, "-c", "2", "-i", "1ms", "--timeout", "100ms")
    assert done.returncode == 1
    assert f"{large} cannot be reached (Connection refused), attempt 1; still trying" in done.stderr
    assert done.stdout.splitlines()[:2] == ["   1: no answer within 0.1 s", "   2: no answer within 0.1 s"]
    assert "2 sent, 0 received, 100 % lost" in done.stdout
    assert "hint" not in done.stderr


def test_a_peer_that_takes_the_connection_and_says_nothing_gets_a_hint() -> None:
    small, large = own_addresses(2)
    with socket.create_server((small, TCP_PORT)):
        done = rdstool("ping", small, "-I", large, "-c", "1", "--timeout", "100ms")
    assert done.returncode == 1
    assert f"hint: {small} has the smaller address and has to open the connection, to TCP port 16385" in done.stderr


def test_a_ping_waits_for_a_peer_that_comes_later() -> None:
    small, large = own_addresses(2)
    with background("ping", large, "-I", small, "-c", "1", "--timeout", "60s") as pinging:
        pinging.wait_for("cannot be reached")
        with background("listen", f"{large}:4000"):
            done = pinging.end()
    assert done.returncode == 0
    assert "can be reached now" in done.stderr
    assert "1 sent, 1 received" in done.stdout


def test_without_a_count_ctrl_c_ends_a_run_well(peer: str) -> None:
    with background("ping", peer, "-I", beside(peer, 1), "-i", "1ms") as pinging:
        pinging.wait_for("Ctrl-C ends")
        pinging.interrupt()
        done = pinging.end()
    sent, received = map(int, re.findall(r"(\d+) (?:sent|received)", done.stdout))
    assert done.returncode == (0 if received else 1)
    assert received <= sent


def test_ctrl_c_before_the_count_is_an_interruption_and_is_summed_up_too() -> None:
    small, large = own_addresses(2)
    with background("ping", large, "-I", small, "-c", "2") as pinging:
        pinging.wait_for("cannot be reached")
        pinging.interrupt()
        done = pinging.end()
    assert done.returncode == 130
    assert " sent, 0 received, 100 % lost" in done.stdout


@pytest.mark.parametrize("timeout", ["1us", "60"], ids=["lost", "answered"])
def test_a_run_without_end_ends_quietly_when_nobody_reads_what_it_prints(peer: str, timeout: str) -> None:
    command = [*COMMAND, "ping", peer, "-I", beside(peer, 1), "-i", "1ms", "--timeout", timeout]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe) as pinging:
        try:
            assert pinging.stdout is not None
            pinging.stdout.readline()
            pinging.stdout.close()
            pinging.stdout = None
            _, complaints = pinging.communicate(timeout=TIMEOUT_S)
        finally:
            pinging.kill()
    assert pinging.returncode == 0
    assert all(line.startswith((b"pinging", b"hint")) for line in complaints.splitlines()), complaints


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["127.0.0.1", "-i", "soon"], "--interval: 'soon' is not a duration: write seconds, or 500ms, 2s, 1m"),
        (["127.0.0.1", "-c", "0"], "--count"),
        (["127.0.0.1", "-Q", "256"], "--tos"),
        (["127.0.0.1:4000", "-c", "1"], "'127.0.0.1:4000': no port belongs here, only an address"),
        (["[::1]:4000", "-c", "1"], "'[::1]:4000': no port belongs here, only an address"),
        (["no such host", "-c", "1"], "neither an address nor a known name"),
        (["127.0.0.1", "-I", "192.0.2.1"], "192.0.2.1 is not an address of this machine"),
    ],
)
def test_wrong_use_is_told_in_one_line(arguments: list[str], complaint: str) -> None:
    done = rdstool("ping", *arguments)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_figures_of_a_tally() -> None:
    tally = Tally(sent=4)
    for rtt_s in (0.001, 0.002, 0.003):
        tally.add(rtt_s)
    assert (tally.min_s, tally.max_s) == (0.001, 0.003)
    assert tally.mean_s == pytest.approx(0.002)
    assert tally.deviation_s == pytest.approx(0.000_816_497, rel=1e-5)
    assert tally.lost_percent == 25
