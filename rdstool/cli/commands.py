"""How all commands of rdstool are put together: plain help that ends with the exit statuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand

from rdstool.cli.exit_codes import HELP

SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"]}


class PlainCommand(TyperCommand):
    """Its usage shows what is required as it is, where Typer would put it in braces: ``FILE...``, not ``{FILE...}``."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The parts of the usage behind the command's name."""
        return [piece.removeprefix("{").removesuffix("}") for piece in super().collect_usage_pieces(ctx)]


class Commands(typer.Typer):
    """A group of commands, or one command alone."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            add_completion=False,
            rich_markup_mode=None,
            pretty_exceptions_enable=False,
            context_settings=SETTINGS,
            epilog=HELP,
            **options,
        )

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        """Register a function as a command."""
        return super().command(name, cls=PlainCommand, context_settings=SETTINGS, **options)
