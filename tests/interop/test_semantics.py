"""Calls on sockets of rdstool answer as those on a kernel's do (protocol.md §9)."""

from __future__ import annotations

import json
import sys
from typing import Any

from rdstool.lab import Guest

MIB = 1 << 20
PROGRAM = [sys.executable, "-m", "tests.interop.semantics"]
FEWEST = 100
"""Cases, at least."""


def test_every_call_gives_what_the_kernel_gives(own_guest: Guest) -> None:
    """A bind that fails lets the kernel forget the transport of the socket (``rds_bind``): it stays in use for ever."""
    network = own_guest.network
    assert network is not None
    own_guest.sysctl("net.core.wmem_max", 4 * MIB)
    theirs: dict[str, Any] = json.loads(own_guest.run([*PROGRAM, "kernel", network.guest, network.guest6]).stdout)
    done = network.run([*PROGRAM, "rdstool", network.smaller, network.smaller6], capture_output=True, check=True)
    ours: dict[str, Any] = json.loads(done.stdout)
    assert len(theirs) > FEWEST
    assert ours == theirs
