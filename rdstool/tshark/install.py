"""Put the plugin where Wireshark looks for it, and take it away again."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from rdstool.errors import TsharkError
from rdstool.export.lua import COMPANIONS, PLUGIN_FILE, companion_text, plugin_text

_MARK = re.compile(r"^-- Made by `rdstool lua export` of rdstool (\S+) ", re.MULTILINE)
HEAD_BYTES = 4096
"""Of a plugin in which its mark stands."""


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
    texts = {PLUGIN_FILE: plugin_text(version), **{name: companion_text(name) for name in COMPANIONS}}
    written = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            if not name.endswith(".lua"):
                continue
            path = directory / name
            # Wireshark may start meanwhile: it finds the old file or the new one, never half of it.
            temporary = path.with_name(f".{name}.{os.getpid()}")
            temporary.write_text(text, "utf-8")
            temporary.replace(path)
            written.append(path)
    except OSError as problem:
        raise TsharkError(_cannot_write(directory, problem)) from problem
    return written


def uninstall(directory: Path, *, force: bool = False) -> list[Path]:
    """Remove the plugin; the files removed. Raises ``TsharkError`` where it is not rdstool's, or cannot be removed."""
    before = installed(directory)
    if before is not None and before.version is None and not force:
        raise TsharkError(
            f"{before.path} was not made by rdstool; to remove it all the same: rdstool lua uninstall --force"
        )
    removed = []
    try:
        for name in (PLUGIN_FILE, *COMPANIONS):
            path = directory / name
            if path.exists():
                path.unlink()
                removed.append(path)
    except OSError as problem:
        raise TsharkError(_cannot_write(directory, problem)) from problem
    return removed


def _cannot_write(directory: Path, problem: OSError) -> str:
    hint = "install for all users as root: sudo rdstool lua install --directory DIR"
    if isinstance(problem, FileExistsError | NotADirectoryError):
        hint = f"a file is in the way of the directory; see: ls -ld {directory}"
    elif isinstance(problem, PermissionError):
        hint = f"make it yours: sudo chown -R $USER {directory}"
    return f"{problem.filename or directory}: {problem.strerror}; {hint}"
