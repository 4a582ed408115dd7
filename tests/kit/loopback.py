"""Loopback addresses that no other test run on this machine uses at the same time."""

from __future__ import annotations

import os
from itertools import count

_TAKEN = count()


def own_addresses(number: int) -> list[str]:
    """Addresses of this process that no other test of it has, in ascending order."""
    first = next(_TAKEN) * 8
    assert number <= 8
    pid = os.getpid() % 61_440
    return [f"127.{16 + pid // 256}.{pid % 256}.{1 + (first + each) % 248}" for each in range(number)]
