"""``rdstool lua``: the Wireshark plugin, written out, put where Wireshark looks for it, or taken away."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rdstool.cli.choices import one_of
from rdstool.cli.exit_codes import ExitCode
from rdstool.cli.output import Results, note
from rdstool.errors import UsageError

ACTIONS = ("export", "install", "uninstall", "status")


def lua(
    action: Annotated[
        str, typer.Argument(metavar="|".join(ACTIONS), help="What to do.", autocompletion=lambda: list(ACTIONS))
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="export: write all files into DIR.")
    ] = None,
    directory: Annotated[
        Path | None, typer.Option("--directory", metavar="DIR", help="A plugin directory other than your own.")
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
    if output is not None and action != "export":
        raise UsageError("-o is for export; the others take --directory")
    if extcap is not None and action not in {"install", "uninstall"}:
        raise UsageError("--extcap is for install and uninstall")
    if action == "export":
        _export(output, force=force)
    elif action == "status":
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


def _directory(directory: Path | None) -> Path:
    if directory is not None:
        return directory
    from rdstool.tshark.program import find_tshark  # noqa: PLC0415

    return find_tshark().plugins


def _status(directory: Path | None) -> None:
    from rdstool.tshark.install import command, installed  # noqa: PLC0415
    from rdstool.version import __version__  # noqa: PLC0415

    where = _directory(directory)
    found = installed(where)
    with Results() as results:
        if found is None:
            results.write(f"no plugin in {where}; to put it there: {command('install', directory)}\n")
        elif found.version == __version__:
            results.write(f"{found.path} is the plugin of this rdstool, {__version__}\n")
        else:
            whose = f"of rdstool {found.version}" if found.version else "not made by rdstool"
            again = command("install --force", directory)
            results.write(f"{found.path} is {whose}, this is {__version__}; to replace it: {again}\n")


def _change(action: str, directory: Path | None, extcap: Path | None, *, force: bool) -> None:
    from rdstool.tshark.install import changed, install, install_extcap, uninstall, uninstall_extcap  # noqa: PLC0415
    from rdstool.tshark.program import find_tshark  # noqa: PLC0415
    from rdstool.version import __version__  # noqa: PLC0415

    where, program = directory, extcap
    if where is None:
        tshark = find_tshark()
        where, program = tshark.plugins, extcap or tshark.extcap
    if action == "install":
        done = install(where, __version__, force=force, named=directory is not None)
        if program is not None:
            done.append(install_extcap(program, force=force, named=extcap is not None))
    else:
        done = uninstall(where, force=force, named=directory is not None)
        if program is not None:
            done += uninstall_extcap(program, force=force, named=extcap is not None)
    for path in done:
        note(f"{path} {'written' if action == 'install' else 'removed'}")
    for path in changed(where):
        note(f"{path} is left as it is: it was changed; to {action} it all the same, add --force")
    if not done:
        note(f"no plugin in {where}")
