"""Scenario files (TOML) read and checked; what is wrong is told with file and line."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping, Set
from contextlib import suppress
from typing import Any, NoReturn

from dissectors.wire.rds import MAX_PATHS
from rdstool.craft.build import PORT_FIELDS, Builder, raw_bytes
from rdstool.craft.ib_build import IbBuilder
from rdstool.craft.language import COMMON, IN, LANGUAGES, OUT, REPEATED
from rdstool.craft.scenario import (
    ACCEPTED,
    CROWD,
    MESSAGES,
    SILENCE,
    Action,
    Expect,
    Role,
    Scenario,
    Send,
    Step,
    Strictness,
)
from rdstool.durations import seconds_of
from rdstool.errors import UsageError
from rdstool.protocol.kinds import Transport

MAX_FILE_BYTES = 1 << 20
MAX_STEPS = 1000
MAX_COUNT = 10_000_000
MAX_SECONDS = 3600.0
WITHIN_S = 5.0
"""How long the peer may take where a step does not say."""
ACCEPTED_S = 20.0
"""The same for a connection over InfiniBand, which is asked for again where both sides ask at once."""
SILENCE_S = 1.0
"""How long silence lasts where a step does not say."""

_TOP = {"id", "title", "requirement", "source", "strictness", "transport", "role", "ports", "paths", "step"}
_EXPECT = {IN, "path", "within", "count", "at_most"}
_TRANSPORTS = {each.label: each for each in Transport}
_STEP_HEAD = re.compile(r"\s*\[\[\s*step\s*\]\]")


class Reader:
    """Reads the file of one scenario."""

    def __init__(self, file: str, text: str) -> None:
        self._file = file
        self._lines = text.splitlines()
        self._line = 1
        """Line of the file that is being read."""
        self._end = len(self._lines)
        if len(text.encode()) > MAX_FILE_BYTES:
            self._fail(f"longer than {MAX_FILE_BYTES} bytes")
        try:
            self._table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as problem:
            found = re.search(r"\(at line (\d+), column \d+\)", str(problem))
            self._line = int(found[1]) if found else len(self._lines)
            self._fail(re.sub(r" \(at .*\)$", "", str(problem)))

    def scenario(self) -> Scenario:
        """The scenario. Raises ``UsageError``."""
        table = self._table
        self._known(table, _TOP)
        for name in ("id", "title", "requirement", "source"):
            if not isinstance(table.get(name), str) or not table[name].strip():
                self._fail(f"{name} is missing: a text that is not empty", name)
        ports = self._names("ports", 0xFFFF)
        paths = self._names("paths", MAX_PATHS - 1) or {"first": 0}
        self._transport = self._carrier()
        self._language = LANGUAGES[self._transport]
        builder = IbBuilder(ports) if self._transport is Transport.IB else Builder(ports, 1)
        return Scenario(
            file=self._file,
            id=table["id"],
            title=table["title"],
            requirement=table["requirement"],
            source=table["source"],
            strictness=self._one_of("strictness", Strictness, Strictness.MUST),
            transport=self._transport,
            role=self._one_of("role", Role, Role.SMALLER),
            ports=ports,
            paths=paths,
            steps=tuple(self._steps(paths, builder)),
        )

    def _carrier(self) -> Transport:
        name = self._table.get("transport", Transport.TCP.label)
        if name not in _TRANSPORTS:
            self._fail(f"transport is {name!r}, it is one of {', '.join(_TRANSPORTS)}", "transport")
        if _TRANSPORTS[name] is Transport.IB and "role" in self._table:
            self._fail("role has no meaning over InfiniBand: either side connects", "role")
        return _TRANSPORTS[name]

    # ---- Steps

    def _steps(self, paths: Mapping[str, int], builder: Builder) -> Iterable[Step]:
        steps = self._table.get("step", [])
        if not isinstance(steps, list) or not steps or not all(isinstance(each, dict) for each in steps):
            self._fail("there are no steps: begin each with [[step]]")
        if len(steps) > MAX_STEPS:
            self._fail(f"{len(steps)} steps are more than {MAX_STEPS}")
        heads = [number for number, line in enumerate(self._lines, 1) if _STEP_HEAD.match(line)]
        if len(heads) != len(steps):
            self._fail("write each step under a line [[step]] of its own")
        path = next(iter(paths))
        for step, line, following in zip(steps, heads, [*heads[1:], len(self._lines) + 1], strict=True):
            self._line, self._end = line, following - 1
            path = step.get("path", path)
            if path not in paths:
                self._fail(f"there is no path {path!r}: they are {', '.join(paths)}", "path")
            if (OUT in step) == (IN in step):
                self._fail(f'a step has one arrow: "{OUT}" for what we do, "{IN}" for what the peer is to do')
            yield self._send(step, path, builder) if OUT in step else self._expect(step, path, builder)

    def _send(self, step: dict[str, Any], path: str, builder: Builder) -> Send:
        action = self._one_of(OUT, [each for each in Action if each in self._language.keys], None, step)
        self._known(step, self._language.keys[action])
        values = {key: value for key, value in step.items() if key not in COMMON | REPEATED | {"cut", "chunk"}}
        try:
            if isinstance(builder, IbBuilder):
                builder.check(action, values)
            elif action in MESSAGES:
                builder.message(action, values, 1)
            elif action is Action.BYTES:
                raw_bytes(values)
        except UsageError as problem:
            self._fail(str(problem), *values)
        cut = step.get("cut")
        source = step.get("source_path")
        return Send(
            line=self._line,
            action=action,
            path=path,
            after_s=self._seconds(step, "after", 0.0),
            values=values,
            count=self._count(step, "count", 1, MAX_COUNT),
            every_s=self._seconds(step, "every", 0.0),
            chunk_bytes=self._count(step, "chunk", 0, MAX_FILE_BYTES),
            cut_bytes=None if cut is None else self._count(step, "cut", 0, MAX_FILE_BYTES),
            reading=self._truth(step, "reading"),
            source_path=None if source is None else self._count(step, "source_path", 0, MAX_PATHS - 1),
        )

    def _expect(self, step: dict[str, Any], path: str, builder: Builder) -> Expect:
        language = self._language
        self._known(step, _EXPECT | language.compared)
        wanted = step[IN]
        outcomes = tuple(wanted) if isinstance(wanted, list) else (wanted,)
        for each in outcomes or ("",):
            if each not in language.outcomes:
                known = ", ".join(sorted(language.outcomes))
                self._fail(f"{each!r} is nothing that a peer does: it is one of {known}", IN)
        fields = {key: step[key] for key in step if key in language.compared}
        if fields and not language.messages & set(outcomes):
            self._fail(f"{next(iter(fields))} is a field, and no message is expected", *fields)
        for name in PORT_FIELDS & fields.keys():
            try:
                fields[name] = builder.port(fields[name], name)
            except UsageError as problem:
                self._fail(str(problem), name)
        for name, value in fields.items():
            if not isinstance(value, int) or isinstance(value, bool):
                self._fail(f"{name} is {value!r}: a number is compared", name)
        if (CROWD in outcomes) != ("at_most" in step):
            self._fail('"crowd" and at_most go together', "at_most", IN)
        return Expect(
            line=self._line,
            outcomes=outcomes,
            path=path,
            within_s=self._seconds(step, "within", _usual_s(outcomes)),
            fields=fields,
            count=self._count(step, "count", 1, MAX_COUNT),
            at_most=self._count(step, "at_most", 0, MAX_COUNT) if "at_most" in step else None,
        )

    # ---- Values

    def _names(self, table: str, most: int) -> dict[str, int]:
        found = self._table.get(table, {})
        if not isinstance(found, dict):
            self._fail(f"[{table}] gives numbers to names", table)
        for name, number in found.items():
            if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= most:
                self._fail(f"{name} in [{table}] is {number!r}, it can be 0 to {most}", name)
        return found

    def _one_of(self, key: str, kind: Any, default: Any, table: Mapping[str, Any] | None = None) -> Any:
        value = (self._table if table is None else table).get(key)
        if value is None and default is not None:
            return default
        values = {each.value: each for each in kind}
        if value not in values:
            self._fail(f"{key} is {value!r}, it is one of {', '.join(values)}", key)
        return values[value]

    def _seconds(self, step: Mapping[str, Any], key: str, default: float) -> float:
        value = step.get(key, default)
        if isinstance(value, str):
            with suppress(ValueError):
                value = seconds_of(value)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= MAX_SECONDS:
            self._fail(f'{key} is {value!r}: write a duration as "10 ms" or "2 s", {MAX_SECONDS:g} s at most', key)
        return float(value)

    def _count(self, step: Mapping[str, Any], key: str, default: int, most: int) -> int:
        value = step.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
            self._fail(f"{key} is {value!r}, it can be 0 to {most}", key)
        return value

    def _truth(self, step: Mapping[str, Any], key: str) -> bool:
        value = step.get(key, True)
        if not isinstance(value, bool):
            self._fail(f"{key} is {value!r}, it is true or false", key)
        return value

    # ---- Complaints

    def _known(self, table: Mapping[str, Any], known: Set[str]) -> None:
        for key in table:
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                hint = f", did you mean {near[0]}?" if near else f": they are {', '.join(sorted(known))}"
                self._fail(f"{key!r} has no meaning here{hint}", key)

    def _fail(self, problem: str, *keys: str) -> NoReturn:
        """Raise, with the line of the first of ``keys`` that is found where we are."""
        line = self._line
        for key in keys:
            mark = re.compile(rf'\s*(?:"{re.escape(key)}"|{re.escape(key)})\s*=|\s*\[{re.escape(key)}\]')
            begin, end = (self._line - 1, self._end) if self._line > 1 else (0, len(self._lines))
            found = next((at + 1 for at in range(begin, min(end, len(self._lines))) if mark.match(self._lines[at])), 0)
            if found:
                line = found
                break
        raise UsageError(f"{self._file}:{line}: {problem}")


def _usual_s(outcomes: Iterable[str]) -> float:
    """How long an expectation lasts where it does not say."""
    if SILENCE in outcomes:
        return SILENCE_S
    return ACCEPTED_S if ACCEPTED in outcomes else WITHIN_S


def read(file: str, text: str) -> Scenario:
    """The scenario in the text of a file. Raises ``UsageError`` with file and line."""
    return Reader(file, text).scenario()
