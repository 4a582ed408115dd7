"""Where the lab keeps kernels and the state of guests that stay up."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from rdstool.errors import LabError
from rdstool.folders import is_private

CACHE = "RDSTOOL_LAB_CACHE"
"""Environment variable: the folder for kernels, instead of ``rdstool/lab`` in the user's cache (XDG_CACHE_HOME)."""


def cache_folder() -> Path:
    """The folder for kernels; it may not exist yet."""
    chosen = os.environ.get(CACHE)
    if chosen:
        return Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "rdstool" / "lab"


def runtime_folder() -> Path:
    """The folder for the control sockets of guests that stay up, made for this user alone.

    Raises ``LabError`` where somebody else may enter it.
    """
    base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    folder = Path(base) / f"rdstool-lab-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not is_private(folder):
        raise LabError(f"{folder} has to be a folder that only you may enter: remove it, or set XDG_RUNTIME_DIR")
    return folder
