"""Filters: which messages pass, and what is said about a filter that is wrong."""

from __future__ import annotations

import pytest

from rdstool.field_columns import EventColumns, MessageColumns
from rdstool.filter import FilterError, compile_filter
from tests.unit.filter import sample

ALL = set(range(1, 11))
TCP = {1, 2, 3, 4, 5, 6, 7}
IB = {8, 9, 10}

PASSES: list[tuple[str, set[int]]] = [
    # presence
    ("rds", ALL),
    ("rds.exthdr.npaths", {1, 2}),
    ("rds.exthdr.rdma", {8}),
    ("rds.exthdr.type", {1, 2, 8, 10}),
    ("rds.path", TCP),
    ("!rds.path", IB),
    ("rds.congested", {3}),
    ("rds.payload", {3, 4, 5}),
    ("rds.exthdr.problem", set()),
    ("rds.cm", set()),
    ("rds.flags.retransmitted", ALL),
    # numbers
    ("rds.sequence == 2", {4, 5}),
    ("rds.sequence eq 2", {4, 5}),
    ("rds.sequence==0x2", {4, 5}),
    ("rds.sequence == 02", {4, 5}),
    ("rds.length > 2000", {3, 8, 10}),
    ("rds.length gt 2000", {3, 8, 10}),
    ("rds.length >= 2000", {3, 4, 5, 8, 10}),
    ("rds.length ge 2000 and rds.length le 4096", {4, 5, 10}),
    ("rds.length < 1", {1, 2, 6, 7, 9}),
    ("rds.length lt 1", {1, 2, 6, 7, 9}),
    ("0 < rds.length", {3, 4, 5, 8, 10}),
    ("rds.sequence != 2", ALL - {4, 5}),
    ("rds.sequence ne 2", ALL - {4, 5}),
    ("rds.sequence == 18446744073709551615", set()),
    ("rds.number < 18446744073709551615", ALL),
    ("rds.checksum == 0x7052", {8}),
    ("rds.flags & 2", {8}),
    ("rds.flags & 0x26 == 4", {5}),
    ("rds.flags bitwise_and 2", {8}),
    ("rds.exthdr.gen_num == 0x3fca604d", {1, 2}),
    ("rds.exthdr.rdma.rkey == 0x300 || rds.exthdr.rdma_dest.rkey == 0x400", {8, 10}),
    ("rds.exthdr.rdma_bytes.direction == 2", {8}),
    ("rds.exthdr.rdma_bytes.direction == read", {8}),
    ("rds.fragments == 2", {8}),
    ("rds.stream == 1", IB),
    ("rds.credit == 16", {9}),
    ("frame.number in {10..12}", {1, 2, 3}),
    ("rds.seen != rds.length", {10}),
    ("rds.sport == rds.dport", {3, 9}),
    ("rds.src == rds.dst", set()),
    # fields that occur several times
    ("rds.port == 4001", {4, 5, 6, 7}),
    ("rds.port != 4001", ALL - {4, 5, 6, 7}),
    ("rds.port ~= 4001", ALL),
    ("rds.port any_ne 0", ALL - {3, 9}),
    ("rds.port === 0", {3, 9}),
    ("all rds.port > 4000", {4, 5, 8, 10}),
    ("any rds.port > 4000", {4, 5, 6, 7, 8, 10}),
    ("rds.congested == 4001", {3}),
    ("rds.congested == 4002", set()),
    ("rds.congested != 4002", {3}),
    ("rds.port == rds.congested", set()),
    ("rds.exthdr.type == 6", {1, 2}),
    ("rds.exthdr.type == GEN_NUM", {1, 2}),
    ('rds.exthdr.type == "GEN_NUM"', {1, 2}),
    # sets
    ("rds.sequence in {2, 3, 7..8}", {4, 5, 6, 8, 10}),
    ("rds.sequence in {2 3}", {4, 5, 6}),
    ("rds.path not in {2}", {1, 2, 3} | IB),
    ("not rds.path in {2}", {1, 2, 3} | IB),
    ('rds.kind in {"ping", "pong"}', {6, 7}),
    ("rds.addr in {10.0.0.1..10.0.0.9}", TCP),
    ("rds.addr in {10.0.0.0/24, fe80::2}", ALL),
    # truth values
    ("rds.flags.retransmitted == 1", {5}),
    ("rds.flags.retransmitted == true", {5}),
    ("rds.flags.retransmitted == TRUE", {5}),
    ("rds.flags.retransmitted == False", ALL - {5}),
    ("rds.complete == 0", {10}),
    ("rds.inferred == 1", {10}),
    # text
    ('rds.kind == "data"', {4, 5, 8, 10}),
    ("rds.kind == data", {4, 5, 8, 10}),
    ("rds.kind == probe-reply", {2}),
    ('rds.kind contains "probe"', {1, 2}),
    ('rds.kind matches "^P.N"', {6, 7}),
    ('rds.kind ~ "^p[io]ng$"', {6, 7}),
    ("rds.transport == tcp", TCP),
    ('rds.checksum.status == "bad"', {9}),
    ('rds.checksum.status != "absent"', IB),
    # addresses
    ("rds.src == 10.0.0.1", TCP - {2, 7}),
    ("ip.src == 10.0.0.1", TCP - {2, 7}),
    ("rds.addr == 10.0.0.2", TCP),
    ("rds.addr != 10.0.0.2", IB),
    ("ip.addr == 10.0.0.0/8", TCP),
    ("tcp.port", TCP),
    ("not tcp.port", IB),
    ("tcp.port == 32776", TCP),
    ("tcp.srcport == 16385", {2, 7}),
    ("tcp.dstport == 16385", TCP - {2, 7}),
    ("rds.dst == fe80::2", {8, 10}),
    ("rds.addr == fe80::/10", IB),
    ("rds.src >= 10.0.0.2", {2, 7} | IB),
    # bytes
    ('rds.payload contains "world"', {4, 5}),
    ("rds.payload contains 00:01:02", {4, 5}),
    ('rds.payload contains "d\\x00\\001"', {4, 5}),
    ('rds.payload matches "WORLD"', {4, 5}),
    ('rds.payload matches r"w\\w+d\\x00"', {4, 5}),
    ("rds.padding == 00:00:00:00", ALL),
    ("rds.exthdr contains 05:00:08", {1, 2}),
    # times
    ("frame.time_epoch < 1700000000.003", {1, 2}),
    ("frame.time_epoch == 1700000000.0015", {2}),
    ("frame.time_relative == 0.0015", {2}),
    # together
    ("rds.sequence == 1 || rds.length > 0 && rds.path == 2", {1, 2, 4, 5}),
    ("(rds.sequence == 1 or rds.length > 0) and rds.path == 2", {4, 5}),
    ("not rds.sequence == 1 and rds.path == 0", {3}),
    ("!(rds.path == 0) && !(rds.path == 2)", IB),
    ("rds.sequence == 2 xor rds.flags.retransmitted == 1", {4}),
    ("rds.sequence == 2 ^^ rds.length == 2000", set()),
    ("not not rds.sequence == 2", {4, 5}),
]


