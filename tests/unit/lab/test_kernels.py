"""Kernels in the cache: found by name or release, replaced at once, and a user's own among them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdstool.errors import LabError
from rdstool.lab.kernels import (
    Kernel,
    add_kernel,
    cached_kernel,
    find_kernel,
    kernels,
    new_kernel_folder,
    release_in,
    write_record,
)
from rdstool.lab.places import CACHE


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def put(name: str, release: str) -> Kernel:
    with new_kernel_folder(name) as folder:
        (folder / "boot").mkdir()
        (folder / "boot" / f"vmlinuz-{release}").write_bytes(b"image")
        (folder / "lib/modules" / release / "kernel").mkdir(parents=True)
        write_record(Kernel(name, release, "made by hand", folder))
    return find_kernel(name)


def test_kernels_are_listed_by_age() -> None:
    for name, release in (("newest", "7.3.4+deb13-amd64"), ("6.12", "6.12.95+deb12-amd64"), ("6.1", "6.1.0-56-amd64")):
        put(name, release)
    assert [kernel.name for kernel in kernels()] == ["6.1", "6.12", "newest"]


def test_a_kernel_is_found_by_the_beginning_of_its_release() -> None:
    put("newest", "7.3.4+deb13-amd64")
    put("6.12", "6.12.95+deb12-amd64")
    assert find_kernel("7.3").name == "newest"
    assert cached_kernel("6.1") is None


def test_a_kernel_that_is_not_there_comes_with_the_command_that_fetches_it() -> None:
    put("6.12", "6.12.95+deb12-amd64")
    with pytest.raises(LabError, match=r"no kernel '6\.1' here \(there: 6\.12\): rdstool lab fetch 6\.1$"):
        find_kernel("6.1")


def test_a_kernel_replaces_that_of_the_same_name(cache: Path) -> None:
    put("newest", "7.2.1")
    assert put("newest", "7.3.4").release == "7.3.4"
    assert [path.name for path in (cache / "kernels").iterdir()] == ["newest"]


def test_what_fails_half_way_leaves_the_old_kernel(cache: Path) -> None:
    put("newest", "7.2.1")
    with pytest.raises(LabError), new_kernel_folder("newest"):
        raise LabError("the mirror is gone")
    assert find_kernel("newest").release == "7.2.1"
    assert [path.name for path in (cache / "kernels").iterdir()] == ["newest"]


def test_both_layouts_of_debian_are_understood(tmp_path: Path) -> None:
    (tmp_path / "usr/lib/modules/7.3.4/kernel").mkdir(parents=True)
    (tmp_path / "usr/lib/modules/7.3.4/vmlinuz").touch()
    kernel = Kernel("newest", release_in(tmp_path), "", tmp_path)
    assert kernel.image == tmp_path / "usr/lib/modules/7.3.4/vmlinuz"
    assert kernel.modules == tmp_path / "usr/lib/modules/7.3.4"


def test_a_folder_without_modules_is_no_kernel(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="0 kernels with modules"):
        release_in(tmp_path)


def test_a_kernel_of_the_users_own_stays_where_it_is(tmp_path: Path) -> None:
    image, modules = tmp_path / "bzImage", tmp_path / "staging/lib/modules/7.3.0-mine"
    (modules / "kernel").mkdir(parents=True)
    image.write_bytes(b"image")
    with pytest.raises(LabError, match=r"no modules\.dep"):
        add_kernel("mine", image, modules)
    (modules / "modules.dep").touch()
    kernel = add_kernel("mine", image, modules)
    assert kernel.release == "7.3.0-mine"
    assert kernel.image.resolve() == image
    assert (kernel.modules / "modules.dep").exists()


def test_a_record_that_cannot_be_read_is_no_kernel(cache: Path) -> None:
    put("6.1", "6.1.0-56-amd64")
    (cache / "kernels/6.1/kernel.json").write_text("{")
    assert kernels() == []
