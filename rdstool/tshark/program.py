"""Find tshark, and learn what it is: its version, and the directories in which it looks for plugins."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from rdstool.errors import TsharkError

OLDEST = (4, 0)
"""Wireshark 4.0: what the plugin needs of its Lua interface is there."""
NO_SCRIPTS_OF_ROOT = (4, 4)
"""From here on, Wireshark loads no plugin of root's own for root, but only those of all users."""
ANSWER_S = 60.0
"""Seconds in which tshark has to tell its version."""
VARIABLE = "RDSTOOL_TSHARK"
"""Environment variable: a tshark other than the one on the search path."""
_HOW = "install it: apt-get install tshark"


@dataclass(frozen=True, slots=True)
class Tshark:
    """A tshark that can be used."""

    path: str
    version: tuple[int, ...]
    plugins: Path
    """Where the Lua plugins are that this user is to add to: root's with those of all where root has none."""
    shared: Path
    """Where the Lua plugins of all users are, which are loaded first."""
    extcap: Path
    """Where the user's programs are that give Wireshark further interfaces."""

    @property
    def version_text(self) -> str:
        """The version as text, such as ``4.0.17``."""
        return ".".join(map(str, self.version))


def find_tshark(path: str | None = None) -> Tshark:
    """The tshark at ``path``, in ``RDSTOOL_TSHARK`` or on the search path.

    Raises ``TsharkError`` where there is none, or it is too old.
    """
    wanted = path or os.environ.get(VARIABLE) or "tshark"
    found = shutil.which(wanted)
    if found is None:
        where = "there is no tshark" if wanted == "tshark" else f"{wanted} is no program"
        raise TsharkError(f"{where}; {_HOW}, or name another with {VARIABLE}")
    told = re.search(r"TShark \(Wireshark\) (\d+)\.(\d+)\.(\d+)", _ask(found, "--version"))
    if told is None:
        raise TsharkError(f"{found} does not say which version it is; {_HOW}")
    version = tuple(int(number) for number in told.groups())
    if version < OLDEST:
        raise TsharkError(
            f"{found} is version {told[1]}.{told[2]}, the plugin needs {OLDEST[0]}.{OLDEST[1]} or later; {_HOW}"
        )
    folders = _folders(found)
    plugins, shared = folders.get("Personal Lua Plugins"), folders.get("Global Lua Plugins")
    if plugins is None or shared is None:
        raise TsharkError(f"{found} was built without Lua; take the tshark of your distribution: {_HOW}")
    # Before 4.2 this one is not told.
    extcap = folders.get("Personal Extcap path") or folders.get("Personal configuration", plugins) / "extcap"
    if os.geteuid() == 0 and version >= NO_SCRIPTS_OF_ROOT:
        plugins = shared
    return Tshark(found, version, plugins, shared, extcap)


def _folders(path: str) -> dict[str, Path]:
    told = re.findall(r"^([^:\n]+):\s*(.+)$", _ask(path, "-G", "folders"), re.MULTILINE)
    return {name: Path(folder.strip()) for name, folder in told}


def _ask(path: str, *arguments: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - the user's own tshark
            [path, *arguments], capture_output=True, text=True, errors="replace", timeout=ANSWER_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise TsharkError(f"{path} does not run: {problem}; {_HOW}") from problem
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise TsharkError(f"{path} {' '.join(arguments)} failed: {last}; {_HOW}")
    return done.stdout