@pytest.mark.parametrize(("text", "numbers"), PASSES, ids=[text for text, _ in PASSES])
def test_a_filter_passes_exactly_these_messages(text: str, numbers: set[int]) -> None:
    columns = MessageColumns(sample.batch(), sample.streams())
    mask = compile_filter(text).mask(columns)
    assert mask.dtype == bool
    assert {index + 1 for index, passed in enumerate(mask) if passed} == numbers


EVENT_PASSES: list[tuple[str, list[bool]]] = [
    ("rds", [False, False]),
    ("rds.kind == cm", [True, False]),
    ("rds.kind == rdma-read", [False, True]),
    ("rds.cm", [True, False]),
    ("rds_cm", [True, False]),
    ("tcp.port", [False, False]),
    ("rds_rdma", [False, True]),
    ("rds.cm.message == REQ", [True, False]),
    ("rds.cm.major == 3 and rds.cm.minor == 1", [True, False]),
    ("rds.cm.saddr == 10.1.0.1", [True, False]),
    ("rds.cm.ip.daddr == 10.1.0.2", [True, False]),
    ("rds.addr == 10.1.0.0/16", [True, False]),
    ("infiniband.cm.req.local_qpn == 17", [True, False]),
    ("infiniband.cm.rep", [False, False]),
    ("rds.cm.code", [False, False]),
    ("rds.rdma.rkey == 0x300", [False, True]),
    ("rds.stream == 1", [False, True]),
    ("rds.src == fe80::2", [False, True]),
    ("frame.number > 5", [False, True]),
    ("frame.time_relative >= 0", [False, True]),
]


@pytest.mark.parametrize(("text", "passed"), EVENT_PASSES, ids=[text for text, _ in EVENT_PASSES])
def test_a_filter_passes_exactly_these_events(text: str, passed: list[bool]) -> None:
    columns = EventColumns(sample.events(), sample.streams())
    assert compile_filter(text).mask(columns).tolist() == passed


