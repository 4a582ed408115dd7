"""Whether this machine, and this Python, have what the provider needs; and what to do where they have not."""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from pathlib import Path

from rdstool.errors import TransportError

MAKE_DEVICE = "modprobe rdma_rxe, then rdma link add rxe0 type rxe netdev DEVICE"
"""How a machine without an adapter gets a device."""
_DEVICES = Path("/sys/class/infiniband")
_FILES = Path("/dev/infiniband")
_DEBIAN_PACKAGES = Path("/usr/lib/python3/dist-packages")
"""Where python3-pyverbs is: for Debian's own Python."""
_ENVIRONMENT = "an environment made with /usr/bin/python3 -m venv --system-site-packages"


def check() -> None:
    """Raises ``TransportError`` that says what is missing: pyverbs, a device, or modules of the kernel."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        import_module("pyverbs.cmid")
    except ImportError as problem:
        raise TransportError(_without_pyverbs(problem)) from None
    finally:
        # pyverbs sets up the log of the whole program, which is not its to decide on.
        root.handlers[:] = handlers
        root.setLevel(level)
    if not devices():
        raise TransportError(f"this machine has no RDMA device: {MAKE_DEVICE}; --provider roce needs none")
    for module, file in (("ib_uverbs", "uverbs*"), ("rdma_ucm", "rdma_cm")):
        if not list(_FILES.glob(file)):
            raise TransportError(f"{_FILES}/{file} is missing: modprobe {module}")


def devices() -> list[str]:
    """Names of the RDMA devices of this machine."""
    return sorted(each.name for each in _DEVICES.glob("*"))


def _without_pyverbs(problem: ImportError) -> str:
    if not (_DEBIAN_PACKAGES / "pyverbs").is_dir():
        return f"pyverbs is missing: apt install python3-pyverbs, and run rdstool in {_ENVIRONMENT}"
    if (problem.name or "").partition(".")[0] == "pyverbs":
        return f"{sys.executable} does not see Debian's pyverbs: run rdstool in {_ENVIRONMENT}"
    return f"pyverbs cannot be loaded ({problem}): apt install --reinstall python3-pyverbs"
