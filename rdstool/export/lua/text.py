"""Python values as Lua source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping


def quoted(text: str | bytes) -> str:
    """A Lua string: text of one line as it is, bytes as decimal escapes."""
    if isinstance(text, bytes):
        return '"' + "".join(f"\\{value:03d}" for value in text) + '"'
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def row(values: Iterable[object]) -> str:
    """A Lua sequence in one line."""
    return "{ " + ", ".join(quoted(value) if isinstance(value, str) else str(value) for value in values) + " }"


def names(values: Mapping[int, str]) -> str:
    """A value string: number to name."""
    return "{ " + ", ".join(f"[{number}] = {quoted(name)}" for number, name in values.items()) + " }"


def block(name: str, lines: Iterable[str]) -> str:
    """A local table, an entry a line."""
    return "\n".join([f"local {name} = {{", *(f"   {line}," for line in lines), "}", ""])
