"""The programs that the lab calls, and what to do where one is missing."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from rdstool.errors import LabError

_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where Debian keeps programs that are not on every user's PATH."""

PACKAGES = {
    "apt-cache": "apt",
    "apt-config": "apt",
    "apt-get": "apt",
    "busybox": "busybox-static",
    "depmod": "kmod",
    "dpkg": "dpkg",
    "dpkg-deb": "dpkg",
    "file": "file",
    "ip": "iproute2",
    "modprobe": "kmod",
    "nsenter": "util-linux",
    "qemu-system-x86_64": "qemu-system-x86",
    "unshare": "util-linux",
}
"""The Debian package that brings each program."""

_SHOWN_LINES = 3
"""Lines of a failed program's last words that go into the error."""


def program(name: str) -> str:
    """The path of a program. Raises ``LabError`` that says which package brings it."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{_SBIN}")
    if found is None:
        raise LabError(f"{name} is missing: apt-get install {PACKAGES[name]}")
    return found


def own_environment() -> dict[str, str]:
    """The environment for a process of our own modules: it finds rdstool where this process found it."""
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def need_virtme() -> None:
    """Raise ``LabError`` where virtme-ng, which boots the kernels, is not installed beside rdstool."""
    if importlib.util.find_spec("virtme") is None:
        raise LabError("virtme-ng is missing: pip install 'rdstool[lab]'")


def call(
    command: Sequence[str],
    *,
    what: str,
    environment: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
    folder: Path | None = None,
) -> str:
    """Run a program and return what it prints. Raises ``LabError``: ``what`` failed, with the program's last words."""
    try:
        done = subprocess.run(  # noqa: S603 - programs of PACKAGES only
            [command[0] if "/" in command[0] else program(command[0]), *command[1:]],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "LC_ALL": "C", **(environment or {})},
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
            cwd=folder,
        )
    except subprocess.TimeoutExpired as problem:
        raise LabError(f"{what}: {command[0]} took longer than {timeout_s:g} s") from problem
    if done.returncode:
        words = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise LabError(f"{what}: {' / '.join(words[-_SHOWN_LINES:]) or f'{command[0]} ended with {done.returncode}'}")
    return done.stdout
