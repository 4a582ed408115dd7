"""How all commands of rdstool are put together: plain help that ends with the exit statuses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


class WrappingCommand(PlainCommand):
    """Runs another command: options behind that command's name are its own, as those of ``ssh HOST COMMAND`` are."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put ``--`` before the name of the command that is run, unless it is there."""
        own_words = sum(each.param_type_name == "argument" and each.nargs == 1 for each in self.params)
        valued = {
            name
            for each in self.get_params(ctx)
            if each.param_type_name == "option" and not getattr(each, "is_flag", False)
            for name in each.opts
        }
        begin = _command_begin(args, own_words, valued)
        return super().parse_args(ctx, args if begin is None else [*args[:begin], "--", *args[begin:]])


def _command_begin(args: Sequence[str], own_words: int, valued: set[str]) -> int | None:
    """Index of the word behind ``own_words`` others that are no options; None where ``--`` or the end comes first.

    Options that are ``valued`` take the word behind them.
    """
    position = 0
    while position < len(args) and args[position] != "--":
        word = args[position]
        if not word.startswith("-"):
            if not own_words:
                return position
            own_words -= 1
        position += 2 if word in valued else 1
    return None


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
        return super().command(name, **{"cls": PlainCommand, "epilog": HELP, "context_settings": SETTINGS, **options})
