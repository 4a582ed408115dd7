"""Captures that break one rule each, of both transports, and those that break none."""

from __future__ import annotations

from collections.abc import Callable

from tests.kit import ib, tcp
from tests.unit.validate import delivery_mutations, ib_mutations, tcp_mutations

Script = tcp.Script | ib.Script
CLEAN: dict[str, Callable[[], Script]] = {**tcp_mutations.CLEAN, **ib_mutations.CLEAN}
"""Name -> a capture without a fault."""
CASES: list[tuple[str, str, Callable[[], Script]]] = [
    *(("tcp", rule, make) for rule, make in tcp_mutations.MUTATIONS.items()),
    *(("tcp", rule, make) for rule, make in delivery_mutations.MUTATIONS.items()),
    *(("ib", rule, make) for rule, make in ib_mutations.MUTATIONS.items()),
]
"""Transport, the rule that is broken, and the capture."""
