"""Which TCP source port the dialling side takes, so that it tells the path (protocol.md §4.4)."""

from __future__ import annotations

from dissectors.wire.rds import MAX_PATHS


def source_port(path: int, attempt: int, low: int, high: int) -> int:
    """The port for the ``attempt``-th try (from 1) of ``path``, within the system's ephemeral range.

    It is congruent to the path modulo 8, so that the accepting side finds the path whatever number of paths
    (a power of two) is agreed. ``low`` and ``high`` are the range's bounds, both usable. Raises ``ValueError``
    where the range has no room for eight ports.
    """
    first = -(-low // MAX_PATHS) * MAX_PATHS
    groups = (high + 1 - first) // MAX_PATHS
    if groups < 1:
        raise ValueError(f"the port range {low} to {high} has no room for {MAX_PATHS} paths")
    return first + MAX_PATHS * (attempt % groups) + path
