"""One run from its control connection to its summary."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from rdstool.endpoint.node import Node
from rdstool.errors import first_of
from rdstool.stress.control import Control
from rdstool.stress.counters import Counters
from rdstool.stress.failure import RdmaFailedError, StressError
from rdstool.stress.parameters import Parameters
from rdstool.stress.traffic import Task
from rdstool.stress.watch import Interval, Summary, Watch

INTERVAL_S = 1.0
"""Between two reports."""
END_S = 5.0
"""How long the peer's end of the run may come behind RDMA that failed for it: they take different ways."""


@dataclass(frozen=True, slots=True)
class Side:
    """Our part in a run."""

    own: str
    """Own address."""
    peer: str
    active: bool
    patience_s: float
    """The run fails when nothing has come from the peer for so long."""
    whole_machine: bool = False
    """Report the processor use of the machine, not that of this program."""
    outlier_us: int | None = None
    """Tell of each round trip that takes longer."""
    tell: Callable[[str], None] = lambda _line: None
    """Takes a line for people."""


class Run:
    """One run. ``summary`` is None until traffic flows."""

    def __init__(self, node: Node, control: Control, side: Side, parameters: Parameters) -> None:
        self._node = node
        self._control = control
        self._side = side
        self._parameters = parameters
        self._counters = Counters(outlier_us=side.outlier_us, tell=side.tell)
        self._watch: Watch | None = None

    @property
    def summary(self) -> Summary | None:
        """What has happened so far."""
        return self._watch.summary() if self._watch is not None else None

    async def whole(self, report: Callable[[Interval], None]) -> None:
        """Run to the end, with a report each second. Raises ``StressError``, ``TransportError``, ``SocketError``."""
        tasks: list[Task] = []
        side = self._side
        asks = side.active or not self._parameters.simplex
        try:
            for port in self._parameters.ports():
                tasks.append(  # noqa: PERF401 - those before one that fails are to be closed
                    Task(self._node, side.own, side.peer, port, self._parameters, self._counters, asks=asks)
                )
            await self._control.go(active=side.active)
            await self._talk(tasks, report)
        finally:
            for task in tasks:
                task.close()

    async def _talk(self, tasks: list[Task], report: Callable[[Interval], None]) -> None:
        flowing = asyncio.Event()

        async def all_tasks() -> None:
            async with asyncio.TaskGroup() as group:
                for each in tasks:
                    group.create_task(each.run(flowing))

        traffic = asyncio.create_task(all_tasks())
        ended = asyncio.create_task(self._control.ended())
        begun = asyncio.create_task(flowing.wait())
        try:
            await asyncio.wait({traffic, ended, begun}, timeout=self._side.patience_s, return_when="FIRST_COMPLETED")
            if not begun.done() and not ended.done() and not traffic.done():
                raise self._silent()
            self._watch = Watch(self._counters, len(tasks), whole_machine=self._side.whole_machine)
            await self._watching(self._watch, traffic, ended, report)
        finally:
            for job in (traffic, ended, begun):
                job.cancel()
            results = await asyncio.gather(traffic, ended, begun, return_exceptions=True)
        failed, by_peer = results[0], results[1] is None
        if isinstance(failed, BaseExceptionGroup) and not (by_peer and _only_rdma(failed)):
            raise first_of(failed)

    async def _watching(
        self, watch: Watch, traffic: asyncio.Task[None], ended: asyncio.Task[None], report: Callable[[Interval], None]
    ) -> None:
        """Wait until the time is over, the peer ends the run, or something fails; report each second."""
        loop = asyncio.get_running_loop()
        begun, limit = loop.time(), self._parameters.seconds if self._side.active else 0
        last_heard, received = begun, -1
        for number in range(1, limit + 1 if limit else 1 << 62):
            pause = max(0.0, begun + number * INTERVAL_S - loop.time())
            await asyncio.wait({traffic, ended}, timeout=pause, return_when="FIRST_COMPLETED")
            if traffic.done():
                if not _only_rdma(traffic.exception()):
                    return
                await asyncio.wait({ended}, timeout=END_S)
            if ended.done() and self._side.active:
                raise StressError("the peer ended the run before its time: its own output may say why")
            if ended.done() or traffic.done():
                return
            report(watch.interval())
            if self._counters.bytes_received != received:
                last_heard, received = loop.time(), self._counters.bytes_received
            elif loop.time() - last_heard > self._side.patience_s:
                raise self._silent()

    def _silent(self) -> StressError:
        return StressError(f"nothing came from {self._side.peer} for {self._side.patience_s:g} s")


def _only_rdma(failed: BaseException | None) -> bool:
    """RDMA failed, and nothing else."""
    return isinstance(failed, BaseExceptionGroup) and failed.split(RdmaFailedError)[1] is None
