"""Put the plugin, and the program that offers nodes as interfaces, where Wireshark looks, and take them away again."""

from __future__ import annotations

import errno
import os
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from rdstool.errors import TsharkError
from rdstool.export.lua import COMPANIONS, PLUGIN_FILE, companion_text, plugin_text
from rdstool.replacing import put
from rdstool.tshark.program import Tshark

_MARK = re.compile(r"^-- Made by `rdstool lua export` of rdstool (\S+) ", re.MULTILINE)
HEAD_BYTES = 4096
"""Bytes at the beginning of a plugin that have its mark."""
EXTCAP_FILE = "rdstool"
_IN_THE_WAY = {errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP}
_ANOTHER_EXTCAP = "name another directory with --extcap, or leave it out"
_EXTCAP_MARK = "# Made by `rdstool lua install`: nodes of rdstool as interfaces."


@dataclass(frozen=True, slots=True)
class Installed:
    """A plugin where Wireshark looks for it."""

    path: Path
    version: str | None
    """Version of the rdstool that made it; None for a file of somebody else."""


def installed(directory: Path, elsewhere: str | None = None) -> Installed | None:
    """What lies in a plugin directory under the plugin's name.

    Raises ``TsharkError`` where it cannot be read; ``elsewhere`` is what to do then, where any other would do.
    """
    path = directory / PLUGIN_FILE
    try:
        head = path.read_bytes()[:HEAD_BYTES].decode("utf-8", "replace")
    except FileNotFoundError:
        return None
    except OSError as problem:
        raise TsharkError(_failed(path, problem, elsewhere)) from problem
    told = _MARK.search(head)
    return Installed(path, told[1] if told else None)


def of_all_users(tshark: Tshark) -> Installed | None:
    """The plugin of all users, where one of this user's own would stand beside it.

    Wireshark 4.0 would load both, and complain; 4.4 and later load the first alone. Raises as :func:`installed`.
    """
    return installed(tshark.shared) if tshark.shared != tshark.plugins else None


def command(action: str, named: Path | None) -> str:
    """``rdstool lua`` as it is called for a directory that was named, None for the user's own."""
    return f"rdstool lua {action}" if named is None else f"rdstool lua {action} --directory {shlex.quote(str(named))}"


def changed(directory: Path) -> list[Path]:
    """What belongs to the plugin, and is not as rdstool writes it. Raises ``TsharkError`` where it cannot be read."""
    found = []
    for name in COMPANIONS:
        path = directory / name
        try:
            if path.is_file() and path.read_bytes() != companion_text(name).encode():
                found.append(path)
        except OSError as problem:
            raise TsharkError(_failed(path, problem)) from problem
    return found


def install(directory: Path, version: str, *, force: bool = False, named: bool = False) -> list[Path]:
    """Write the plugin and what belongs to it; returns the files written.

    ``named`` says that the user named the directory, and that it is not where Wireshark looks by itself.

    What :func:`changed` finds is left as it is, unless ``force`` is given.

    Raises ``TsharkError`` where a plugin of another origin or version lies there and ``force`` is not given, and
    where the directory cannot be written.
    """
    before = installed(directory)
    if before is not None and before.version != version and not force:
        whose = f"of rdstool {before.version}" if before.version else "that rdstool did not make"
        again = command("install --force", directory if named else None)
        raise TsharkError(f"{before.path} is a plugin {whose}; to replace it: {again}")
    kept = [] if force else changed(directory)
    wanted = {directory / name: text for name, text in _texts(version).items() if name.endswith(".lua")}
    return [_write(path, text, 0o644) for path, text in wanted.items() if path not in kept]


def export(directory: Path, version: str, *, force: bool = False) -> list[Path]:
    """Write all files of the plugin, over those of any version; returns the files written.

    Raises ``TsharkError`` where a plugin of somebody else lies there and ``force`` is not given, and where the
    directory cannot be written.
    """
    elsewhere = "write it elsewhere: rdstool lua export -o DIR"
    before = installed(directory, elsewhere)
    if before is not None and before.version is None and not force:
        raise TsharkError(f"{before.path} was not made by rdstool; take another directory, or replace it with --force")
    return [_write(directory / name, text, 0o644, elsewhere) for name, text in _texts(version).items()]


