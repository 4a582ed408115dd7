"""Plays a scenario against a peer, step by step, and judges what the peer does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from rdstool.craft.hearing import Came, Hearing
from rdstool.craft.judge import Differs, Line, Match, Seen, Verdict, meets, words
from rdstool.craft.scenario import CONNECTION, CROWD, OFFERED, SILENCE, Action, Expect, Role, Scenario, Send
from rdstool.craft.stage import Stage, connection_of
from rdstool.errors import UsageError
from rdstool.protocol.addresses import rank, same_family
from rdstool.protocol.kinds import Transport
from rdstool.transport.base import Tap
from rdstool.transport.ib.names import ROCE

KEPT_LINES = 1000
"""Lines that are kept of one scenario; a flood would bring any number."""
TRIES = 5
"""How often a scenario is played at most, where what the peer did may have another reason.

A larger peer that connects while we do may forget our connection. Linux 7.3 was seen to: nine of 328 connections to it
were never read from, and behind the SYN of each of the nine came one of its own within 5 ms. It asks to be connected to
after most scenarios, with its last answer still unacknowledged. Linux 6.12 was seen to end a new connection at once, as
it had not finished with the one of the scenario before.
"""
PAUSE_S = 0.1
"""Before a scenario is played for the second time; twice as long before each further time."""


async def play(
    scenario: Scenario, match: Match, *, tap: Tap | None = None, tell: Callable[[Line], None] = lambda _line: None
) -> Verdict:
    """Play it. ``tell`` gets each line as it happens.

    Raises ``TransportError`` where the peer cannot be reached at all, ``UsageError`` where the addresses do not fit.
    """
    check(scenario, match)
    for again in range(TRIES):
        player = _Player(scenario, replace(match, seed=match.seed + (again << 32)), tap, tell)
        async with player.stage.ready():
            await player.play()
        if not player.verdict.difference or not player.stage.doubt:
            break
        if again + 1 < TRIES:
            player.say_again()
            await asyncio.sleep(PAUSE_S * 2**again)
    return player.verdict


def check(scenario: Scenario, match: Match) -> None:
    """Raises ``UsageError`` where the match is not what the scenario needs."""
    if not same_family(match.own, match.peer) or match.own == match.peer:
        raise UsageError(f"{match.own} and {match.peer} cannot be the two ends of a connection: name another --from")
    if scenario.transport is not match.transport:
        raise UsageError(f"{scenario.id} is for --transport {scenario.transport.label}")
    if scenario.transport is Transport.IB:
        _check_infiniband(scenario, match)
    elif (rank(match.own) < rank(match.peer)) is not (scenario.role is Role.SMALLER):
        raise UsageError(
            f"{scenario.id} needs an own address that is {scenario.role.value} than the peer's {match.peer}, "
            f"{match.own} is not: name another --from"
        )


def _check_infiniband(scenario: Scenario, match: Match) -> None:
    sends = [step for step in scenario.steps if isinstance(step, Send)]
    if match.provider != ROCE and any(step.action is Action.PACKET for step in sends):
        raise UsageError(f"{scenario.id} sends single packets: it is for --provider {ROCE}")
    if match.cookie is None and any(step.values.get("rkey") == OFFERED for step in sends):
        raise UsageError(f"{scenario.id} uses memory that the peer offers: name it with --cookie")


class _Player:
    """One attempt at a scenario."""

    def __init__(self, scenario: Scenario, match: Match, tap: Tap | None, tell: Callable[[Line], None]) -> None:
        self.verdict = Verdict(scenario)
        self._scenario = scenario
        self._match = match
        self._tell_line = tell
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._news = asyncio.Event()
        self.stage = self._make_stage(tap)

    def _make_stage(self, tap: Tap | None) -> Stage:
        rest = self._scenario, self._match, self._hear, self._news.set, tap
        if self._scenario.transport is Transport.IB:
            from rdstool.craft.ib_stage import IbStage  # noqa: PLC0415

            return IbStage(*rest)
        from rdstool.craft.tcp_stage import TcpStage  # noqa: PLC0415

        return TcpStage(*rest)

    def say_again(self) -> None:
        """Tell that what was seen may say nothing about the scenario."""
        self._say("", f"{self.stage.doubt}: once more", "")

    async def play(self) -> None:
        """All steps, up to the first where the peer does otherwise."""
        for step in self._scenario.steps:
            if isinstance(step, Send):
                await asyncio.sleep(step.after_s)
                self._say("->", await self.stage.act(step), step.path, step.line)
                continue
            try:
                done = await self._expect(step)
            except Differs as difference:
                self.verdict.difference, self.verdict.line = str(difference), step.line
                self._say("", f"expected {words(step)}: {difference}", step.path, step.line, "differs")
                return
            self._say("", f"expected {words(step)}: {done}", step.path, step.line, "ok")

    # ---- What the peer does

    def _hear(self, wire: Hearing, came: Came) -> None:
        self._say("<-", came.words(), wire.name)
        self._news.set()

    async def _expect(self, step: Expect) -> str:
        """What happened, where it is allowed. Raises ``Differs``."""
        began = self._loop.time()
        deadline = began + step.within_s * self._patience(step)
        if step.outcomes == (CONNECTION,):
            return await self._incoming_connection(step, deadline)
        if CROWD in step.outcomes:
            return await self._thinned(step, deadline)
        wire = connection_of(self.stage, self._scenario.file, step)
        seen = Seen()
        while True:
            self._news.clear()
            while wire.inbox:
                came = wire.inbox.popleft()
                if not self.stage.excused(step, came) and meets(came, step, seen):
                    return seen.last
            if wire.ended is not None:
                if wire.ended in step.outcomes:
                    return wire.ended
                raise Differs(f"the connection was {wire.ended}")
            if not await self._anything_until(began + step.within_s * self._patience(step)):
                break
        if SILENCE in step.outcomes:
            return f"silence for {step.within_s:g} s"
        count = f"{seen.count} came" if step.count > 1 else "nothing of that came"
        raise Differs(f"{count} within {step.within_s:g} s{seen.near}")

    def _patience(self, step: Expect) -> float:
        """The factor for a step's time. Where the scenario will be played again, it is not waited for long."""
        if SILENCE in step.outcomes:
            return 1.0
        return min(self._match.patience, 1.0) if self.stage.doubt else self._match.patience

    async def _anything_until(self, deadline: float) -> bool:
        try:
            async with asyncio.timeout_at(deadline):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

    async def _incoming_connection(self, step: Expect, deadline: float) -> str:
        try:
            async with asyncio.timeout_at(deadline):
                return await self.stage.incoming(step)
        except TimeoutError:
            raise Differs(f"no connection came within {step.within_s:g} s") from None

    async def _thinned(self, step: Expect, deadline: float) -> str:
        """Wait until few enough connections are open."""
        assert step.at_most is not None
        while True:
            self._news.clear()
            crowd = self.stage.crowd()
            if crowd.open <= step.at_most:
                return f"{crowd.open} of {crowd.asked_for} connections are open"
            if not await self._anything_until(deadline):
                raise Differs(f"{crowd.open} connections are open after {step.within_s:g} s")

    # ---- Telling

    def _say(self, arrow: str, text: str, path: str, line: int | None = None, verdict: str = "") -> None:
        said = Line(self._loop.time() - self._began, arrow, text, path, line, verdict)
        if len(self.verdict.lines) < KEPT_LINES:
            self.verdict.lines.append(said)
            self._tell_line(said)
        elif len(self.verdict.lines) == KEPT_LINES or verdict:
            more = said if verdict else replace(said, text="… and more that is not shown")
            self.verdict.lines.append(more)
            self._tell_line(more)
