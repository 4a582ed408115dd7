"""The tsharks that the plugin is tested with: the machine's own, one of Wireshark 4.4, and the newest in Debian.

Those newer than the machine's come from later suites of Debian. Each is unpacked with its libraries into a folder of
the tests, and kept there.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from rdstool.lab.apt import PrivateApt, machine_mirrors
from rdstool.tshark.program import Tshark, find_tshark

SUITE, NEWEST_SUITE = "trixie", "forky"
NEWER = (4, 4)
_NEEDED = re.compile(r"lib\S+|zlib1g|wireshark-common")
_WRAPPER = """#!/bin/sh
# Runs the unpacked tshark with the libraries beside it.
export WIRESHARK_DATA_DIR='{root}/usr/share/wireshark'
exec '{loader}' --library-path '{libraries}' '{root}/usr/bin/tshark' "$@"
"""


@cache
def system_tshark() -> Tshark:
    """The one on the search path."""
    return find_tshark()


@cache
def newer_tshark() -> Tshark:
    """One of at least version 4.4: the machine's own, or that of ``SUITE``."""
    own = system_tshark()
    return own if own.version >= NEWER else find_tshark(str(_unpacked(SUITE)))


@cache
def newest_tshark() -> Tshark:
    """That of ``NEWEST_SUITE``: what Wireshark changes shows there first."""
    return find_tshark(str(_unpacked(NEWEST_SUITE)))


VERSIONS = {"system": system_tshark, "newer": newer_tshark, "newest": newest_tshark}
"""All of them."""


def bare_tshark(folder: Path) -> Tshark:
    """The newer one as a distribution has it: it looks for the plugins of all users in ``folder``, and finds none.

    It takes the folder of the program that runs, here the loader, for its own.
    """
    root = _unpacked(SUITE).with_name("root")
    loader, libraries = _loader(root), _libraries(root)
    own = shutil.copy(loader, folder / "loader")
    wrapper = folder / "tshark"
    wrapper.write_text(_WRAPPER.format(root=root, loader=own, libraries=f"{libraries}:{root}/usr/lib"))
    wrapper.chmod(0o755)
    return find_tshark(str(wrapper))


def _loader(root: Path) -> Path:
    return next(path for path in sorted(root.glob("usr/lib*/**/ld-linux*.so*")) if path.is_file())


def _libraries(root: Path) -> Path:
    return next(root.glob("usr/lib/*-linux-gnu"))


def _unpacked(suite: str) -> Path:
    """The wrapper around the unpacked tshark of a suite; made once, whatever number of test runs ask for it."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "rdstool" / "tests"
    base.mkdir(parents=True, exist_ok=True)
    wrapper = base / f"tshark-{suite}" / "tshark"
    with (base / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not wrapper.exists():
            _unpack(base, suite, wrapper)
    return wrapper


def _unpack(base: Path, suite: str, wrapper: Path) -> None:
    apt = PrivateApt(base / f"apt-{suite}", suite, machine_mirrors())
    apt.update()
    root = wrapper.with_name("root")
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=base) as downloads:
        for package in apt.download(["tshark", *apt.closure("tshark", _NEEDED)], Path(downloads)):
            subprocess.run(["dpkg-deb", "--extract", str(package), str(root)], check=True)
    loader, library = _loader(root), _libraries(root)
    # Without this, Wireshark 4.4 and later run no script of root's.
    for folder in (library / "plugins", library / "wireshark" / "plugins"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "init.lua").write_text("run_user_scripts_when_superuser = true\n")
    temporary = wrapper.with_name(".tshark")
    temporary.write_text(_WRAPPER.format(root=root, loader=loader, libraries=f"{library}:{root}/usr/lib"))
    temporary.chmod(0o755)
    temporary.rename(wrapper)
