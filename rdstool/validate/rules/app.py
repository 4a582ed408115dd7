"""RDS-APP: the protocol of rds-stress, inside of the payload. Runs where it is selected by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rdstool.protocol.kinds import MessageKind
from rdstool.validate.check import Batch, Check, Context
from rdstool.validate.rule import BOTH, NOTE, Rule
from rdstool.validate.view import View

if TYPE_CHECKING:
    from dissectors.wire.stress import StressMessage

MAX_TASKS = 65536
"""Pairs of tasks that are followed."""

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
        from dissectors.wire.stress import MESSAGE_BYTES, STRESS_MESSAGE  # noqa: PLC0415 - runs on request only

        segments = np.zeros(view.count, np.int64)
        segments[batch.grouped.index] = batch.grouped.segment
        for row, payload in sorted(view.decoded.messages.payloads.items()):
            if view.kind[row] == MessageKind.DATA and not view.flagged[row] and len(payload) >= MESSAGE_BYTES:
                self._message(view, row, STRESS_MESSAGE.unpack_from(payload), int(segments[row]))

    def _message(self, view: View, row: int, message: StressMessage, segment: int) -> None:
        from dissectors.wire.stress import Op, RdmaOp  # noqa: PLC0415

        flow = int(view.flow[row])
        here, there = self.context.streams[flow >> 1].ends(flow & 1)
        if (message.from_addr, message.to_addr) != (here.address[-4:], there.address[-4:]):
            return  # Another application.
        wrong = []
        if (message.from_port, message.to_port) != (int(view.sport[row]), int(view.dport[row])):
            wrong.append(f"ports {message.from_port} to {message.to_port}")
        if message.op not in list(Op) or message.rdma_op not in list(RdmaOp):
            wrong.append(f"operation {message.op}, RDMA operation {message.rdma_op}")
        key = flow, int(view.sport[row]), int(view.dport[row])
        task = self._tasks.get(key)
        if task is None:
            if len(self._tasks) < MAX_TASKS:
                self._tasks[key] = _Task(message.seq, segment)
        else:
            if task.segment == segment and message.seq != (task.sequence + 1) & 0xFFFFFFFF:
                wrong.append(f"sequence {message.seq} after {task.sequence}")
            task.sequence, task.segment = message.seq, segment
        if wrong:
            self.report.row(STRESS, view, row, ", ".join(wrong))
