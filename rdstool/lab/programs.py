"""Programs in a guest: those that run while the host goes on, or that are read and written as they run."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol
from uuid import uuid4

from rdstool.lab.completed import Completed, completed


class Agent(Protocol):
    """Does in the guest what it is asked for; see ``Guest``."""

    def call(self, what: str, *, wait_s: float = 0.0, **arguments: Any) -> Any:
        """Ask for ``what`` and wait for the answer, ``wait_s`` longer than usual."""

    def submit(self, what: str, part: Callable[[Any], None] | None = None, **arguments: Any) -> Future[Any]:
        """Ask for ``what`` and go on; ``part`` is called with each part of the answer."""


class GuestStream:
    """A program in the guest that is read and written while it runs."""

    def __init__(
        self,
        agent: Agent,
        arguments: Sequence[str],
        write: Callable[[int, bytes], None],
        environment: Mapping[str, str] | None,
        folder: str | None,
        stdin: bool,
    ) -> None:
        self._agent = agent
        self._write = write
        self._key = uuid4().hex
        self._started: Future[None] = Future()
        self._future = agent.submit(
            "commands.stream",
            self._part,
            key=self._key,
            argv=list(arguments),
            env=dict(environment or {}),
            cwd=folder,
            stdin=stdin,
        )
        self._future.add_done_callback(self._end)

    def feed(self, data: bytes) -> None:
        """Give it more to read; nothing at all is the end. Raises ``GuestError`` with EPIPE where it reads no more."""
        self._started.result()
        self._agent.call("commands.feed", key=self._key, data=base64.b64encode(data).decode("ascii") if data else None)

    def hang_up(self) -> None:
        """Send the program SIGHUP."""
        self._started.result()
        self._agent.call("commands.hang_up", key=self._key)

    def wait(self) -> int:
        """Wait for its end: its exit status, negative for a signal. Raises ``GuestError`` where it cannot be run."""
        status: int = self._future.result()
        return status

    def _end(self, future: Future[Any]) -> None:
        if not self._started.done():
            self._started.set_result(None)

    def _part(self, part: list[Any] | None) -> None:
        if part is None:
            self._started.set_result(None)
        else:
            self._write(part[0], base64.b64decode(part[1]))


class GuestProcess:
    """A program that runs in the guest."""

    def __init__(self, agent: Agent, arguments: list[str], number: int) -> None:
        self._agent = agent
        self._arguments = arguments
        self._number = number

    def wait(self, timeout_s: float = 60.0, *, check: bool = True) -> Completed:
        """Wait for its end; like ``Guest.run``, but it goes on after a timeout."""
        return self._finish(timeout_s, None, check=check)

    def kill(self, name: str = "SIGTERM", timeout_s: float = 60.0) -> Completed:
        """Send it a signal and wait for its end."""
        return self._finish(timeout_s, name, check=False)

    def _finish(self, timeout_s: float, name: str | None, *, check: bool) -> Completed:
        told = self._agent.call("commands.finish", wait_s=timeout_s, number=self._number, timeout=timeout_s, kill=name)
        return completed(self._arguments, told, check=check, timeout_s=timeout_s)
