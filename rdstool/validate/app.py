"""RDS-APP: the protocol of rds-stress, inside of the payload. Runs where it is selected by name."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from rdstool.protocol.kinds import MessageKind
from rdstool.validate.check import Batch, Check, Context
from rdstool.validate.rule import BOTH, NOTE, Rule
from rdstool.validate.view import View

HEADER = struct.Struct(">I4s4sHHHBB")
"""Sequence, addresses, ports, index, operation, RDMA operation: the 20 bytes that tell rds-stress."""
STRESS_BYTES = 63
"""Shortest payload of rds-stress."""
MAX_TASKS = 65536
"""Pairs of tasks that are followed."""
OPERATIONS = (1, 2)
RDMA_OPERATIONS = (0, 1, 2)

STRESS = Rule(
    "RDS-APP-001",
    NOTE,
    "The header of rds-stress is inconsistent",
    BOTH,
    "12.2",
    "rds-tools rds-stress.c",
    "Each message of a pair of tasks carries the next sequence, its own RDS ports, and operation 1 or 2. Needs every "
    "payload, so it runs only where it is selected by name.",
    "Nothing: this is the application's protocol. The receiving task aborts the test.",
    "A message of the pair was lost, doubled or reordered, or another application uses these ports.",
    unbroken=True,
    on_request=True,
)


@dataclass(slots=True)
class _Task:
    sequence: int
    segment: int


class StressCheck(Check):
    """Follows each pair of tasks, where a payload looks like rds-stress."""

    rules = (STRESS,)

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._tasks: dict[tuple[int, int, int], _Task] = {}

    def feed(self, batch: Batch) -> None:
        """Every payload that was kept."""
        view = batch.view
        if not self.report.wants(STRESS) or not view.count:
            return
        segments = np.zeros(view.count, np.int64)
        segments[batch.grouped.index] = batch.grouped.segment
        for row, payload in sorted(view.decoded.messages.payloads.items()):
            if view.kind[row] == MessageKind.DATA and not view.flagged[row] and len(payload) >= STRESS_BYTES:
                self._message(view, row, payload, int(segments[row]))

    def _message(self, view: View, row: int, payload: bytes, segment: int) -> None:
        sequence, source, destination, sport, dport, _, operation, rdma = HEADER.unpack_from(payload)
        flow = int(view.flow[row])
        here, there = self.context.streams[flow >> 1].ends(flow & 1)
        if (source, destination) != (here.address[-4:], there.address[-4:]):
            return  # Another application.
        wrong = []
        if (sport, dport) != (int(view.sport[row]), int(view.dport[row])):
            wrong.append(f"ports {sport} to {dport}")
        if operation not in OPERATIONS or rdma not in RDMA_OPERATIONS:
            wrong.append(f"operation {operation}, RDMA operation {rdma}")
        key = flow, int(view.sport[row]), int(view.dport[row])
        task = self._tasks.get(key)
        if task is None:
            if len(self._tasks) < MAX_TASKS:
                self._tasks[key] = _Task(sequence, segment)
        else:
            if task.segment == segment and sequence != (task.sequence + 1) & 0xFFFFFFFF:
                wrong.append(f"sequence {sequence} after {task.sequence}")
            task.sequence, task.segment = sequence, segment
        if wrong:
            self.report.row(STRESS, view, row, ", ".join(wrong))
