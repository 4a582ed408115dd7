"""Tables of a kernel that has both families, and of one that is older."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Iterator

import pytest

from rdstool.afrds import info
from rdstool.afrds.numbers import Info


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    """Any socket: the kernel's answers are made up."""
    with socket.socket(socket.AF_UNIX) as made:
        yield made


def bound(address: str, port: int, inode: int) -> bytes:
    """A record of a socket."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    own = socket.inet_pton(family, address)
    return bytes(4) + own + bytes(len(own)) + port.to_bytes(2, "big") + bytes(6) + inode.to_bytes(8, sys.byteorder)


def answering(monkeypatch: pytest.MonkeyPatch, tables: dict[Info, list[bytes]]) -> None:
    """The kernel has these tables and no others."""

    def read(_sock: socket.socket, table: Info) -> list[bytes]:
        if table not in tables:
            raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))
        return tables[table]

    monkeypatch.setattr(info, "read_table", read)


def test_each_socket_is_shown_once_and_our_own_is_not(sock: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    own = os.fstat(sock.fileno()).st_ino
    answering(
        monkeypatch,
        {
            Info.SOCKETS: [bound("10.0.0.1", 4000, 1)],
            Info.SOCKETS6: [bound("::ffff:10.0.0.1", 4000, 1), bound("fd00::1", 77, 2), bound("::", 0, own)],
        },
    )
    found = [(each["address"], each["port"]) for each in info.both_families(sock, "sockets")]
    assert found == [("10.0.0.1", 4000), ("fd00::1", 77)]


def test_an_older_kernel_has_ipv4_only(sock: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, {Info.SOCKETS: [bound("10.0.0.1", 4000, 1)]})
    assert len(info.both_families(sock, "sockets")) == 1


def test_a_table_of_a_transport_that_is_not_loaded_is_an_error(
    sock: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, {})
    with pytest.raises(OSError, match="Protocol not available"):
        info.both_families(sock, "ib_connections")