def _texts(version: str) -> dict[str, str]:
    return {PLUGIN_FILE: plugin_text(version), **{name: companion_text(name) for name in COMPANIONS}}


def install_extcap(directory: Path, *, force: bool = False, named: bool = False) -> Path:
    """Write the program that has Wireshark list running nodes as interfaces; returns the file written.

    ``named`` as for ``install``.

    Raises ``TsharkError`` where a file of somebody else is there and ``force`` is not given, and where the directory
    cannot be written.
    """
    path, elsewhere = directory / EXTCAP_FILE, _ANOTHER_EXTCAP if named else None
    if not force and _is_foreign(path, elsewhere):
        raise TsharkError(f"{path} was not made by rdstool; to replace it, add --force")
    call = f'exec {shlex.quote(sys.executable)} -m rdstool.tshark.extcap "$@"'
    return _write(path, f"#!/bin/sh\n{_EXTCAP_MARK}\n{call}\n", 0o755, elsewhere)


def _is_foreign(path: Path, elsewhere: str | None) -> bool:
    try:
        return _EXTCAP_MARK.encode() not in path.read_bytes()
    except FileNotFoundError:
        return False
    except OSError as problem:
        raise TsharkError(_failed(path, problem, elsewhere)) from problem


def _write(path: Path, text: str, mode: int, elsewhere: str | None = None) -> Path:
    """Write a file as a whole, for Wireshark may start meanwhile.

    ``elsewhere`` is what to do where the directory cannot be written and any other would do.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        put(path, text.encode(), mode)
    except OSError as problem:
        raise TsharkError(_failed(path, problem, elsewhere)) from problem
    return path


def uninstall(directory: Path, *, force: bool = False, named: bool = False) -> list[Path]:
    """Remove the plugin; returns the files removed. ``force`` and ``named`` as for ``install``.

    Raises ``TsharkError`` where it is not rdstool's, or cannot be removed.
    """
    before = installed(directory)
    if before is not None and before.version is None and not force:
        again = command("uninstall --force", directory if named else None)
        raise TsharkError(f"{before.path} was not made by rdstool; to remove it all the same: {again}")
    kept = [] if force else changed(directory)
    wanted = [directory / name for name in (PLUGIN_FILE, *COMPANIONS)]
    return _remove([path for path in wanted if path not in kept])


def uninstall_extcap(directory: Path, *, force: bool = False, named: bool = False) -> list[Path]:
    """Remove the program; returns the file removed. Raises ``TsharkError`` as ``uninstall``."""
    path, elsewhere = directory / EXTCAP_FILE, _ANOTHER_EXTCAP if named else None
    if not force and _is_foreign(path, elsewhere):
        raise TsharkError(f"{path} was not made by rdstool; to remove it all the same, add --force")
    return _remove([path], elsewhere)


def _remove(paths: list[Path], elsewhere: str | None = None) -> list[Path]:
    removed = []
    for path in paths:
        try:
            if path.exists():
                path.unlink()
                removed.append(path)
        except OSError as problem:
            raise TsharkError(_failed(path, problem, elsewhere, as_root="uninstall")) from problem
    return removed


def _failed(path: Path, problem: OSError, elsewhere: str | None = None, as_root: str = "install") -> str:
    """What went wrong with a file, and the command that mends it.

    ``elsewhere`` is what to do where any other directory would do, ``as_root`` what root can do where only root may.
    """
    there = [place for place in (path, *path.parents) if os.path.lexists(place)]
    in_the_way = there[0] if problem.errno in _IN_THE_WAY else None
    place = in_the_way or next(place for place in there if place != path)
    own = Path.home() in place.parents or place == Path.home()
    if elsewhere is not None:
        hint = elsewhere
    elif in_the_way and own:
        hint = f"it is in the way, move it aside: {shlex.join(['mv', str(place), f'{place}.old'])}"
    elif not isinstance(problem, PermissionError):
        hint = "take another directory: rdstool lua install --directory DIR"
    elif own:
        hint = f"make it yours: sudo chown -R $USER {shlex.quote(str(place))}"
    else:
        hint = f"only root may: sudo {command(as_root, path.parent)}"
    return f"{in_the_way or path.parent}: {problem.strerror}; {hint}"
