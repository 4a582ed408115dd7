"""Which TCP source port the dialling side takes, so that it tells the path (protocol.md §4.3, §4.4)."""

from __future__ import annotations

from math import lcm

from dissectors.wire.rds import MAX_PATHS

EPHEMERAL_PORTS = (32_768, 60_999)
"""First and last of Linux's own range of source ports (``ip_local_port_range``)."""


def source_port(path: int, attempt: int, low: int, high: int, npaths: int = MAX_PATHS) -> int:
    """The port for the ``attempt``-th try (from 1) of ``path``, within the system's ephemeral range.

    It is congruent to the path modulo 8, as kernels dial, and modulo ``npaths``, as kernels read it when they accept.
    ``low`` and ``high`` are the range's bounds, both usable. Raises ``ValueError`` where the range has no room for one
    such port of each path.
    """
    step = lcm(MAX_PATHS, npaths)
    first = -(-low // step) * step
    groups = (high + 1 - first) // step
    if groups < 1:
        raise ValueError(f"the port range {low} to {high} has no room for {npaths} paths")
    return first + step * (attempt % groups) + path


def path_of_source_port(port: int, npaths: int) -> int:
    """The path of a TCP connection that a peer with SPORT_IDX dialled from ``port``.

    Kernels dial from ports that are the path modulo 8, whatever number of paths is agreed.
    """
    return port % MAX_PATHS % npaths
