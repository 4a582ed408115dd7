"""Scenario files: what they may say, and how mistakes are told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dissectors.wire.checksum import checksum_good
from dissectors.wire.congestion import bitmap_of
from dissectors.wire.extensions import NPaths, Unknown, parse_extensions
from dissectors.wire.rds import HEADER_BYTES, RDS_HEADER
from rdstool.craft.build import Builder
from rdstool.craft.library import names, scenario
from rdstool.craft.reading import read
from rdstool.craft.scenario import Action, Expect, Role, Send, Strictness
from rdstool.errors import UsageError

HEAD = """\
id = "x"
title = "A title"
requirement = "What has to be."
source = "protocol.md §1"

[ports]
ours = 5000

[paths]
first = 0
second = 1
"""


def steps(text: str) -> tuple[Send | Expect, ...]:
    return read("x.toml", f"{HEAD}\n{text}").steps


def test_a_step_is_ours_or_the_peers() -> None:
    ping, pong = steps(
        '[[step]]\n"->" = "ping"\nafter = "20 ms"\n[[step]]\n"<-" = "pong"\ndport = "ours"\nwithin = "2 s"\n'
    )
    assert ping == Send(13, Action.PING, "first", after_s=0.02)
    assert pong == Expect(16, ("pong",), "first", 2.0, {"dport": 5000})


def test_a_path_holds_until_another_is_named() -> None:
    found = steps('[[step]]\n"->" = "ping"\npath = "second"\n[[step]]\n"->" = "ping"\n')
    assert [each.path for each in found] == ["second", "second"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('[[step]]\n"->" = "pingg"\n', r"x\.toml:14: -> is 'pingg', it is one of connect, crowd,"),
        ('[[step]]\n"->" = "ping"\nlenght = 4\n', r"x\.toml:15: 'lenght' has no meaning here, did you mean length\?"),
        (
            '[[step]]\n"->" = "ping"\n\nsequence = -1\n',
            r"x\.toml:16: sequence is -1, it can be 0 to 18446744073709551615",
        ),
        ('[[step]]\n"->" = "ping"\nflags = ["ack"]\n', r"x\.toml:\d+: there is no flag 'ack': they are cong_bitmap,"),
        ('[[step]]\n"->" = "ping"\nexthdr = [{ NPATH = 1 }]\n', r"x\.toml:15: there is no extension header 'NPATH'"),
        ('[[step]]\n"->" = "ping"\nexthdr = [{ NPATHS = 70000 }]\n', r"x\.toml:15: NPATHS\.npaths is 70000"),
        ('[[step]]\n"->" = "ping"\nexthdr = "zz"\n', r"x\.toml:15: exthdr is 'zz', it is pairs of hexadecimal"),
        ('[[step]]\n"->" = "ping"\npath = "third"\n', r"x\.toml:15: there is no path 'third': they are first, second"),
        ('[[step]]\n"->" = "ping"\nafter = "soon"\n', r"x\.toml:15: after is 'soon': write a duration"),
        ('[[step]]\n"->" = "ping"\ndport = "theirs"\n', r"x\.toml:15: dport: there is no port named 'theirs'"),
        ('[[step]]\n"->" = "bytes"\n', r"x\.toml:13: bytes take one of hex, random, zeros"),
        ('[[step]]\n"->" = "ping"\nchecksum = "wrong"\n', r"x\.toml:15: checksum is 'wrong'"),
        ('[[step]]\n"<-" = "applause"\n', r"x\.toml:14: 'applause' is nothing that a peer does"),
        ('[[step]]\n"<-" = "closed"\nnpaths = 8\n', r"x\.toml:15: npaths is a field, and no message is expected"),
        ('[[step]]\n"<-" = "crowd"\n', r'x\.toml:14: "crowd" and at_most go together'),
        ('[[step]]\n"<-" = "pong"\n"->" = "ping"\n', r"x\.toml:13: a step has one arrow"),
        ('[[step]]\n"->" = "ping\n', r"x\.toml:14: Illegal character"),
        ("step = 3\n", r"x\.toml:1: there are no steps"),
    ],
)
def test_a_mistake_is_told_with_file_and_line(text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        steps(text)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ('title = "A title"', 'title = ""', r"x\.toml:2: title is missing"),
        ('title = "A title"', 'titel = "A title"', r"x\.toml:2: 'titel' has no meaning here, did you mean title"),
        ("ours = 5000", "ours = 70000", r"x\.toml:7: ours in \[ports\] is 70000, it can be 0 to 65535"),
        ("second = 1", "second = 8", r"x\.toml:11: second in \[paths\] is 8, it can be 0 to 7"),
        ("[ports]", 'role = "middle"\n[ports]', r"x\.toml:6: role is 'middle', it is one of smaller, larger"),
    ],
)
def test_the_head_is_checked(old: str, new: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        read("x.toml", HEAD.replace(old, new) + '[[step]]\n"->" = "ping"\n')


def test_every_scenario_that_ships_is_named_as_its_file_and_says_where_it_is_from() -> None:
    assert len(names()) >= 40
    for name in names():
        found = scenario(name)
        assert found.id == name
        assert found.source.startswith(("protocol.md §", "InfiniBand Architecture vol. 1 §"))
        assert any(isinstance(step, Expect) for step in found.steps)
    assert {scenario(name).role for name in names()} == set(Role)
    assert {scenario(name).strictness for name in names()} == set(Strictness)


# ---- Messages


def header_of(action: Action, **values: object) -> bytes:
    return Builder({"ours": 5000, "theirs": 4000}, 7).message(action, values, 3)


def test_fields_take_their_natural_values_and_any_other() -> None:
    natural = RDS_HEADER.unpack_from(header_of(Action.MESSAGE, payload="hello"))
    assert (natural.sequence, natural.sport, natural.dport, natural.length) == (3, 5000, 4000, 5)
    other = RDS_HEADER.unpack_from(header_of(Action.MESSAGE, payload="hello", length=9, sport=1, sequence=8, credit=2))
    assert (other.sequence, other.sport, other.length, other.credit) == (8, 1, 9, 2)


@pytest.mark.parametrize(("value", "good"), [("good", True), ("bad", False), (1, False)])
def test_a_checksum_is_right_or_wrong_and_never_none(value: object, good: bool) -> None:
    packed = header_of(Action.PING, checksum=value)[:HEADER_BYTES]
    assert checksum_good(packed) is good
    assert RDS_HEADER.unpack_from(packed).checksum != 0


def test_a_probe_announces_what_a_recent_kernel_does() -> None:
    header = RDS_HEADER.unpack_from(header_of(Action.PROBE))
    assert header.exthdr.hex() == "05000806000000070800000000000000"
    assert (header.sport, header.dport) == (1, 0)


def test_extension_headers_are_named_or_raw() -> None:
    header = RDS_HEADER.unpack_from(header_of(Action.PROBE, exthdr=["0c", {"NPATHS": 4}]))
    assert parse_extensions(header.exthdr).items == (Unknown(12), NPaths(4))
    both = {"RDMA_DEST": {"rkey": 1, "offset": 2}}
    assert RDS_HEADER.unpack_from(header_of(Action.PROBE, exthdr=[both])).exthdr[:9].hex() == "030000000100000002"


def test_a_map_has_the_bits_of_the_named_ports() -> None:
    assert header_of(Action.CONGESTION, congested=["ours", 9])[HEADER_BYTES:] == bitmap_of([9, 5000])
    assert RDS_HEADER.unpack_from(header_of(Action.CONGESTION)).sequence == 0


def test_the_example_of_the_documentation_is_a_scenario() -> None:
    text = (Path(__file__).parents[3] / "docs" / "scenarios.md").read_text()
    (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert len(read("example.toml", example).steps) == 7
