"""Words of which an option takes one: all commands refuse other words in the same way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import typer

from rdstool.errors import UsageError


def one_of(option: str, value: str, known: Iterable[str]) -> str:
    """``value``, as it was given for ``option``. Raises ``UsageError`` where it is not one of ``known``."""
    words = tuple(known)
    if value not in words:
        raise UsageError(f"{option} {value} is not known: take one of {', '.join(words)}")
    return value


def given(context: Any, *names: str) -> list[str]:
    """Those of the parameters ``names`` that the user wrote, as the help writes them: ``--size``."""
    written = {name for name in names if (said := context.get_parameter_source(name)) and said.name != "DEFAULT"}
    return [each.opts[0] for each in context.command.params if each.name in written]


def format_option(known: Sequence[str]) -> Any:
    """``--format``, which takes one of these words; the first is the usual one."""
    return typer.Option(
        "--format",
        metavar="FORM",
        help=f"One of {', '.join(known)} (default: {known[0]}).",
        autocompletion=lambda: list(known),
    )


def chosen_format(form: str | None, known: Sequence[str], *, json: bool) -> str:
    """The form of the results: that of ``--format``, the first if there is none, or JSON by ``--json``."""
    if form is not None:
        one_of("--format", form, known)
    if json and form not in {None, "json"}:
        raise UsageError(f"--json and --format {form} exclude each other; take one of them")
    return "json" if json else form or known[0]
