"""``rdstool fields``: the names that filters and --fields know."""

from __future__ import annotations

from typing import Annotated

import typer

from rdstool.cli.exit_codes import ExitCode
from rdstool.cli.output import Results, json_line
from rdstool.errors import UsageError
from rdstool.fields import ALIASES, FieldInfo, nearest_name, registry


def fields(
    pattern: Annotated[str, typer.Argument(metavar="[PATTERN]", help="Only names or meanings that contain this.")] = "",
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """List the fields that filters and --fields know, with their types and meanings.

    \b
    Example:
      rdstool fields rdma
    """  # noqa: D301
    wanted = pattern.lower()
    # JSON lines are of fields: those that have another name which contains the pattern are among them.
    also = {name for alias, name in ALIASES.items() if wanted in alias} if json else set()
    found = [
        info for info in registry().values() if wanted in f"{info.name} {info.meaning}".lower() or info.name in also
    ]
    with Results() as results:
        for info in found:
            results.write(_object(info) if json else f"{info.name:<44} {info.type.value:<9} {info.meaning}\n")
        for alias, name in ALIASES.items():
            if wanted in alias and not json:
                results.write(f"{alias:<44} the same as {name}\n")
                found.append(registry()[name])
    if not found:
        near = nearest_name(pattern)
        raise UsageError(f"nothing contains {pattern!r}" + (f", the nearest field is {near}" if near else ""))
    raise typer.Exit(ExitCode.CLEAN)


def _object(info: FieldInfo) -> str:
    values = {str(value): name for value, name in info.values.items()}
    return json_line(
        {"name": info.name, "type": info.type.value, "meaning": info.meaning, "from": info.part.value, "values": values}
    )
