"""The kernel's records of protocol.md §11.3, byte by byte."""

from __future__ import annotations

import socket
import sys

import pytest

from rdstool.afrds import records

ORDER = sys.byteorder
V4 = socket.inet_aton("192.168.222.113"), socket.inet_aton("192.168.222.144")
V6 = socket.inet_pton(socket.AF_INET6, "fd00::1"), socket.inet_pton(socket.AF_INET6, "::ffff:10.0.0.2")
FAMILIES = pytest.mark.parametrize(
    ("ends", "names"),
    [(V4, ("192.168.222.113", "192.168.222.144")), (V6, ("fd00::1", "::ffff:10.0.0.2"))],
    ids=["IPv4", "IPv6"],
)


def number(value: int, size: int) -> bytes:
    """As the machine has it."""
    return value.to_bytes(size, ORDER)


def port(value: int) -> bytes:
    """As the network has it."""
    return value.to_bytes(2, "big")


def test_a_counter_is_a_name_and_a_value() -> None:
    raw = b"recv_drop_old_seq".ljust(32, b"\0") + number(2**40 + 1, 8)
    assert len(raw) == 40
    assert records.counter(raw) == ("recv_drop_old_seq", 2**40 + 1)


@FAMILIES
def test_a_connection_is_read_field_by_field(ends: tuple[bytes, bytes], names: tuple[str, str]) -> None:
    raw = number(124, 8) + number(3, 8) + ends[0] + ends[1] + b"tcp".ljust(16, b"\0") + b"\x04"
    if len(ends[0]) == 4:
        raw += b"\x06"  # only the record for IPv4 has the type of service
    assert len(raw) == (42 if len(ends[0]) == 4 else 65)
    assert records.connection(raw, len(ends[0])) == {
        "local": names[0],
        "peer": names[1],
        "tos": 6 if len(ends[0]) == 4 else 0,
        "transport": "tcp",
        "flags": 4,
        "next_tx": 124,
        "next_rx": 3,
    }


@FAMILIES
def test_a_message_is_read_field_by_field(ends: tuple[bytes, bytes], names: tuple[str, str]) -> None:
    raw = number(7, 8) + number(65_536, 4) + ends[0] + ends[1] + port(4000) + port(4001) + b"\x02\x05"
    assert len(raw) == (26 if len(ends[0]) == 4 else 50)
    assert records.message(raw, len(ends[0])) == {
        "local": names[0],
        "local_port": 4000,
        "peer": names[1],
        "peer_port": 4001,
        "sequence": 7,
        "length": 65_536,
        "flags": 2,
        "tos": 5,
    }


@FAMILIES
def test_a_socket_is_read_field_by_field(ends: tuple[bytes, bytes], names: tuple[str, str]) -> None:
    raw = number(4_194_304, 4) + ends[0] + ends[1] + port(55_531) + port(0) + number(16_777_216, 4) + number(265, 8)
    assert len(raw) == (28 if len(ends[0]) == 4 else 52)
    assert records.bound_socket(raw, len(ends[0])) == {
        "address": names[0],
        "port": 55_531,
        "peer": names[1],
        "peer_port": 0,
        "sndbuf": 4_194_304,
        "rcvbuf": 16_777_216,
        "inode": 265,
    }


@FAMILIES
def test_a_tcp_connection_is_read_field_by_field(ends: tuple[bytes, bytes], names: tuple[str, str]) -> None:
    raw = ends[0] + port(32_776) + ends[1] + port(16_385) + number(48, 8) + number(9, 8)
    raw += number(1_900_897_930, 4) + number(1_900_898_026, 4) + number(1_900_898_026, 4)
    if len(ends[0]) == 4:
        raw += b"\x01"
    assert len(raw) == (41 if len(ends[0]) == 4 else 64)
    assert records.tcp_socket(raw, len(ends[0])) == {
        "local": names[0],
        "local_port": 32_776,
        "peer": names[1],
        "peer_port": 16_385,
        "header_remaining": 48,
        "data_remaining": 9,
        "last_sent_nxt": 1_900_897_930,
        "last_expected_una": 1_900_898_026,
        "last_seen_una": 1_900_898_026,
        "tos": 1 if len(ends[0]) == 4 else 0,
    }


@FAMILIES
def test_an_infiniband_connection_is_read_field_by_field(ends: tuple[bytes, bytes], names: tuple[str, str]) -> None:
    gids = bytes.fromhex("fe80" + "00" * 13 + "01"), bytes.fromhex("fe80" + "00" * 13 + "02")
    raw = ends[0] + ends[1] + gids[0] + gids[1]
    raw += b"".join(number(each, 4) for each in (256, 1024, 8, 32, 257)) + b"\x03\x04\0\0" + number(99, 4)
    assert len(raw) == (68 if len(ends[0]) == 4 else 92)
    assert records.ib_connection(raw, len(ends[0])) == {
        "local": names[0],
        "peer": names[1],
        "local_gid": "fe80::1",
        "peer_gid": "fe80::2",
        "max_send_wr": 256,
        "max_recv_wr": 1024,
        "max_send_sge": 8,
        "mr_max": 32,
        "mr_size": 257,
        "tos": 3,
        "sl": 4,
        "cache_allocs": 99,
    }


@pytest.mark.parametrize(
    "decode",
    [records.connection, records.message, records.bound_socket, records.tcp_socket, records.ib_connection],
)
@pytest.mark.parametrize("size", [4, 16])
def test_fields_that_a_kernel_does_not_have_are_0_and_those_beyond_are_ignored(
    decode: records.Decoder, size: int
) -> None:
    nothing = decode(b"", size)
    assert {value for value in nothing.values() if isinstance(value, int)} == {0}
    assert decode(bytes(200), size) == nothing
