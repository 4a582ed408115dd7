"""Where a scenario is played: what every transport does for it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

from rdstool.craft.hearing import Came, Hearing
from rdstool.craft.scenario import Expect, Send
from rdstool.errors import UsageError


class Crowd(NamedTuple):
    """Connections that a scenario made at once, to see how many the peer keeps."""

    open: int
    asked_for: int


class Stage(Protocol):
    """Connections of one scenario, each by the name of its path."""

    @property
    def doubt(self) -> str:
        """Why what was seen may say nothing about the scenario, in words; empty where nothing speaks for that."""

    def ready(self) -> AbstractAsyncContextManager[None]:
        """Take what the peer begins, and leave nothing open."""

    async def act(self, step: Send) -> str:
        """Do a step of ours; returns what was done, in words. Raises ``TransportError`` where no peer answers."""

    def heard(self, path: str) -> Hearing | None:
        """What comes on the connection of a path; None before there is one."""

    def excused(self, step: Expect, came: Came) -> bool:
        """True where ``came`` says nothing about ``step``: the stage has tried again what led to it."""

    async def incoming(self, step: Expect) -> str:
        """Wait for a connection of the peer; returns it in words."""

    def crowd(self) -> Crowd:
        """What has become of the connections of CROWD steps."""


def connection_of(stage: Stage, file: str, step: Send | Expect) -> Hearing:
    """The connection of a step's path. Raises ``UsageError`` where there is none yet."""
    found = stage.heard(step.path)
    if found is None:
        raise UsageError(f"{file}:{step.line}: there is no connection {step.path!r} yet")
    return found
