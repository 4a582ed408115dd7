"""Records of RDS_INFO_* as the kernel lays them out (protocol.md §11.3); addresses for socket options."""

from __future__ import annotations

import socket
import struct

import pytest

from rdstool.afrds import info
from rdstool.afrds.sockets import family_of, pack_address

V4, V6 = socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.100"), bytes(15) + b"\1" + bytes(15) + b"\2"


@pytest.mark.parametrize(("addresses", "size", "length"), [(V4, 4, 42), (V6, 16, 66)])
def test_connections(addresses: bytes, size: int, length: int) -> None:
    raw = struct.pack("=QQ", 7, 3) + addresses + b"tcp".ljust(16, b"\0") + bytes([4, 2])
    assert len(raw) == length
    record = info._connection(raw, size)
    assert (record["next_tx"], record["next_rx"], record["transport"]) == (7, 3, "tcp")
    assert (record["flags"], record["tos"]) == (4, 2)
    assert record["peer"] == ("192.0.2.100" if size == 4 else "::2")


def test_messages() -> None:
    raw = struct.pack("=QI", 9, 1000) + V4 + struct.pack(">HH", 4000, 4001) + bytes([2, 0])
    assert len(raw) == 26
    assert info._message(raw, 4) == {
        "local": "192.0.2.1",
        "local_port": 4000,
        "peer": "192.0.2.100",
        "peer_port": 4001,
        "sequence": 9,
        "length": 1000,
        "flags": 2,
        "tos": 0,
    }


def test_sockets() -> None:
    raw = struct.pack("=I", 106496) + V4 + struct.pack(">HH", 4000, 0) + struct.pack("=IQ", 8192, 77)
    assert len(raw) == 28
    record = info._socket(raw, 4)
    assert (record["sndbuf"], record["rcvbuf"], record["inode"], record["port"]) == (106496, 8192, 77, 4000)


def test_tcp_sockets() -> None:
    local, peer = V4[:4] + struct.pack(">H", 16385), V4[4:] + struct.pack(">H", 32776)
    raw = local + peer + struct.pack("=QQIII", 48, 0, 1, 2, 3) + b"\0"
    assert len(raw) == 41
    record = info._tcp(raw, 4)
    assert (record["local_port"], record["peer_port"], record["header_remaining"]) == (16385, 32776, 48)
    assert (record["last_sent_nxt"], record["last_expected_una"], record["last_seen_una"]) == (1, 2, 3)


@pytest.mark.parametrize(("address", "length"), [("192.0.2.1", 16), ("2001:db8::1", 28)])
def test_addresses_for_options(address: str, length: int) -> None:
    packed = pack_address(address, 4000)
    assert len(packed) == length
    assert struct.unpack_from("=H", packed)[0] == family_of(address)
    assert struct.unpack_from(">H", packed, 2)[0] == 4000
    assert socket.inet_pton(family_of(address), address) in packed
