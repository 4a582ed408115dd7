"""``rdstool craft`` on the command line."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.kit.loopback import own_addresses
from tests.unit.cli.background import background
from tests.unit.cli.running import lines, rdstool, rdstool_here

ODD = """\
id = "odd"
title = "A ping that is expected to stay unanswered"
requirement = "Nobody requires it."
source = "protocol.md §6"
strictness = "{strictness}"

[ports]
ours = 5000

[[step]]
"->" = "connect"

[[step]]
"->" = "probe"

[[step]]
"->" = "ping"

[[step]]
"<-" = "silence"
"""


def test_a_peer_that_does_as_it_may_is_clean_and_what_was_exchanged_is_recorded(tmp_path: Path) -> None:
    small, large = own_addresses(2)
    pcap = tmp_path / "crafted.pcapng"
    with background("listen", f"{large}:4000", "-q") as peer:
        peer.wait_for("listening")
        done = rdstool("craft", "ping", "checksum-bad", "--to", large, "--from", small, "--pcap", pcap)
    assert (done.returncode, done.stderr) == (0, "2 scenarios, 0 failed\n")
    assert "ping: passed\n" in done.stdout
    assert "expected pong dport 5000: pong seq " in done.stdout
    found = rdstool_here("validate", pcap, "--json").stdout
    assert '"RDS-HDR-005"' in found


@pytest.mark.parametrize("transport", ["ib", "auto"])
def test_a_peer_is_judged_over_infiniband(tmp_path: Path, transport: str) -> None:
    small, large = own_addresses(2)
    pcap = tmp_path / "crafted.pcapng"
    ends = "--to", large, "--from", small, "--transport", transport
    with background("listen", f"{large}:4000", "-q", "--transport", "ib", "--offer", "4K") as peer:
        cookie = peer.wait_for("cookie").split()[-1]
        chosen = "ib-ping", "ib-checksum-bad", "ib-icrc-bad", "ib-rdma-outside"
        done = rdstool("craft", *chosen, *ends, "--cookie", cookie, "--pcap", pcap, "--format", "junit")
        other = rdstool("craft", "ping", *ends)
        without = rdstool("craft", "ib-rdma-outside", *ends)
    assert done.returncode == 0, done.stdout
    assert [case.get("classname") for case in ET.fromstring(done.stdout).iter("testcase")] == ["craft.ib"] * 4  # noqa: S314
    assert other.stderr.endswith("ping is for --transport tcp\n")
    assert "uses memory that the peer offers: name it with --cookie" in without.stderr
    assert '"RDS-HDR-' in rdstool_here("validate", pcap, "--json").stdout


@pytest.mark.parametrize(
    ("strictness", "options", "status", "outcome"),
    [("must", [], 1, "failed"), ("should", [], 0, "differs"), ("should", ["--strict"], 1, "failed")],
)
def test_a_peer_that_does_otherwise_is_told_with_file_and_line(
    tmp_path: Path, strictness: str, options: list[str], status: int, outcome: str
) -> None:
    small, large = own_addresses(2)
    file = tmp_path / "odd.toml"
    file.write_text(ODD.format(strictness=strictness))
    with background("listen", f"{large}:4000", "-q") as peer:
        peer.wait_for("listening")
        done = rdstool("craft", file, "--to", large, "--from", small, "-q", *options)
        told = rdstool("craft", file, "--to", large, "--from", small, "--json", "--seed", "5", *options)
    assert done.returncode == status
    assert done.stdout.startswith(f"odd: {outcome}: {file}:19: ")
    assert done.stdout.endswith("came. Nobody requires it. (protocol.md §6)\n")
    last = json.loads(told.stdout.splitlines()[-1])
    assert (last["event"], last["verdict"], last["line"]) == ("verdict", outcome, 19)


def test_junit_has_a_case_for_each_scenario(tmp_path: Path) -> None:
    small, large = own_addresses(2)
    file = tmp_path / "odd.toml"
    file.write_text(ODD.format(strictness="must"))
    with background("listen", f"{large}:4000", "-q") as peer:
        peer.wait_for("listening")
        done = rdstool("craft", "ping", file, "--to", large, "--from", small, "--format", "junit")
    assert done.returncode == 1
    suites = ET.fromstring(done.stdout)  # noqa: S314
    assert (suites.get("tests"), suites.get("failures")) == ("2", "1")
    passed, failed = suites.iter("testcase")
    assert passed.find("failure") is None
    assert failed.get("name") == "odd: A ping that is expected to stay unanswered"
    failure = failed.find("failure")
    assert failure is not None
    assert str(failure.get("message")).endswith("came")
    assert failure.text == f"{file}:19: Nobody requires it. (protocol.md §6)"
    assert "expected silence: " in str(failed.findtext("system-out"))


def test_scenarios_are_listed_and_shown() -> None:
    listed = lines("craft", "--list")
    assert "length-4gib                  tcp  A header that announces 4 GiB" in listed
    assert "ib-icrc-bad                  ib   A packet with a bad ICRC" in listed
    shown = "\n".join(lines("craft", "--show", "length-4gib"))
    assert 'id = "length-4gib"' in shown
    told = [json.loads(line) for line in lines("craft", "--list", "--json")]
    assert {each["role"] for each in told} == {"smaller", "larger"}
    assert {each["transport"] for each in told} == {"tcp", "ib"}


@pytest.mark.parametrize(("transport", "listed"), [("tcp", {"tcp"}), ("ib", {"ib"}), ("auto", {"tcp", "ib"})])
def test_scenarios_of_a_named_transport_are_listed(transport: str, listed: set[str]) -> None:
    told = [json.loads(line) for line in lines("craft", "--list", "--json", "--transport", transport)]
    assert {each["transport"] for each in told} == listed


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["pign", "--to", "127.0.0.9"], "there is no scenario 'pign', did you mean ping?"),
        (["nowhere.toml", "--to", "127.0.0.9"], "nowhere.toml: cannot be read: No such file"),
        (["ping"], "--to is missing"),
        (["ib-ping", "--to", "127.0.0.9", "--from", "127.0.0.8"], "ib-ping is for --transport ib"),
        (["ib-icrc-bad", "--to", "127.0.0.9", "--transport", "ib", "--provider", "verbs"], "it is for --provider roce"),
        (["ping", "--to", "127.0.0.9", "--transport", "udp"], "--transport udp is not known"),
        (
            ["ping", "--to", "127.0.0.9", "--json", "--format", "junit"],
            "--json and --format junit exclude each other; take one of them",
        ),
        (["ping", "--to", "127.0.0.9", "--format", "xml"], "--format xml is not known: take one of text, json, junit"),
        (["--list", "--transport", "udp"], "--transport udp is not known"),
        ([], "name a scenario, or see --list"),
        (["ping", "--to", "127.0.0.1", "--from", "127.0.0.9"], "ping needs an own address that is smaller than"),
        (["ping", "--to", "127.0.0.9", "--from", "127.0.0.9"], "cannot be the two ends of a connection"),
        (
            ["ping", "--to", "127.0.0.9", "--from", "127.0.0.1", "--port", "x=1"],
            "has no port of that name (ours, theirs)",
        ),
        (
            ["ping", "--to", "127.0.0.9", "--from", "127.0.0.1"],
            "takes no connection on TCP port 16385 (Connection refused)",
        ),
    ],
)
def test_wrong_use_is_told(options: list[str], complaint: str) -> None:
    done = rdstool_here("craft", *options)
    assert done.returncode == 2
    assert complaint in done.stderr
