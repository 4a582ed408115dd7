"""rds-stress on the wire: real bytes, the pattern, the Scapy layers."""

from __future__ import annotations

import itertools
from dataclasses import fields

import pytest
from scapy.packet import Raw

from dissectors.all import RDS, RDSStress, RDSStressOptions, RDSStressVersion
from dissectors.wire import stress
from dissectors.wire.stress import STRESS_MESSAGE, STRESS_OPTIONS, Op, StressMessage, StressOptions, pattern


def test_the_pattern_begins_as_that_of_rds_stress() -> None:
    assert list(pattern(8)) == [11, 62, 105, 76, 167, 58, 197, 8]
    assert pattern(1000)[:300] == pattern(300)


def test_every_block_of_the_pattern_differs_from_the_next() -> None:
    made = pattern(1 << 16)
    blocks = [made[at : at + 256] for at in range(0, len(made), 256)]
    assert all(block != following for block, following in itertools.pairwise(blocks))


def test_the_defaults_of_the_options_are_those_of_rds_stress() -> None:
    # rds-stress -s 10.0.0.2 -r 10.0.0.1 -t 2 -T 5
    options = StressOptions(send_addr=b"\x0a\0\0\2", receive_addr=b"\x0a\0\0\1", nr_tasks=2, run_time=5)
    assert STRESS_OPTIONS.pack(options).hex(" ") == (
        "00 00 00 01 00 00 04 00 00 00 00 3f 00 00 00 00 0a 00 00 02 0a 00 00 01 0f a0 00 02 00 00 00 05 "
        "00 00 00 00 00 00 01 00 00 01 00 00 ff 00 00 00 00 00 01 00 00 00 00 00 00 00 00"
    )


@pytest.mark.parametrize("name", [item.name for item in fields(StressMessage)])
def test_each_field_stands_where_the_table_says(name: str) -> None:
    field = stress.STRESS_MESSAGE.table[name]
    value = b"\xff" * field.size if isinstance(field.default, bytes) else field.mask
    packed = STRESS_MESSAGE.pack(StressMessage(**{name: value}))
    assert packed == bytes(field.offset) + b"\xff" * field.size + bytes(63 - field.offset - field.size)


def test_a_message_between_the_ports_that_it_names_is_one_of_rds_stress() -> None:
    message = RDSStress(seq=7, from_port=4001, to_port=4002, op=Op.REQUEST, from_addr="10.0.0.1", to_addr="10.0.0.2")
    packet = RDS(bytes(RDS(sequence=1, sport=4001, dport=4002) / message / pattern(37)))
    assert packet[RDSStress].seq == 7
    assert packet[RDSStress].from_addr == "10.0.0.1"
    assert packet[Raw].load == pattern(37)
    assert packet.summary() == "RDS message 1 from port 4001 to port 4002, 100 bytes / rds-stress request 7 / Raw"


@pytest.mark.parametrize("changed", [{"from_port": 4003}, {"to_port": 1}, {"op": 9}])
def test_other_payload_is_none_of_rds_stress(changed: dict[str, int]) -> None:
    values = {"from_port": 4001, "to_port": 4002, "op": 1, **changed}
    packet = RDS(bytes(RDS(sport=4001, dport=4002) / STRESS_MESSAGE.pack(StressMessage(**values))))
    assert RDSStress not in packet


def test_the_longer_form_of_the_options_begins_with_the_version() -> None:
    data = stress.VERSION.encode().ljust(16, b"\0") + bytes(RDSStressOptions(nr_tasks=3)) + b"\x20\0"
    packet = RDSStressVersion(data)
    assert packet[RDSStressOptions].nr_tasks == 3
    assert packet[Raw].load == b"\x20\0"
