"""Where the lab keeps kernels and the state of guests that stay up."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

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
    """The folder for the control sockets of guests that stay up, made for this user alone."""
    base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    folder = Path(base) / f"rdstool-lab-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
