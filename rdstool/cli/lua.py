"""``rdstool lua``: the Wireshark plugin, written out, put where Wireshark looks for it, or taken away."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rdstool.cli.choices import one_of
from rdstool.cli.exit_codes import ExitCode
from rdstool.cli.output import STANDARD_OUTPUT, Results, note
from rdstool.errors import TsharkError, UsageError

if TYPE_CHECKING:
    from rdstool.tshark.install import Installed

EXPORT, INSTALL, UNINSTALL, STATUS = ACTIONS = ("export", "install", "uninstall", "status")


def lua(
    action: Annotated[
        str, typer.Argument(metavar="|".join(ACTIONS), help="What to do.", autocompletion=lambda: list(ACTIONS))
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="export: write all files into DIR.")
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option("--directory", metavar="DIR", help="A plugin directory other than your own; not for export."),
    ] = None,
    extcap: Annotated[
        Path | None,
        typer.Option("--extcap", metavar="DIR", help="Where else to put the program that offers nodes as interfaces."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace or remove files of another version or origin, and changed ones.")
    ] = False,
) -> None:
    """Write the Wireshark plugin out, or put it where Wireshark and tshark look for it.

    export writes it to standard output; with -o it also writes colouring rules, filter buttons and the dissector for
    rds-stress. install also has Wireshark list running nodes of rdstool as interfaces; with --directory, only if
    --extcap names a directory.

    \b
    Examples:
      rdstool lua install
      rdstool lua export -o my-plugins
    """  # noqa: D301
    one_of("lua", action, ACTIONS)
    if output is not None and action != EXPORT:
        raise UsageError(f"-o is for export; {action} takes --directory DIR")
    if str(output) == STANDARD_OUTPUT:
        output = None
    if directory is not None and action == EXPORT:
        raise UsageError("--directory is for install, uninstall and status; export writes into -o DIR")
    if extcap is not None and action not in {INSTALL, UNINSTALL}:
        raise UsageError("--extcap is for install and uninstall")
    if force and action == STATUS:
        raise UsageError("--force is for export, install and uninstall")
    if force and action == EXPORT and output is None:
        raise UsageError("--force is for files: name their directory with -o DIR")
    if action == EXPORT:
        _export(output, force=force)
    elif action == STATUS:
        _status(directory)
    else:
        _change(action, directory, extcap, force=force)
    raise typer.Exit(ExitCode.CLEAN)


def _export(output: Path | None, *, force: bool) -> None:
    from rdstool.export.lua import plugin_text  # noqa: PLC0415
    from rdstool.tshark.install import export  # noqa: PLC0415
    from rdstool.version import __version__  # noqa: PLC0415

    if output is None:
        with Results() as results:
            results.write(plugin_text(__version__))
        return
    written = export(output, __version__, force=force)
    note(f"{', '.join(path.name for path in written)} written to {output}")


def _status(directory: Path | None) -> None:
    from rdstool.tshark.install import command, installed, of_all_users  # noqa: PLC0415
    from rdstool.tshark.program import find_tshark  # noqa: PLC0415

    first = None
    where = directory
    if where is None:
        tshark = find_tshark()
        where, first = tshark.plugins, of_all_users(tshark)
    found = installed(where)
    with Results() as results:
        if first is not None:
            results.write(f"{_described(first, for_all=True)}\n")
            if found is not None:
                results.write(f"{found.path} is one too many beside it; to remove it: {command('uninstall', None)}\n")
        elif found is not None:
            results.write(f"{_described(found, directory)}\n")
        else:
            results.write(f"no plugin in {where}; to put it there: {command('install', directory)}\n")


def _described(found: Installed, named: Path | None = None, *, for_all: bool = False) -> str:
    """Whose plugin was found, and how to replace one of another: in the directory that was named, or for all users."""
    from rdstool.tshark.install import command  # noqa: PLC0415
    from rdstool.version import __version__  # noqa: PLC0415

    if found.version == __version__:
        return f"{found.path} is the plugin of this rdstool, {__version__}{', for all users' if for_all else ''}"
    whose = f"of rdstool {found.version}" if found.version else "not made by rdstool"
    loaded = ", and Wireshark loads it for all users" if for_all else ""
    again = f"sudo {command('install --force', found.path.parent)}" if for_all else command("install --force", named)
    return f"{found.path} is {whose}, this is {__version__}{loaded}; to replace it: {again}"


def _change(action: str, directory: Path | None, extcap: Path | None, *, force: bool) -> None:
    from rdstool.tshark.install import (  # noqa: PLC0415
        changed,
        install,
        install_extcap,
        of_all_users,
        uninstall,
        uninstall_extcap,
    )
    from rdstool.tshark.program import find_tshark  # noqa: PLC0415
    from rdstool.version import __version__  # noqa: PLC0415

    where, program, tshark = directory, extcap, None
    if where is None:
        tshark = find_tshark()
        where, program = tshark.plugins, extcap or tshark.extcap
    if action == INSTALL:
        first = of_all_users(tshark) if tshark else None
        if first is not None and first.version != __version__:
            raise TsharkError(_described(first, for_all=True))
        if first is not None:
            note(_described(first, for_all=True))
        done = [] if first else install(where, __version__, force=force, named=directory is not None)
        if program is not None:
            done.append(install_extcap(program, force=force, named=extcap is not None))
    else:
        done = uninstall(where, force=force, named=directory is not None)
        if program is not None:
            done += uninstall_extcap(program, force=force, named=extcap is not None)
    for path in done:
        note(f"{path} {'written' if action == INSTALL else 'removed'}")
    for path in changed(where):
        note(f"{path} is left as it is: it was changed; to {action} it all the same, add --force")
    if not done:
        note(f"no plugin in {where}")
