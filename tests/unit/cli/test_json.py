"""What docs/json.md says of the lines of ``--json`` is true of each line that a command writes."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from rdstool.protocol import info
from rdstool.stats.model import SECTIONS
from rdstool.tshark.compare import Difference
from tests.kit.loopback import own_addresses
from tests.unit.cli.background import background
from tests.unit.cli.running import CONGESTION, PCAPS, RDMA, ROOT, TCP, rdstool, rdstool_here

CUT = PCAPS / "tcp-cut-61" / "a.pcap.gz"
LOSSY = PCAPS / "tcp-lossy-61" / "a.pcap.gz"
DOCUMENT = (ROOT / "docs" / "json.md").read_text()
TYPES: dict[str, tuple[type, ...]] = {
    "text": (str,),
    "number": (int, float),
    "boolean": (bool,),
    "list": (list,),
    "object": (dict,),
    "null": (type(None),),
    "any": (object,),
}
Lines = list[dict[str, Any]]


def documented(heading: str) -> dict[str, str]:
    """The keys of a section's first table, and their types in words."""
    (section,) = re.findall(rf"^## {heading}\n(.*?)(?=^## |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    table = section.partition("| key |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (`[^|]+) \| ([a-z ]+) \|", table, re.MULTILINE)
    return {key: words for keys, words in rows for key in re.findall(r"`(\w+)`", keys)}


def agree(heading: str, lines: Lines, *, more: frozenset[str] = frozenset()) -> None:
    """Check lines against their section; ``more`` are keys that are described elsewhere."""
    keys = documented(heading)
    assert lines, heading
    for line in lines:
        assert set(line) - more <= set(keys), heading
        assert {key for key, words in keys.items() if "absent" not in words} <= set(line), heading
        for key in set(line) - more:
            allowed = [each for word in keys[key].split(" or ") for each in TYPES.get(word, ())]
            value = line[key]
            assert isinstance(value, tuple(allowed)), (heading, key, value)
            assert not isinstance(value, bool) or {bool, object} & set(allowed), (heading, key, value)


def objects(*arguments: str | Path) -> Lines:
    return [json.loads(line) for line in rdstool_here(*arguments, "--json").stdout.splitlines()]


@pytest.mark.parametrize("captures", [(TCP,), (RDMA,), (LOSSY,), (CONGESTION, RDMA)], ids=str)
def test_messages_and_what_belongs_to_them_are_as_documented(captures: tuple[Path, ...]) -> None:
    lines = objects("decode", "--rdma", "--hash", *captures)
    others = {"cm": "decode: cm", "rdma-write": "decode: rdma", "rdma-read": "decode: rdma"}
    for heading in {others.get(line["kind"], "decode") for line in lines}:
        agree(heading, [line for line in lines if others.get(line["kind"], "decode") == heading])


def test_findings_and_rules_are_as_documented() -> None:
    agree("validate", objects("validate", CUT))
    agree("validate", objects("validate", TCP, CUT))
    agree("validate: rules", objects("validate", "--rules"))


def test_statistics_are_as_documented() -> None:
    lines = [
        line
        for capture in (CUT, CONGESTION, RDMA)
        for line in objects("stats", "--by", "path", "--by", "socket", "--by", "port", capture)
    ]
    for section in SECTIONS:
        agree(f"stats: {section}", [line for line in lines if line["section"] == section])
    agree("stats: acks", objects("stats", "--acks", CUT))


def test_lists_are_as_documented() -> None:
    agree("fields", objects("fields"))
    agree("craft: list", objects("craft", "--list"))
    assert list(documented("crosscheck")) == ["file", *(each.name for each in dataclasses.fields(Difference))]


def test_what_nodes_tell_is_as_documented() -> None:
    small, large = own_addresses(2)
    with background("listen", f"{large}:4000", "--json") as listening:
        listening.wait_for("listening")
        sent = rdstool("send", large, "--from", small, "-m", "one", "--sockets", "2", "--json")
        pinged = rdstool("ping", large, "-I", small, "-c", "2", "-i", "1ms", "--json")
        played = rdstool("craft", "duplicate-flagged", "--to", large, "--from", small, "--json")
        shown = rdstool("info", "--node", large, "--json")
        listening.interrupt()
        heard = listening.end()
    told = {
        name: [json.loads(line) for line in done.stdout.splitlines()]
        for name, done in (("listen", heard), ("send", sent), ("ping", pinged), ("craft", played), ("info", shown))
    }
    agree("listen", told["listen"])
    agree("send", told["send"])
    agree("ping", told["ping"][:-1])
    agree("ping: summary", told["ping"][-1:])
    agree("craft", told["craft"][:-1])
    agree("craft: verdict", told["craft"][-1:])
    sections = record_keys()
    for line in told["info"]:
        agree("info", [line], more=frozenset(sections[line["section"]]))


def test_the_lines_of_stress_are_as_documented() -> None:
    small, large = own_addresses(2)
    with background("stress", "-r", large, "--json") as waiting:
        waiting.wait_for("waiting")
        run = rdstool("stress", "-s", large, "-r", small, "-T", "1", "--one-way", "--json")
        other = waiting.end()
    asking, answering = ([json.loads(line) for line in done.stdout.splitlines()] for done in (run, other))
    agree("stress", asking)
    agree("stress", answering)
    assert {line["round_trip_us"] for line in answering} == {None}, "it asks nothing"
    assert answering[-1]["round_trip_p50_us"] is None


def record_keys() -> dict[str, list[str]]:
    """The keys of the records of ``rdstool info``, by section."""
    table = DOCUMENT.partition("| section | keys |")[2]
    rows = re.findall(r"^\| (`[^|]+) \| ([^|]+) \|", table, re.MULTILINE)
    return {name: re.findall(r"`(\w+)`", keys) for names, keys in rows for name in re.findall(r"`(\w+)`", names)}


def test_the_records_of_info_are_as_documented() -> None:
    made = {
        "connections": info.ConnectionInfo,
        "sockets": info.SocketInfo,
        "send_messages": info.MessageInfo,
        "retransmit_messages": info.MessageInfo,
        "receive_messages": info.MessageInfo,
        "tcp_sockets": info.TcpInfo,
        "ib_connections": info.IbInfo,
    }
    fields = {name: [each.name for each in dataclasses.fields(kind)] for name, kind in made.items()}
    assert record_keys() == {"counters": ["name", "value"], **fields}
