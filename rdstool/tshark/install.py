"""Put the plugin, and the program that offers nodes as interfaces, where Wireshark looks, and take them away again."""

from __future__ import annotations

import os
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from rdstool.errors import TsharkError
from rdstool.export.lua import COMPANIONS, PLUGIN_FILE, companion_text, plugin_text

_MARK = re.compile(r"^-- Made by `rdstool lua export` of rdstool (\S+) ", re.MULTILINE)
HEAD_BYTES = 4096
"""Of a plugin in which its mark stands."""
EXTCAP_FILE = "rdstool"
_EXTCAP_MARK = "# Made by `rdstool lua install`: nodes of rdstool as interfaces."


@dataclass(frozen=True, slots=True)
class Installed:
    """A plugin that lies where it is looked for."""

    path: Path
    version: str | None
    """Of the rdstool that made it; None for a file of somebody else."""


def installed(directory: Path) -> Installed | None:
    """What lies in a plugin directory under the plugin's name. Raises ``TsharkError`` where it cannot be read."""
    path = directory / PLUGIN_FILE
    try:
        head = path.read_bytes()[:HEAD_BYTES].decode("utf-8", "replace")
    except FileNotFoundError:
        return None
    except OSError as problem:
        raise TsharkError(f"{path}: {problem.strerror}; look at it with: ls -ld {directory}") from problem
    told = _MARK.search(head)
    return Installed(path, told[1] if told else None)


def install(directory: Path, version: str, *, force: bool = False) -> list[Path]:
    """Write the plugin and what belongs to it; the files written.

    Raises ``TsharkError`` where a plugin of another origin or version lies there and ``force`` is not given, and
    where the directory cannot be written.
    """
    before = installed(directory)
    if before is not None and before.version != version and not force:
        whose = f"of rdstool {before.version}" if before.version else "that rdstool did not make"
        raise TsharkError(f"{before.path} is a plugin {whose}; to replace it: rdstool lua install --force")
    return [_write(directory / name, text, 0o644) for name, text in _texts(version).items() if name.endswith(".lua")]


def export(directory: Path, version: str, *, force: bool = False) -> list[Path]:
    """Write all files of the plugin, over those of any version; the files written.

    Raises ``TsharkError`` where a plugin of somebody else lies there and ``force`` is not given, and where the
    directory cannot be written.
    """
    before = installed(directory)
    if before is not None and before.version is None and not force:
        raise TsharkError(f"{before.path} was not made by rdstool; take another directory, or replace it with --force")
    elsewhere = "write it elsewhere: rdstool lua export -o DIR"
    return [_write(directory / name, text, 0o644, elsewhere) for name, text in _texts(version).items()]


def _texts(version: str) -> dict[str, str]:
    return {PLUGIN_FILE: plugin_text(version), **{name: companion_text(name) for name in COMPANIONS}}


def install_extcap(directory: Path, *, force: bool = False) -> Path:
    """Write the program that has Wireshark list running nodes as interfaces; the file written.

    Raises ``TsharkError`` where a file of somebody else is there and ``force`` is not given, and where the directory
    cannot be written.
    """
    path = directory / EXTCAP_FILE
    if not force and _is_foreign(path):
        raise TsharkError(f"{path} was not made by rdstool; to replace it: rdstool lua install --force")
    call = f'exec {shlex.quote(sys.executable)} -m rdstool.tshark.extcap "$@"'
    return _write(path, f"#!/bin/sh\n{_EXTCAP_MARK}\n{call}\n", 0o755)


def _is_foreign(path: Path) -> bool:
    try:
        return _EXTCAP_MARK.encode() not in path.read_bytes()
    except FileNotFoundError:
        return False
    except OSError as problem:
        raise TsharkError(_cannot_write(path, problem)) from problem


def _write(path: Path, text: str, mode: int, elsewhere: str | None = None) -> Path:
    """Write a file at once: Wireshark may start meanwhile, and finds the old one or the new one, never half of it.

    ``elsewhere`` is what to do where the directory cannot be written and any other would do.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, "utf-8")
        temporary.chmod(mode)
        temporary.replace(path)
    except OSError as problem:
        raise TsharkError(_cannot_write(path.parent, problem, elsewhere)) from problem
    return path


def uninstall(directory: Path, *, force: bool = False) -> list[Path]:
    """Remove the plugin; the files removed. Raises ``TsharkError`` where it is not rdstool's, or cannot be removed."""
    before = installed(directory)
    if before is not None and before.version is None and not force:
        raise TsharkError(
            f"{before.path} was not made by rdstool; to remove it all the same: rdstool lua uninstall --force"
        )
    return _remove([directory / name for name in (PLUGIN_FILE, *COMPANIONS)])


def uninstall_extcap(directory: Path, *, force: bool = False) -> list[Path]:
    """Remove the program; the file removed. Raises ``TsharkError`` as ``uninstall``."""
    path = directory / EXTCAP_FILE
    if not force and _is_foreign(path):
        raise TsharkError(f"{path} was not made by rdstool; to remove it all the same: rdstool lua uninstall --force")
    return _remove([path])


def _remove(paths: list[Path]) -> list[Path]:
    removed = []
    for path in paths:
        try:
            if path.exists():
                path.unlink()
                removed.append(path)
        except OSError as problem:
            raise TsharkError(_cannot_write(path.parent, problem)) from problem
    return removed


def _cannot_write(directory: Path, problem: OSError, elsewhere: str | None = None) -> str:
    hint = elsewhere or "install for all users as root: sudo rdstool lua install --directory DIR"
    if isinstance(problem, FileExistsError | NotADirectoryError):
        hint = f"a file is in the way of the directory; see: ls -ld {directory}"
    elif isinstance(problem, PermissionError) and elsewhere is None:
        hint = f"make it yours: sudo chown -R $USER {directory}"
    return f"{problem.filename or directory}: {problem.strerror}; {hint}"
