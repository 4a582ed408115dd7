"""The system tells how much of a connection waits to be read."""

from __future__ import annotations

import socket
import sys

import pytest

from rdstool.transport.tcp.queues import unread


@pytest.mark.skipif(sys.platform == "win32", reason="nobody tells there")
def test_what_came_and_was_not_read_is_counted() -> None:
    here, there = socket.socketpair()
    with here, there:
        assert unread(here) == 0
        there.sendall(bytes(100))
        assert unread(here) == 100
        here.recv(30)
        assert unread(here) == 70
