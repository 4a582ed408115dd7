"""The commands of rdstool, each imported when it is used, and the one place where errors become exit statuses."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from rdstool.cli import exit_codes
from rdstool.cli.commands import SETTINGS, Commands
from rdstool.cli.exit_codes import ExitCode
from rdstool.cli.output import PROGRAM, drop_stdout, error, settle_stdout
from rdstool.errors import RdsError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
DEBUG = "RDSTOOL_DEBUG"
"""Environment variable: when set, errors that nobody expected come with their traceback."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command that is imported when it is used."""

    module: str
    """Module that defines it."""
    function: str
    """Function in that module; its parameters are the options, its docstring the help. Or a ``typer.Typer`` that has
    commands of its own."""
    summary: str
    """One line for the list of commands."""


COMMANDS = {
    "decode": Command("rdstool.cli.decode", "decode", "Show the RDS messages of captures."),
    "validate": Command("rdstool.cli.validate", "validate", "Check captures against the rules of the protocol."),
    "stats": Command("rdstool.cli.stats", "stats", "Sum up the RDS traffic of captures."),
    "capture": Command("rdstool.cli.capture", "capture", "Capture live, and show RDS messages as they come."),
    "crosscheck": Command("rdstool.cli.crosscheck", "crosscheck", "Compare what rdstool and tshark decode."),
    "fields": Command("rdstool.cli.fields", "fields", "List the fields that filters and --fields know."),
    "lua": Command("rdstool.cli.lua", "lua", "Write or install the Wireshark plugin."),
    "listen": Command("rdstool.cli.listen", "listen", "Receive datagrams over RDS."),
    "send": Command("rdstool.cli.send", "send", "Send datagrams over RDS, and wait for acknowledgement."),
    "ping": Command("rdstool.cli.ping", "ping", "Ask whether a host answers over RDS, and how fast."),
    "stress": Command("rdstool.cli.stress", "stress", "Load and check an RDS path, as rds-stress does."),
    "rdma": Command("rdstool.cli.rdma", "app", "Read, write and count in the memory that a peer offers."),
    "info": Command("rdstool.cli.info", "info", "Show running nodes, or the kernel, as rds-info does."),
    "craft": Command("rdstool.cli.craft", "craft", "Play traffic that misbehaves, and judge what the peer does."),
    "lab": Command("rdstool.cli.lab", "app", "Run real kernels with RDS under QEMU."),
}


class OutputClosed(Exception):  # noqa: N818
    """Nobody reads the results any more."""


class LazyGroup(TyperGroup):
    """Knows all commands by name and summary; loads the one that is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Put the real command in the place of its stand-in, then go on as usual."""
        if args and args[0] in COMMANDS:
            self.commands[args[0]] = load(args[0])
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; Typer would turn a closed pipe into status 1, so it is renamed on the way."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as problem:
            raise OutputClosed from problem


def load(name: str) -> Any:
    """Import a command and make it ready to run."""
    command = COMMANDS[name]
    function = getattr(import_module(command.module), command.function)
    if isinstance(function, typer.Typer):
        return typer.main.get_command(function)
    single = Commands()
    single.command(name, epilog=exit_codes.HELP)(function)
    return typer.main.get_command(single)


def _version(wanted: bool) -> None:
    if wanted:
        from rdstool.version import __version__  # noqa: PLC0415

        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


def _rdstool(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    """Analyze and speak RDS (Reliable Datagram Sockets): decode and validate captures, send and receive datagrams.

    \b
    Examples:
      rdstool decode capture.pcap
      rdstool listen 10.0.0.1:4000
    """  # noqa: D301


def _stand_in() -> None: ...


def make_app() -> typer.Typer:
    """The application with a stand-in for each command."""
    app = typer.Typer(
        cls=LazyGroup,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings=SETTINGS,
        epilog=exit_codes.HELP,
    )
    app.callback()(_rdstool)
    for name, command in COMMANDS.items():
        app.command(name, help=command.summary)(_stand_in)
    return app


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status. Every error ends as one line on stderr."""
    try:
        code = typer.main.get_command(make_app()).main(list(arguments), PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except (BrokenPipeError, OutputClosed):
        drop_stdout()
        return ExitCode.CLEAN
    except (KeyboardInterrupt, typer.Abort):
        return ExitCode.INTERRUPTED
    except RdsError as problem:
        error(str(problem))
        return ExitCode.UNUSABLE
    except Exception as problem:
        return _unexpected(problem, arguments)
    return code if isinstance(code, int) else ExitCode.CLEAN


def _unexpected(problem: Exception, arguments: Sequence[str]) -> int:
    """Wrong use as Typer reports it, trouble of the operating system, or a fault of rdstool itself."""
    message = getattr(problem, "format_message", None)
    if message is not None:
        context = getattr(problem, "ctx", None)
        named = " ".join([PROGRAM, *(name for name in arguments[:1] if name in COMMANDS)])
        command = context.command_path if context is not None else named
        error(f"{message().rstrip('.') or 'a command is needed'} (see: {command} --help)")
    elif isinstance(problem, OSError):
        settle_stdout()
        where = f"{os.fsdecode(problem.filename)}: " if problem.filename else ""
        hint = "; make room, or send the results elsewhere" if problem.errno in _FULL else ""
        error(f"{where}{problem.strerror or problem}{hint}")
    elif os.environ.get(DEBUG):
        raise problem
    else:
        error(f"{type(problem).__name__}: {problem} (a fault of rdstool; set {DEBUG}=1 to see where)")
    return ExitCode.UNUSABLE
