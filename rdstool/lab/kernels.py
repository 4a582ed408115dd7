"""Kernels that guests can boot: an image and its modules in a folder each, unpacked, not installed."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from rdstool.errors import LabError
from rdstool.lab.places import cache_folder

_RECORD = "kernel.json"
"""File in each kernel's folder that says what it is."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel in the cache."""

    name: str
    """What commands call it: ``6.1``, ``newest``, or the user's own word."""
    release: str
    """What ``uname -r`` says in it."""
    origin: str
    """Package, version and suite; or the image that the user named."""
    folder: Path
    """Its root: ``boot/`` or ``lib/modules/RELEASE`` with the image, ``lib/modules/RELEASE`` with the modules."""

    @property
    def modules(self) -> Path:
        """The folder that holds ``modules.dep``."""
        return _modules_root(self.folder) / self.release

    @property
    def image(self) -> Path:
        """The compressed image that QEMU loads."""
        for place in (self.folder / "boot" / f"vmlinuz-{self.release}", self.modules / "vmlinuz"):
            if place.exists():
                return place
        raise LabError(f"{self.folder}: no image of kernel {self.name}: rdstool lab fetch --again {self.name}")


def _modules_root(folder: Path) -> Path:
    """``lib/modules``, or ``usr/lib/modules`` as packages since 7.0 have it."""
    return next((at for at in (folder / "lib/modules", folder / "usr/lib/modules") if at.is_dir()), folder)


def release_in(folder: Path) -> str:
    """The release of the one kernel below ``folder``. Raises ``LabError`` where there is none, or several."""
    found = sorted(path.name for path in _modules_root(folder).glob("*") if (path / "kernel").is_dir())
    if len(found) != 1:
        raise LabError(f"{folder}: {len(found)} kernels with modules, 1 expected")
    return found[0]


def modules_base(folder: Path) -> Path:
    """What ``depmod -b`` takes: the folder above ``lib/modules``."""
    return _modules_root(folder).parents[1]


def _kernels_folder() -> Path:
    return cache_folder() / "kernels"


def kernels() -> list[Kernel]:
    """All kernels in the cache, oldest release first."""
    found = []
    for record in _kernels_folder().glob(f"*/{_RECORD}"):
        with suppress(OSError, ValueError, TypeError):
            found.append(Kernel(folder=record.parent, **json.loads(record.read_text())))
    return sorted(found, key=lambda kernel: (_numbers(kernel.release), kernel.name))


def _numbers(release: str) -> list[int]:
    return [int(part) for part in release.partition("-")[0].replace("+", ".").split(".") if part.isdigit()]


def cached_kernel(name: str) -> Kernel | None:
    """The kernel of this name, or the newest whose release begins with it (``7.3``); None where there is none."""
    named = [kernel for kernel in kernels() if kernel.name == name]
    alike = [kernel for kernel in kernels() if f"{kernel.release}.".startswith(f"{name}.")]
    found = named or alike
    return found[-1] if found else None


def find_kernel(name: str) -> Kernel:
    """The kernel of this name or release. Raises ``LabError`` that says how to get it."""
    kernel = cached_kernel(name)
    if kernel is None:
        known = ", ".join(kernel.name for kernel in kernels()) or "none yet"
        raise LabError(f"no kernel {name!r} here (there: {known}): rdstool lab fetch {name}")
    return kernel


@contextmanager
def new_kernel_folder(name: str) -> Iterator[Path]:
    """An empty folder beside the kernels'. What is in it at the end, its record too, replaces kernel ``name``."""
    parent = _kernels_folder()
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=parent))
    try:
        yield folder
        folder.chmod(0o755)
        final = parent / name
        if final.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{name}-old-", dir=parent))
            os.replace(final, old)  # an empty folder may be replaced  # noqa: PTH105
            os.replace(folder, final)  # noqa: PTH105
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(folder, final)  # noqa: PTH105
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_record(kernel: Kernel) -> None:
    """Write down what a kernel is."""
    record = asdict(kernel)
    del record["folder"]
    (kernel.folder / _RECORD).write_text(json.dumps(record, indent=2) + "\n")


def add_kernel(name: str, image: Path, modules: Path) -> Kernel:
    """Make a kernel of the user's own known: its image, and the folder of its modules (``/lib/modules/RELEASE``).

    Both stay where they are. Raises ``LabError`` where they are not what they should be.
    """
    if not image.is_file():
        raise LabError(f"{image}: no such kernel image")
    if not (modules / "modules.dep").is_file():
        raise LabError(f"{modules}: no modules.dep in it: name the folder lib/modules/RELEASE, after depmod")
    release = modules.resolve().name
    with new_kernel_folder(name) as folder:
        (folder / "boot").mkdir()
        (folder / "boot" / f"vmlinuz-{release}").symlink_to(image.resolve())
        (folder / "lib/modules").mkdir(parents=True)
        (folder / "lib/modules" / release).symlink_to(modules.resolve())
        write_record(Kernel(name, release, str(image.resolve()), folder))
    return find_kernel(name)