WRONG: list[tuple[str, int, str]] = [
    ("", 0, "the filter ends where a field must follow"),
    ("rds.sequnce == 2", 0, "did you mean rds.sequence?"),
    ("rds.length > 0 and rds.flags.retransmited", 19, "did you mean rds.flags.retransmitted?"),
    ("sequence == 2", 0, "did you mean rds.sequence?"),
    ("udp.port == 1", 0, 'no field is named "udp.port"; `rdstool fields` lists them'),
    ("rds.sport == rds.dprt", 13, "did you mean rds.dport?"),
    ("rds.sequence = 2", 13, "write =="),
    ("rds.sequence ==", 15, "a value is missing"),
    ("rds.sequence == == 2", 16, "a value is missing"),
    ("rds.sequence == and", 16, "a value is missing"),
    ("== 2", 0, "a field must stand in front"),
    ("and rds.sequence", 0, "a field must stand in front"),
    ("rds.sequence == 2 rds.ack == 3", 18, "unexpected"),
    ("(rds.sequence == 2", 18, 'no ")" closes the "("'),
    ("rds.sequence == 2)", 17, "unexpected"),
    ("rds.sport == 70000", 13, "the largest is 65535"),
    ("rds.sport == -1", 13, "is no number"),
    ("rds.sport == 1.5", 13, "is no number"),
    ('rds.sport == "4001"', 13, "is no number"),
    ("rds.sport == 08", 13, "is no number"),
    ("rds.sport contains 4", 19, "neither text nor bytes"),
    ("rds.payload & 4", 14, "is no number"),
    ("rds.flags & 256", 12, "the largest is 255"),
    ("rds.addr == 10.0.0", 12, "is no IP address"),
    ("rds.addr == 10.0.0.1/33", 12, "is no IP address"),
    ("rds.flags.retransmitted == maybe", 27, "is no truth value"),
    ("rds.payload contains zz", 21, "is no byte string"),
    ("frame.time_epoch > noon", 19, "is no number of seconds"),
    ("frame.time_epoch > 1e999", 19, "is no number of seconds"),
    ("rds == 2", 7, "has no value to compare"),
    ('rds.kind == "data', 12, "the string has no end"),
    ("rds.path in 2", 12, '"{" must follow in'),
    ("rds.path in {}", 13, "a value is missing"),
    ("rds.path in {2", 14, "a value is missing"),
    ("rds.path in {5..1}", 13, "the range is empty"),
    ('rds.kind matches "("', 17, "the pattern is wrong"),
    ('rds.payload matches "(a+)+b"', 20, "can take for ever"),
    ("rds.sport == rds.kind", 13, "cannot be compared"),
    ("rds.src == lid:70000", 11, "is no IP address or network"),
    ("all rds.sport", 13, "a comparison must follow"),
    ("rds.sequence == 2 ; x", 18, "was unexpected"),
    ("rds.sequence == 1" + "0" * 30, 16, "too big"),
    ("(" * 101 + "rds" + ")" * 101, 100, "nested deeper"),
    ("not " * 200 + "rds", 400, "nested deeper"),
]


@pytest.mark.parametrize(("text", "position", "problem"), WRONG, ids=[text[:40] for text, _, _ in WRONG])
def test_a_wrong_filter_says_what_is_wrong_and_where(text: str, position: int, problem: str) -> None:
    with pytest.raises(FilterError) as caught:
        compile_filter(text)
    assert problem in str(caught.value)
    assert caught.value.position == position
    assert f"column {position + 1}:" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_caret_stands_in_front_of_what_is_wrong() -> None:
    with pytest.raises(FilterError) as caught:
        compile_filter("rds.length > 3 and rds.sequnce == 2")
    assert "rds.length > 3 and ^rds.sequnce == 2" in str(caught.value)


def test_of_a_long_filter_only_the_place_that_is_wrong_is_shown() -> None:
    with pytest.raises(FilterError) as caught:
        compile_filter("rds.length > 3 and " * 100 + "bogus")
    assert len(str(caught.value)) < 200
    assert "^bogus" in str(caught.value)


def test_presence_of_a_flag_is_pointed_out_because_every_message_has_it() -> None:
    assert "rds.flags.retransmitted == 1" in compile_filter("rds and rds.flags.retransmitted").warnings()[0]
    assert compile_filter("rds.flags.retransmitted == 1").warnings() == []


@pytest.mark.parametrize("text", ['rds.kind == "dta"', 'not rds.kind != "dta"', 'rds.kind in {"data", "dta"}'])
def test_a_word_that_a_field_never_is_is_pointed_out_with_those_that_it_can_be(text: str) -> None:
    (warning,) = compile_filter(text).warnings()
    assert 'rds.kind is never "dta"; it is one of data, congestion, ping,' in warning


@pytest.mark.parametrize(
    "text", ['rds.transport == "ib"', 'rds.kind == "cm"', "rds.kind == rdma-write", 'rds.kind matches "^d"']
)
def test_words_that_fields_can_be_are_not_doubted(text: str) -> None:
    assert compile_filter(text).warnings() == []


def test_a_filter_knows_which_fields_it_needs() -> None:
    fields = compile_filter('ip.src == 10.0.0.1 or not (rds.payload contains "a") or rds.sport == rds.dport').fields()
    assert fields == {"rds.src", "rds.payload", "rds.sport", "rds.dport"}


def test_a_long_chain_of_tests_is_no_deep_tree() -> None:
    text = " or ".join(f"rds.sequence == {number}" for number in range(1500))
    columns = MessageColumns(sample.batch(), sample.streams())
    assert compile_filter(text).mask(columns).all()
