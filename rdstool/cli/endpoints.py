"""A run of nodes that ends well, whatever ends it, and what it tells on stderr meanwhile.

async def job(node: Node) -> ExitCode:
    ...
raise typer.Exit(run_node(Node(address, options=options), job))
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from rdstool.cli.cycles import search_as_usual
from rdstool.cli.exit_codes import ExitCode
from rdstool.cli.output import PROGRAM, error, one_line
from rdstool.errors import TransportError, first_of

if TYPE_CHECKING:
    from rdstool.endpoint.node import Node

TRYING_ON_S = 5.0
"""Between two notes that a peer cannot be reached."""


class Notices:
    """Tells on stderr when a peer for whom messages wait cannot be reached, and when it can again; not each time.

    ``first`` is the attempt whose failure is told first.
    """

    def __init__(self, node: Node, first: int = 1) -> None:
        from rdstool.protocol import events, info  # noqa: PLC0415

        self._told: dict[str, float] = {}
        self._node = node

        def hear(event: events.Event) -> None:
            if isinstance(event, events.ConnectFailed) and info.waits(node.engine, event.local, event.peer):
                if event.attempt >= first:
                    self._failed(event.peer, event.attempt, event.detail)
            elif isinstance(event, events.PathUp) and self._told.pop(event.peer, None) is not None:
                self._say(f"{event.peer} can be reached now")

        node.on_event(hear)

    def _failed(self, peer: str, attempt: int, detail: str) -> None:
        now = self._node.engine.now
        if peer not in self._told or now - self._told[peer] >= TRYING_ON_S:
            self._told[peer] = now
            self._say(
                f"{peer} cannot be reached ({detail or 'no answer'}), attempt {attempt}; still trying, Ctrl-C ends"
            )

    @staticmethod
    def _say(text: str) -> None:
        print(f"{PROGRAM}: {one_line(text)}", file=sys.stderr, flush=True)  # noqa: T201


def log_to_stderr(*, verbose: bool) -> None:
    """Show a node's log on stderr: what a peer did wrong, and with ``verbose`` all that happens to connections."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"{PROGRAM}: %(message)s"))
    logger = logging.getLogger("rdstool")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO if verbose else logging.WARNING)


def run_node(node: Node, job: Callable[[Node], Awaitable[ExitCode]]) -> ExitCode:
    """Run ``job`` on a started node. What ends it by a signal cancels it; what it does on the way out is still done."""
    return run_nodes([node], lambda nodes: job(nodes[0]))


def run_nodes(nodes: Sequence[Node], job: Callable[[Sequence[Node]], Awaitable[ExitCode]]) -> ExitCode:
    """Run ``job`` on several started nodes. All of them are recorded in the file of the first.

    A recording that is not complete is a problem, which the status tells.
    """
    complete = True

    async def end(node: Node) -> None:
        nonlocal complete
        try:
            await node.close()
        except TransportError as problem:
            complete = False
            error(str(problem))

    async def whole() -> ExitCode:
        async with AsyncExitStack() as stack:
            for node in nodes:
                await node.start()
                stack.push_async_callback(end, node)
                Notices(node)
                if node is not nodes[0]:
                    nodes[0].core.share_recording(node.core)
            return await job(nodes)

    code = run_job(whole)
    return code if complete or code else ExitCode.PROBLEMS


def run_job(job: Callable[[], Awaitable[ExitCode]]) -> ExitCode:
    """Run a job that starts its nodes by itself; Ctrl-C, SIGTERM and a terminal that is closed cancel it.

    Of tasks that fail together it raises the first error.
    """
    search_as_usual()

    async def whole() -> ExitCode:
        task = asyncio.current_task()
        assert task is not None
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:  # nohup has SIGHUP ignored
                asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        return await job()

    try:
        return asyncio.run(whole())
    except (KeyboardInterrupt, asyncio.CancelledError):
        return ExitCode.INTERRUPTED
    except BaseExceptionGroup as failed:
        raise first_of(failed) from None
