"""Kernels from Debian's packages: found, downloaded, checked and unpacked, but not installed."""

from __future__ import annotations

import fcntl
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rdstool.errors import LabError
from rdstool.lab.apt import PrivateApt, machine_mirrors
from rdstool.lab.kernels import (
    Kernel,
    cached_kernel,
    find_kernel,
    modules_base,
    new_kernel_folder,
    release_in,
    write_record,
)
from rdstool.lab.modules import unpack_modules
from rdstool.lab.places import cache_folder
from rdstool.lab.tools import call

_KERNEL_PACKAGE = re.compile(r"linux-(?:image|binary|modules|base)-\d\S*")
"""Packages that a kernel consists of: one up to 6.x, image, modules and base apart since 7.0."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a kernel comes from."""

    name: str
    """What the lab calls it."""
    suite: str
    """The suite of Debian whose current kernel it is."""


SOURCES = (
    Source("6.1", "bookworm"),
    Source("6.12", "bookworm-backports"),
    Source("newest", "trixie-backports"),
)
"""The kernels that the interoperability tests run against."""


def fetch_kernel(
    name: str, *, again: bool = False, mirror: str | None = None, say: Callable[[str], None] = lambda line: None
) -> Kernel:
    """The kernel ``name`` of ``SOURCES``, or that of any suite of Debian; from the cache unless ``again``.

    Several processes may ask for the same at once: one does the work. ``say`` is told what goes on.
    Raises ``LabError`` where a program, the mirror or the suite is not to be had.
    """
    kernel = cached_kernel(name)
    if kernel is not None and not again:
        return kernel
    source = next((source for source in SOURCES if source.name == name), Source(name, name))
    if not re.fullmatch(r"[a-z][a-z-]*", source.suite):
        known = ", ".join(source.name for source in SOURCES)
        raise LabError(f"no kernel {name!r} to fetch: choose from {known}, or name a suite of Debian")
    with _alone(cache_folder() / "lock"):
        kernel = cached_kernel(name)  # another process may have brought it meanwhile
        if kernel is not None and not again:
            return kernel
        return _fetch(source, mirror, say)


def _fetch(source: Source, mirror: str | None, say: Callable[[str], None]) -> Kernel:
    apt = PrivateApt(cache_folder() / "apt" / source.suite, source.suite, machine_mirrors(mirror))
    say(f"{source.name}: reading the index of {source.suite}")
    apt.update()
    architecture = call(["dpkg", "--print-architecture"], what="cannot ask dpkg").strip()
    packages = apt.closure(f"linux-image-{architecture}", _KERNEL_PACKAGE)
    version = apt.version(packages[0])
    with new_kernel_folder(source.name) as folder:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".download-") as downloads:
            say(f"{source.name}: downloading {' '.join(packages)} {version}")
            for package in apt.download(packages, Path(downloads)):
                call(["dpkg-deb", "--extract", str(package), str(folder)], what=f"cannot unpack {package.name}")
        release = release_in(folder)
        unpack_modules(modules_base(folder))
        say(f"{source.name}: indexing the modules of {release}")
        call(["depmod", "-b", str(modules_base(folder)), release], what=f"cannot index the modules of {release}")
        write_record(Kernel(source.name, release, f"{packages[0]} {version} ({source.suite})", folder))
    return find_kernel(source.name)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock against other processes of rdstool."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
