"""RDMA and atomics of sockets over InfiniBand, each as one call that ends when the operation has.

No message goes with them: the peer's program is not told. To tell it, send with ``control=[RdmaArgs(...)]`` instead.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

from rdstool.protocol.control import CompareSwap, FetchAdd, RdmaArgs, SendControl
from rdstool.protocol.errors import RdmaError
from rdstool.protocol.ib.memory import Memory, RdmaFlags
from rdstool.protocol.reasons import SendStatus

Operation = RdmaArgs | FetchAdd | CompareSwap
_QUIET = RdmaFlags.SILENT


def write(cookie: int, data: Sequence[Memory | bytes], offset: int = 0) -> RdmaArgs:
    """Put ``data`` into the memory that ``cookie`` stands for, ``offset`` bytes from where it begins."""
    return RdmaArgs(cookie, data, offset, flags=_QUIET | RdmaFlags.READWRITE)


def read(cookie: int, into: Sequence[Memory], offset: int = 0) -> RdmaArgs:
    """Fill ``into`` from the memory that ``cookie`` stands for."""
    return RdmaArgs(cookie, into, offset, flags=_QUIET)


def fetch_add(cookie: int, add: int, offset: int, nocarry_mask: int) -> FetchAdd:
    """Add to a 64-bit number of the peer."""
    return FetchAdd(cookie, add, remote_offset=offset, nocarry_mask=nocarry_mask, flags=_QUIET)


def compare_swap(cookie: int, compare: int, swap: int, offset: int, compare_mask: int, swap_mask: int) -> CompareSwap:
    """Replace a 64-bit number of the peer where it is ``compare``, both as far as the masks go."""
    return CompareSwap(
        cookie,
        compare,
        swap,
        remote_offset=offset,
        compare_mask=compare_mask,
        swap_mask=swap_mask,
        flags=_QUIET,
    )


def original(operation: FetchAdd | CompareSwap) -> int:
    """The number that an atomic operation found in the peer's memory."""
    return int.from_bytes(operation.result, sys.byteorder)


def check(status: SendStatus) -> None:
    """Raise ``RdmaError`` where an operation did not succeed."""
    if status:
        raise RdmaError(status)


def told(operation: Operation, ended: Callable[[SendStatus], None]) -> list[SendControl]:
    """The operation as a control message. ``ended`` is told of its end, instead of the socket."""
    return [replace(operation, ended=ended)]
